"""Reads ``.npy`` files that hold a pickled dict of arrays, the format of the released code's scores.

Nothing in them is executed. Besides plain data, the reader supports the few names that numpy uses to pickle
an array, a dtype and a scalar. They are not imported: each is handled by a case here, which validates sizes
and creates the array itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from prep.datasets.pickles import OPCODES, Machine, loads, read_pickle_file
from prep.errors import PrepError

# numpy 2 moved its modules; files with either path exist.
_MODULES = {"numpy.core.multiarray": "multiarray", "numpy._core.multiarray": "multiarray", "numpy": "numpy"}
_MODULES |= {"numpy.core.numeric": "numeric", "numpy._core.numeric": "numeric", "_codecs": "codecs"}
_MODULES |= {"builtins": "builtins", "__builtin__": "builtins"}
_NAMES = {
    "multiarray._reconstruct", "multiarray.scalar", "numpy.ndarray", "numpy.dtype", "numeric._frombuffer",
    "codecs.encode", "builtins.bytes",
}  # fmt: skip
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Name:
    """One of the names above; a value of the stack machine, never called."""

    name: str


@dataclass
class _Dtype:
    """A dtype under construction: its code without byte order, then with it."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype: numbers, booleans, strings, and ``O`` for lists of values; no other."""
        if not re.fullmatch(r"[biufSU][0-9]{1,6}|O8?|b1", self.code):
            raise ValueError(f"a dtype {self.code[:20]!r}")
        order = "" if self.order in "|=" else self.order
        return np.dtype(f"{order}{self.code}")


@dataclass
class _Pending:
    """An array whose name has been read but not its contents."""

    value: Any = None


def load_object_npy(path: Path) -> Any:
    """The object that ``np.save`` pickled into ``path``; arrays are numpy arrays, scalars Python numbers.

    A dict saved as a 0-dimensional object array, as in the released layout, is returned as the dict. Raises
    :class:`PrepError` if the file holds anything but plain data and arrays.
    """
    data = read_pickle_file(path)
    stream = BytesIO(data)
    try:
        form: Any = np.lib.format
        read = form.read_array_header_1_0 if form.read_magic(stream) == (1, 0) else form.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, SyntaxError, EOFError) as error:
        raise PrepError(
            f"{path} is not an .npy file: {str(error).rstrip('.')}.", "Check that it is the right file."
        ) from error
    if dtype.hasobject:
        value = loads_arrays(data[stream.tell() :], str(path))
        return value.reshape(()).item() if shape == () and isinstance(value, np.ndarray) else value
    try:
        return np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise PrepError(f"{path} is truncated: {str(error).rstrip('.')}.", "Download it again.") from error


def loads_arrays(data: bytes, name: str = "the pickle") -> Any:
    """The plain data and numpy arrays of the pickle ``data``; errors call it ``name``."""
    return _finished(loads(data, name, _ArrayMachine), set())


def _finished(value: Any, seen: set[int]) -> Any:
    """``value`` with every pending array replaced by its contents."""
    if isinstance(value, _Pending):
        if value.value is None:
            raise PrepError("The pickle names an array and never fills it.")
        return _finished(value.value, seen)
    if id(value) in seen:
        return value
    if isinstance(value, (list, dict)) or (isinstance(value, np.ndarray) and value.dtype == object):
        seen.add(id(value))
        flat = value.reshape(-1) if isinstance(value, np.ndarray) else value
        for key in flat if isinstance(flat, dict) else range(len(flat)):
            flat[key] = _finished(flat[key], seen)
    elif isinstance(value, tuple):
        return tuple(_finished(item, seen) for item in value)
    elif isinstance(value, (_Name, _Dtype)):
        raise PrepError("The pickle contains the name of a numpy type where a value is expected.")
    return value


class _ArrayMachine(Machine):
    """The pickle stack machine, extended by the four opcodes that numpy's pickles need, as cases below."""

    def opcodes(self) -> list[Callable[[Any], Any] | None]:
        """The data opcodes and these."""
        table: list[Callable[[Any], Any] | None] = list(OPCODES)
        for code, action in (
            (b"c", _ArrayMachine._global),
            (b"\x93", _ArrayMachine._stack_global),
            (b"R", _ArrayMachine._reduce),
            (b"b", _ArrayMachine._build),
        ):
            table[code[0]] = action
        return table

    def _named(self, module: str, name: str) -> None:
        known = f"{_MODULES.get(module, '?')}.{name}"
        if known not in _NAMES:
            self.refuse_name(f"{module}.{name}")
        self.push(_Name(known))

    def _global(self) -> None:
        module, name = self.line().decode("utf-8", "replace"), self.line().decode("utf-8", "replace")
        self._named(module, name)

    def _stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self._named(str(module), str(name))

    def _reduce(self) -> None:
        arguments, named = self.pop(), self.pop()
        if not isinstance(named, _Name) or not isinstance(arguments, tuple):
            raise ValueError(f"byte {self.at}: a call of a {type(named).__name__}")
        if named.name == "multiarray._reconstruct":
            self.push(_Pending())
        elif named.name == "numpy.dtype":
            self.push(_Dtype(str(arguments[0])))
        elif named.name == "multiarray.scalar":
            self.push(_array(arguments[0], (), arguments[1], False).item())
        elif named.name == "numeric._frombuffer":
            buffer, dtype, shape, order = arguments
            self.push(_array(dtype, shape, bytes(buffer), order == "F"))
        elif named.name == "codecs.encode" and isinstance(arguments[0], str) and arguments[1] == "latin1":
            self.push(arguments[0].encode("latin-1"))
        elif named.name == "builtins.bytes" and not arguments:
            self.push(b"")
        else:
            raise ValueError(f"byte {self.at}: a call of {named.name}")

    def _build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1:
            if state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
                raise ValueError(f"byte {self.at}: a dtype with fields or another byte order")
            target.order = state[1]
        elif (
            isinstance(target, _Pending)
            and target.value is None
            and isinstance(state, tuple)
            and len(state) == 5
        ):
            _, shape, dtype, fortran, content = state
            target.value = _array(dtype, shape, content, bool(fortran))
        else:
            raise ValueError(f"byte {self.at}: a state for a {type(target).__name__}")


def _array(dtype: Any, shape: Any, content: Any, fortran: bool) -> np.ndarray[Any, Any]:
    """The array described by its pickled parts; :class:`ValueError` if they are inconsistent."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array without dtype or shape")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"an array of shape {str(shape)[:40]}")
    made = dtype.numpy()
    count = math.prod(shape)
    if made.hasobject:
        if not isinstance(content, list) or len(content) != count:
            raise ValueError("an array of objects without its list")
        flat = np.empty(count, dtype=object)
        for at, item in enumerate(content):
            flat[at] = item
    else:
        if (
            not isinstance(content, bytes)
            or len(content) != count * made.itemsize
            or len(content) > MAX_BYTES
        ):
            raise ValueError(f"an array of {count} x {made} without as many bytes")
        flat = np.frombuffer(content, dtype=made).copy()
    return flat.reshape(shape, order="F" if fortran else "C")
