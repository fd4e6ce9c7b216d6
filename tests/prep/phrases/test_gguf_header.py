"""The header of a GGUF file: honest ones pass, and no count in it is believed."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.phrases.gguf_header import check_header
from tests.limits import limited

U8, U32, F32, BOOL, TEXT, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def text(value: str | int) -> bytes:
    """A text with its length, or only the length of one."""
    data = value.encode() if isinstance(value, str) else b""
    return struct.pack("<Q", value if isinstance(value, int) else len(data)) + data


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str, *shape: int, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", 0, offset)


def gguf(*entries: bytes, tensors: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None) -> bytes:
    told = counts or (len(tensors), len(entries))
    return b"GGUF" + struct.pack("<IQQ", 3, *told) + b"".join(entries) + b"".join(tensors)


HONEST = gguf(
    entry("general.architecture", TEXT, text("llama")),
    entry("general.alignment", U32, struct.pack("<I", 32)),
    entry("tokens", ARRAY, array(TEXT, 3, text("a") + text("") + text("é"))),
    entry("scores", ARRAY, array(F32, 3, struct.pack("<3f", 1, 2, 3))),
    entry("add_bos", BOOL, b"\1"),
    entry("empty", ARRAY, array(U64, 0)),
    tensors=(tensor("weight", 8, 4), tensor("scale", 1, offset=128)),
) + bytes(256)  # fmt: skip

TOO_MUCH = {
    # Public reports: llama.cpp 27188 (43 bytes that make gguf 0.19 hang) and 25378.
    "array": gguf(entry("a", ARRAY, array(U8, 1 << 63))),
    "texts": gguf(entry("a", ARRAY, array(TEXT, 1 << 62))),
    "name": gguf(text(1 << 63), counts=(0, 1)),
    "text": gguf(entry("a", TEXT, text((1 << 64) - 1))),
    "entries": gguf(counts=(0, 1 << 63)),
    "tensors": gguf(counts=(1 << 63, 0)),
    "arrays": gguf(entry("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"x")))),
    "kind": gguf(entry("a", 99, b"")),
    "dimensions": gguf(tensors=(text("a") + struct.pack("<I", (1 << 32) - 1),), counts=(1, 0)) + bytes(64),
    "elements": gguf(tensors=(tensor("a", 1 << 42, 1 << 22),)),  # their product is 0 in 64 bits
    "offset": gguf(tensors=(tensor("a", 1, offset=1 << 40),)),
    "version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "magic": b"PK\3\4" + bytes(64),
    "nothing": b"",
}


def test_an_honest_header_passes(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(HONEST)
    check_header(tmp_path / "a.gguf")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("data", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_header_that_says_more_than_there_is_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=r"^(it|its|a) "):
        check_header(tmp_path / "a.gguf")


@pytest.mark.timeout(60)
@settings(max_examples=300)
@given(place=st.integers(0, len(HONEST) - 1), number=st.binary(min_size=1, max_size=8), cut=st.booleans())
@limited()
def test_a_damaged_header_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, number: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(HONEST[:place] if cut else HONEST[:place] + number + HONEST[place + len(number) :])
    with contextlib.suppress(ValueError):
        check_header(path)
