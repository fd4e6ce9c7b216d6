"""Small hostile pickles: each is refused within seconds and little memory, and none ends the process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest

from prep.datasets.object_npy import loads_arrays
from prep.datasets.pickles import MAX_BYTES, Reader, load_pickle, loads
from prep.errors import PrepError

# Reads each file in a process of its own, with 1 GiB above its imports and 20 seconds of the processor.
PROGRAM = """
import json, os, resource, sys
from pathlib import Path
from prep.datasets.object_npy import load_object_npy
from prep.datasets.refer import RefDataset
from prep.errors import PrepError

size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end="\\t", flush=True)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            dataset = RefDataset(path.parent, "refcoco", "unc", path)
            value = load_object_npy(path) if path.suffix == ".npy" else dataset.refs
            answer = "read"
            del value
        except PrepError as error:
            answer = str(error)
        except BaseException as error:
            answer = f"{type(error).__name__} escapes"
        print(json.dumps(answer), flush=True)
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        print(json.dumps(f"ended with status {status}"), flush=True)
"""


def _nested_twice(times: int) -> bytes:
    """A tuple that holds the one before twice, ``times`` times over."""
    return b"N" + b"2\x86" * times


def _same_hash(count: int, after: bytes) -> bytes:
    """Integers that all have the hash 0."""
    numbers = (at * ((1 << 61) - 1) for at in range(1 << 20, (1 << 20) + count))
    return b"".join(b"\x8a\x0c" + number.to_bytes(12, "little") + after for number in numbers)


def _dict(key: bytes, value: bytes) -> bytes:
    return b"}X" + pack("<I", len(key)) + key + value + b"s"


def _npy(content: bytes, descr: str = "|O", shape: tuple[int, ...] = ()) -> bytes:
    file = BytesIO()
    file.write(b"\x93NUMPY\x01\x00")
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    file.write(pack("<H", len(header) + 1) + header + b"\n" + content)
    return file.getvalue()


LONG_TEXT = b"X" + pack("<I", 1 << 20) + b"a" * (1 << 20)
SENTENCES = b"](" + _dict(b"sent", b"X\x01\x00\x00\x00a") + b"2" * 4000 + b"e"

HOSTILE = {
    "a key whose hash doubles": b"}" + _nested_twice(100) + b"Ns.",
    "keys whose hash doubles": b"}(" + _nested_twice(100) + b"Nu.",
    "a key of a new dict whose hash doubles": b"(" + _nested_twice(100) + b"Nd.",
    "a member whose hash doubles": b"\x8f(" + _nested_twice(100) + b"\x90.",
    "a frozen member whose hash doubles": b"(" + _nested_twice(100) + b"\x91.",
    "a key that is deeply nested": b"}N" + b"\x85" * (1 << 20) + b"Ns.",
    "keys of the same hash": b"}(" + _same_hash(100_000, b"N") + b"u.",
    "members of the same hash": b"\x8f(" + _same_hash(100_000, b"") + b"\x90.",
    "many tuples as keys": b"}(" + b"".join(b"J" + pack("<i", at) + b"\x85N" for at in range(99_999)) + b"u.",
    "a huge number as a key": b"}(\x8b" + pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b"2" * 99_999 + b"u.",
    "lists that double": b"]q\x00" + b"(h\x00h\x00lq\x00" * 60 + b".",
    "tuples that double": b"(" + _nested_twice(60) + b"l.",
    "marks in marks": b"(" * (1 << 23),
    "lists in lists": b"]" * (1 << 20) + b"a" * ((1 << 20) - 1) + b".",
    "tuples in tuples": b"N" + b"\x85" * (1 << 20) + b"\x85.",
    "dicts in dicts": b"}N" * (1 << 20) + b"N" + b"s" * (1 << 20) + b".",
    "a list in itself": b"]q\x01h\x01a.",
    "sentences in 8 KB that expand to 16 million": b"]("
    + _dict(b"sentences", SENTENCES)
    + b"2" * 4000
    + b"e.",
    "a text of 1 MB used 100,000 times": b"](" + LONG_TEXT + b"2" * 100_000 + b"e.",
    "empty sets": b"\x8f" * (1 << 23) + b".",
    "a memo number of 4 billion": b"Nr\xff\xff\xff\xff.",
    "bytes of 4 EiB": b"\x8e" + pack("<Q", 1 << 62) + b".",
    "a bytearray of 1 TiB": b"\x96" + pack("<Q", 1 << 40) + b".",
    "a frame of 1 TiB": b"\x95" + pack("<Q", 1 << 40) + b"N.",
    "a text of 4 GiB": b"X" + pack("<I", (1 << 32) - 1) + b".",
    "a number of 2 GiB": b"\x8b" + pack("<I", (1 << 31) - 1) + b".",
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a name that is an object": _nested_twice(60) + b"2\x93.",
    "a name of 1 MB": b"c" + b"a" * (1 << 20) + b"\nb\n.",
    "a state of a list": b"]}b.",
    "a call of a list": b"])R.",
    "a new object": b"cbuiltins\nint\n)\x81.",
    "an extension": b"\x82\x01.",
    "a persistent object": b"P1\n.",
}
ARRAY, ARRAY_ARGUMENTS = b"cnumpy._core.multiarray\n_reconstruct\n", b"(cnumpy\nndarray\n(K\x00tC\x01btR"
FLOAT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR"
STATE = b"(K\x01(K\x02t" + FLOAT + b"\x89C\x08\x00\x00\x00\x00\x00\x00\x80?t"
NEGATIVE_SIDES = b"(J" + pack("<i", -1) + b"J" + pack("<i", -2) + b"t"
HOSTILE_NPY = {
    "a buffer that is a number": b"cnumpy.core.numeric\n_frombuffer\n(\x8a\x06" + pack("<Q", 1 << 40)[:6]
    + FLOAT + b"(K\x01tX\x01\x00\x00\x00CtR.",
    "bytes of a number": b"c__builtin__\nbytes\n(\x8a\x06" + pack("<Q", 1 << 40)[:6] + b"tR.",
    "a dtype whose code is an object": b"cnumpy\ndtype\n(" + _nested_twice(60) + b"tR.",
    "a shape without contents": ARRAY + ARRAY_ARGUMENTS
    + b"(K\x01(\x8a\x06" + pack("<Q", 1 << 40)[:6] + b"t" + FLOAT + b"\x89C\x00tb.",
    "a shape of nested tuples": ARRAY + ARRAY_ARGUMENTS
    + b"(K\x01" + _nested_twice(60) + FLOAT + b"\x89C\x00tb.",
    "negative sides": ARRAY + ARRAY_ARGUMENTS + b"(K\x01" + NEGATIVE_SIDES + FLOAT + b"\x89C\x08aaaaaaaatb.",
    "a dtype with fields": FLOAT
    + b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00aNJ\xff\xff\xff\xffK\x01K\x00tb.",
    "items of no size": ARRAY + ARRAY_ARGUMENTS
    + b"(K\x01(\x8a\x06" + pack("<Q", 1 << 40)[:6] + b"tcnumpy\ndtype\n(X\x02\x00\x00\x00S0tR\x89C\x00tb.",
    "an array that is never filled": ARRAY + ARRAY_ARGUMENTS + b".",
    "an array that is filled twice": ARRAY + ARRAY_ARGUMENTS + STATE + b"b" + STATE + b"b.",
    "attributes of a function": b"cnumpy\ndtype\n(N}X\x0c\x00\x00\x00__defaults__Nstb.",
    "a new dtype": b"cnumpy\ndtype\n)\x81.",
    "items of an array": ARRAY + ARRAY_ARGUMENTS + STATE + b"bK\x00" + _nested_twice(60) + b"s.",
    "letters that do not exist": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00U1tR"
    b"C\x04\xff\xff\xff\xfftR.",
    "lists that double": HOSTILE["lists that double"],
}  # fmt: skip
FILES = {
    **{f"{name}.p": data for name, data in HOSTILE.items()},
    **{f"{name}.npy": _npy(data) for name, data in HOSTILE_NPY.items()},
    "numbers of 1 TiB.npy": _npy(b"", "|u1", (1 << 40,)),
    "sides whose product overflows.npy": _npy(b"", "<f4", (1 << 62, 1 << 62, 0)),
    "a header that is no expression.npy": b"\x93NUMPY\x01\x00" + pack("<H", 4) + b"((((",
    "a header of signs.npy": b"\x93NUMPY\x01\x00" + pack("<H", 9001) + b"-" * 9000 + b"1",
}
# What is read after all: nothing in it takes memory or time.
HARMLESS = {"a memo number of 4 billion.p", "a frame of 1 TiB.p"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each file is answered with."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    with (folder / "more than is read.p").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout
    return {name: json.loads(answer) for name, answer in (line.split("\t") for line in output.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "more than is read.p"])
def test_a_small_hostile_file_is_refused(name: str, answers: dict[str, str]) -> None:
    answer = answers[name]
    if name in HARMLESS:
        assert "contains a NoneType, not a list" in answer
    else:
        refusals = ("is refused", "is not a whole pickle", "is not an .npy file", "is truncated")
        assert any(words in answer for words in refusals)
        assert len(answer) < 1000


def test_containers_and_memo_entries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "max_objects", 100)
    for opcodes in (
        b"]",
        b"}",
        b"\x8f",
        b"(l",
        b"(d",
        b"(t",
        b"(\x91",
        b"N\x85",
        b"N\x94",
        b"Nq\x00",
        b"Np0\n",
    ):
        assert loads(opcodes * 50 + b"N.") is None
        with pytest.raises(PrepError, match="more than 100 containers"):
            loads(opcodes * 101 + b"N.")


@pytest.mark.parametrize("store", [b"%bNs", b"(%bNu"], ids=["SETITEM", "SETITEMS"])
def test_what_a_dict_is_filled_with_is_checked_one_by_one(
    store: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"(" + b"N" * 17 + b"t"
    with pytest.raises(PrepError, match="a key that is not a short scalar"):
        loads(b"}" + store % key + b".")
    with pytest.raises(PrepError, match="a list instead of dict"):
        loads(b"]" + store % b"K\x01" + b".")
    assert loads(b"}" + store % b"K\x01" + b".") == {1: None}
    monkeypatch.setattr(Reader, "max_objects", 100)
    with pytest.raises(PrepError, match="more than 100 containers"):
        loads(b"}" + store % b"K\x01" * 100 + b".")


@pytest.mark.parametrize(
    "made", [b"(%bNd.", b"(%b\x91.", b"\x8f(%b\x90."], ids=["DICT", "FROZENSET", "ADDITEMS"]
)
def test_what_is_made_of_keys_at_once_is_checked_too(made: bytes) -> None:
    """The opcodes that only old or hand-made pickles have; one key is a tuple of 17, or has 2 KiB."""
    for key in (b"(" + b"N" * 17 + b"t", b"\x8b\x00\x08\x00\x00" + b"\x7f" * 2048):
        with pytest.raises(PrepError, match="a key that is not a short scalar"):
            loads(made % key)
    assert 1 in loads(made % b"K\x01")


def test_what_shares_and_nests_within_reason_is_read(tmp_path: Path) -> None:
    deep: Any = "leaf"
    for _ in range(90):
        deep = [deep]
    word = ["a"] * 1000
    value = [deep, *[word] * 1000, {(1, "a"): 2, 1 << 80: 3, None: 4, 0.5: 5, b"": 6}, {1, (2, 3)}]
    (tmp_path / "a.p").write_bytes(pickle.dumps(value))
    assert load_pickle(tmp_path / "a.p") == value
    objects = np.array([[1], "a", {"b": np.arange(3)}, None], dtype=object)
    read = loads_arrays(pickle.dumps(objects))
    assert (read[0], read[1], list(read[2]["b"]), read[3]) == ([1], "a", [0, 1, 2], None)
    assert read.shape == (4,)
