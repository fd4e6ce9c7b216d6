"""Checks that the header of a GGUF file describes what the file holds, before anything reads it."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from prep.inputs import open_plain

# Bytes of a value of each type of the format's specification; texts and arrays have a length of their own.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
MAX_DIMENSIONS = 4
# The most that a quantisation of the format packs into a byte is five.
ELEMENTS_PER_BYTE = 8


def check_header(path: Path) -> None:
    """Raise ValueError for a file that is not GGUF, or whose lengths and counts go past its end.

    The package ``gguf`` trusts them: an array of 2^63 elements in a file of 43 bytes makes it hang.
    """
    with open_plain(path) as file:
        header = _Header(file, path.stat().st_size)
        if header.take(4) != b"GGUF" or header.number("<I") not in (2, 3):
            raise ValueError("it is not a GGUF file of version 2 or 3")
        tensors, values = header.number("<Q"), header.number("<Q")
        # A name's length and a type; a tensor also has its dimensions and where it is.
        header.expect(values, 12)
        for _ in range(values):
            header.text()
            header.value(header.number("<I"))
        header.expect(tensors, 24)
        elements = 0
        for _ in range(tensors):
            header.text()
            if (dimensions := header.number("<I")) > MAX_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            elements += math.prod(header.number("<Q") for _ in range(dimensions))
            header.take(4)
            if header.number("<Q") > header.size:
                raise ValueError("a tensor is beyond its end")
        if elements > ELEMENTS_PER_BYTE * header.size:
            raise ValueError(f"its tensors have {elements} elements, in {header.size} bytes")


class _Header:
    """A file that is read from its beginning on, and never past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self._left = file, size, size

    def expect(self, count: int, each: int) -> None:
        """Raise ValueError if ``count`` things of ``each`` bytes or more do not fit into the rest."""
        if count * each > self._left:
            raise ValueError(f"its header says that {count} entries follow, where {self._left} bytes do")

    def take(self, count: int) -> bytes:
        self.expect(count, 1)
        self._left -= count
        return self._file.read(count)

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> None:
        self.take(self.number("<Q"))

    def value(self, kind: int) -> None:
        """Read a value, or an array of numbers or texts: no model has arrays of arrays."""
        if kind == _ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            self.expect(count, 8 if kind == _TEXT else 1)
        else:
            count = 1
        if kind == _TEXT:
            for _ in range(count):
                self.text()
        elif kind in _SIZES:
            self.take(count * _SIZES[kind])
        else:
            raise ValueError(f"it has a value of type {kind}")
