"""The restricted unpickler against the standard one: equal on plain data, PrepError on everything else."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.datasets.pickles import load_pickle, loads
from prep.errors import PrepError
from tests.limits import limited

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 2100), 1 << 2100)
    | st.integers(-300, 70_000)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
keys = st.integers() | st.text(max_size=5)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=20,
)


def _needs_no_call(data: bytes) -> bool:
    """Older protocols have no opcode for bytes and sets and call a function instead."""
    return not any(op.name in ("GLOBAL", "REDUCE") for op, _, _ in pickletools.genops(data))


@given(plain, st.integers(0, 5))
def test_plain_data_reads_as_the_standard_reader_reads_it(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    if _needs_no_call(data):
        assert loads(data) == pickle.loads(data) == value
    else:
        with pytest.raises(PrepError, match="plain data"):
            loads(data)


def test_references_to_the_same_object_are_kept_even_in_a_cycle() -> None:
    shared: list[object] = [1]
    shared.append(shared)
    read = loads(pickle.dumps([shared, shared], protocol=2))
    assert read[0] is read[1] is read[0][1]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (os.system, "system"),
        (OrderedDict(a=1), "OrderedDict"),
        (date(2024, 1, 2), "date"),
        (np.float64(1.5), "scalar"),
        (PrepError("x"), "PrepError"),
    ],
    ids=["function", "class", "date", "numpy", "instance"],
)
def test_anything_else_is_refused_by_name(value: object, name: str, protocol: int) -> None:
    with pytest.raises(PrepError, match=name):
        loads(pickle.dumps([value], protocol=protocol))


def test_a_call_is_never_made(tmp_path: Path) -> None:
    witness = tmp_path / "called"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(witness),)

    for protocol in range(6):
        with pytest.raises(PrepError, match="mkdir"):
            loads(pickle.dumps({"refs": [Hostile()]}, protocol=protocol))
    assert not witness.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"(.",
        b"}]s.",
        b"X\xff\xff\xff\x7fa.",
        b"h\x07.",
        b"I1",
        b"e.",
        b"\xff",
        b"S'a\n.",
    ],
)
def test_a_broken_pickle_is_an_error_in_words(data: bytes) -> None:
    with pytest.raises(PrepError, match="not a whole pickle"):
        loads(data)


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")))
@given(plain, st.integers(0, 5), st.data())
@limited()
def test_nothing_but_our_error_escapes_from_damaged_pickles(
    value: object, protocol: int, data: st.DataObject
) -> None:
    whole = bytearray(pickle.dumps(value, protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PrepError):
        loads(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")))
@given(st.lists(st.sampled_from([bytes([code]) for code in range(256)]), max_size=40).map(b"".join))
@limited()
def test_nothing_but_our_error_escapes_from_any_bytes(data: bytes) -> None:
    with suppress(PrepError):
        loads(data)


def test_a_huge_memo_number_or_length_takes_no_memory() -> None:
    # The standard reader fills a table of that many places for the first of these: 64 GiB.
    assert loads(b"Nr\xff\xff\xff\xff.") is None
    with pytest.raises(PrepError, match="ends before its STOP"):
        loads(b"\x8e" + b"\xff" * 7 + b"\x00.")


def test_files_that_are_missing_or_pointers_are_named(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"none\.p cannot be read"):
        load_pickle(tmp_path / "none.p")
    pointer = tmp_path / "refs(unc).p"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(PrepError, match="LFS pointer"):
        load_pickle(pointer)


def test_the_real_files_read_as_the_standard_reader_reads_them(shared: Path) -> None:
    files = [*(shared / "data/formats").glob("*.p"), *(shared / "data/coco/refer").glob("*/*.p")]
    assert len(files) >= 4
    for file in files:
        assert load_pickle(file) == pickle.loads(file.read_bytes())
