"""Reads ``.npy`` files that hold a pickled dict of arrays, the format of the released code's scores.

Nothing in them is executed. Besides plain data, the reader supports the few names that numpy uses to pickle
an array, a dtype and a scalar. They are not imported, as numpy's own accept sizes that do not fit together:
each stands for a function of this file, which validates the parts and creates the array.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
import tokenize
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prep.datasets.pickles import CODES, Handler, Reader, loads, read_pickle_file
from prep.errors import PrepError

Array = npt.NDArray[np.generic]
# Larger than for references, as the contents of arrays take no more memory than they do in the file.
MAX_BYTES = 1 << 30
# What the parser of a header raises on arbitrary bytes.
HEADER_ERRORS = (
    ArithmeticError, EOFError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError,
    tokenize.TokenError,
)  # fmt: skip


@dataclass
class _Dtype:
    """A dtype under construction: its code without byte order, then with it."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype: numbers, booleans, strings, and ``O`` for lists of values; no other."""
        if not re.fullmatch(r"[biufSU][1-9][0-9]{0,5}|O8?", self.code):
            raise ValueError(f"a dtype {self.code[:20]!r}")
        order = "" if self.order in "|=" else self.order
        return np.dtype(f"{order}{self.code}")


def load_object_npy(path: Path) -> Any:
    """The object that ``np.save`` pickled into ``path``; arrays are numpy arrays, scalars Python numbers.

    A dict saved as a 0-dimensional object array, as in the released layout, is returned as the dict. Raises
    :class:`PrepError` if the file holds anything but plain data and arrays.
    """
    data = read_pickle_file(path, MAX_BYTES)
    stream = BytesIO(data)
    try:
        form: Any = np.lib.format
        read = form.read_array_header_1_0 if form.read_magic(stream) == (1, 0) else form.read_array_header_2_0
        shape, _, dtype = read(stream)
    except HEADER_ERRORS as error:
        raise PrepError(
            f"{path} is not an .npy file: {str(error)[:200].rstrip('.')}.", "Check that it is the right file."
        ) from error
    content = data[stream.tell() :]
    if dtype.hasobject:
        value = loads_arrays(content, str(path))
        if shape != () or not isinstance(value, np.ndarray):
            return value
        if value.size != 1:
            raise PrepError(f"{path} holds an array of another shape than it says.", "Download it again.")
        return value.item()
    # numpy allocates the array before it reads the contents.
    if len(content) != dtype.itemsize * math.prod(shape):
        raise PrepError(f"{path} is truncated, or longer than its array.", "Download it again.")
    try:
        return np.load(BytesIO(data), allow_pickle=False)
    except HEADER_ERRORS as error:
        raise PrepError(f"{path} is truncated: {str(error).rstrip('.')}.", "Download it again.") from error


def loads_arrays(data: bytes, name: str = "the pickle") -> object:
    """The plain data and numpy arrays of the pickle ``data``; errors call it ``name``."""
    return loads(data, name, _ArrayReader, bounded=True)


class _ArrayReader(Reader):
    """The reader of plain data, extended by the two opcodes that numpy's pickles need."""

    max_objects: ClassVar[int] = 2 * Reader.max_objects  # each array is pickled with a dozen of them

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name)
        self.empty: dict[int, Array] = {}  # the arrays that wait for their contents

    def load(self) -> object:
        """The value, with every array filled."""
        value = super().load()
        if self.empty:
            raise ValueError("it names an array and never fills it")
        return value

    def find_class(self, module: str, name: str) -> object:
        """The function of this file for one of numpy's names; every other one is refused."""
        # numpy 2 moved its modules; files with either path exist.
        place = module.replace("numpy.core.", "numpy._core.", 1).replace("__builtin__", "builtins", 1)
        if (place, name) == ("numpy._core.multiarray", "_reconstruct"):
            return self._reconstruct
        if (place, name) not in _FUNCTIONS:
            return super().find_class(module, name)
        return _FUNCTIONS[place, name]

    def _reconstruct(self, *_: object) -> Array:
        self.count()
        array = np.empty(0)
        self.empty[id(array)] = array
        return array

    def load_build(self) -> None:
        """Set the byte order of a dtype or the contents of a new array."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is _Dtype and type(state) is tuple and len(state) > 1:
            if state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
                raise ValueError("a dtype with fields or another byte order")
            target.order = state[1]
        elif id(target) in self.empty and type(state) is tuple and len(state) == 5:
            _, shape, dtype, fortran, content = state
            made = _array(dtype, shape, content, bool(fortran))
            # The state that numpy gives a valid array: the only one that its reader may see.
            valid: Any = made.__reduce__()[2]
            array: Any = self.empty.pop(id(target))
            array.__setstate__(valid)
            if array.dtype != made.dtype:  # numpy's reader has changed the byte order to this machine's
                array.byteswap(inplace=True)
                array.dtype = made.dtype
        else:
            raise ValueError(f"a state for a {type(target).__name__}")

    dispatch: ClassVar[dict[int, Handler]] = {
        **Reader.dispatch,
        CODES["REDUCE"]: pickle._Unpickler.dispatch[CODES["REDUCE"]],
        CODES["BUILD"]: load_build,
    }


def _dtype(code: object, *_: object) -> _Dtype:
    if type(code) is not str:
        raise ValueError("a dtype without a code")
    return _Dtype(code)


def _scalar(dtype: object, content: object) -> object:
    return _array(dtype, (), content, False).item()


def _frombuffer(content: object, dtype: object, shape: object, order: object) -> Array:
    return _array(dtype, shape, bytes(content) if type(content) is bytearray else content, order == "F")


def _encode(text: object, coding: object) -> bytes:
    if type(text) is not str or coding != "latin1":
        raise ValueError("an encoded string in another encoding")
    return text.encode("latin-1")


_FUNCTIONS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): object(),  # an argument of _reconstruct
    ("numpy", "dtype"): _dtype,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",
}


def _array(dtype: object, shape: object, content: object, fortran: bool) -> Array:
    """The array described by its pickled parts; :class:`ValueError` if they are inconsistent."""
    if type(dtype) is not _Dtype or type(shape) is not tuple or len(shape) > 32:
        raise ValueError("an array without dtype or shape")
    if any(type(side) is not int or not 0 <= side < 1 << 48 for side in shape):
        raise ValueError("an array of an impossible shape")
    made = dtype.numpy()
    count = math.prod(shape)
    if made.hasobject:
        if not isinstance(content, list) or len(content) != count:
            raise ValueError("an array of objects without its list")
        flat = np.empty(count, dtype=object)
        for at, item in enumerate(content):
            flat[at] = item
    else:
        if type(content) is not bytes or len(content) != count * made.itemsize:
            raise ValueError(f"an array of {count} x {made} without as many bytes")
        flat = np.frombuffer(content, dtype=made).copy()
        if (
            made.kind == "U"
            and (flat.view(np.dtype("u4").newbyteorder(made.byteorder)) > sys.maxunicode).any()
        ):
            raise ValueError("an array of letters that do not exist")
    return flat.reshape(shape, order="F" if fortran else "C")
