"""Reads pickles that hold only containers, numbers and strings, and rejects every other one by name.

A pickle is a program. It is run by Python's own reader, without the opcodes that could import, call or set
anything. The class is the one written in Python, as the one written in C cannot be limited from outside: a
memo number of 4 billion makes it allocate 64 GiB, and a key of nested tuples makes it hash without end.
"""

from __future__ import annotations

import gc
import pickle
import pickletools
from collections.abc import Callable, Iterator, Sequence
from errno import EFBIG
from functools import partial
from io import BytesIO
from pathlib import Path
from struct import error as StructError
from typing import Any, ClassVar, NoReturn, TypeAlias

import numpy as np

from prep.errors import PrepError
from prep.inputs import LFS_POINTER, lfs_pointer, read_plain

# A file of 50,000 references has up to 45 MiB, with 4 million containers, keys and memo entries. Within these
# limits no file makes Python hold more than about 4 GiB.
MAX_BYTES = 1 << 27
MAX_OBJECTS = 1 << 24
# 1 for each value, 4 for each container and 1 for 16 characters, where an object that is used twice counts
# twice: 6 million for 50,000 references.
MAX_EXPANDED = 1 << 25
MAX_DEPTH = 100
# Numbers over 64 bits and tuples can be chosen to have equal hashes, so there are few of them among the keys.
MAX_KEY, MAX_ODD_KEYS = 4096, 4096

Handler: TypeAlias = Callable[[Any], None]  # of an opcode: takes the reader, of this class or a derived one
TEXTS = frozenset((str, bytes, bytearray))
SCALARS = TEXTS | {type(None), bool, int, float}


def load_pickle(path: Path) -> Any:
    """The plain data pickled in ``path``; :class:`PrepError` if missing, broken or holding anything else."""
    return loads(read_pickle_file(path), str(path), bounded=True)


def read_pickle_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file of at most ``limit`` bytes that is not a Git LFS pointer."""
    try:
        data = read_plain(path, limit)
    except OSError as error:
        if error.errno == EFBIG:
            refuse(str(path), f"it has more than {limit >> 20:,} MiB")
        raise PrepError(f"{path} cannot be read: {error.strerror or error}.") from error
    if data.startswith(LFS_POINTER):
        raise lfs_pointer(path)
    return data


def refuse(name: str, reason: str) -> NoReturn:
    """Raise the error of data that is too large to be a dataset's."""
    raise PrepError(f"{name} is refused: {reason}.", "Check that it is the right file.")


def loads(
    data: bytes, name: str = "the pickle", reader: type[Reader] | None = None, *, bounded: bool = False
) -> object:
    """The data of the pickle ``data``; errors call it ``name``. ``reader`` may support more opcodes.

    ``bounded``: also raise an error if it is nested deeply or in itself, or is huge where all uses count.
    """
    # A list of references is a few million small live objects; collecting them only costs time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = (reader or Reader)(data, name).load()
        if bounded:
            check_expanded(value, name)
        return value
    except PrepError:
        raise
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, StructError,
        TypeError, ValueError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        ended = "it ends before its STOP" if isinstance(error, EOFError) else type(error).__name__
        reason = str(error)[:200].rstrip(".") or ended
        raise PrepError(
            f"{name} is not a whole pickle: {reason}.",
            "Download it again: it may be truncated or a different kind of file.",
        ) from error
    finally:
        if collecting:
            gc.enable()


class Reader(pickle._Unpickler):
    """Python's reader with the data-building opcodes only, and with limits on what they build."""

    dispatch: ClassVar[dict[int, Handler]] = {}  # filled below
    max_objects: ClassVar[int] = MAX_OBJECTS
    stack: list[object]
    metastack: list[list[object]]
    append: Callable[[object], None]
    read: Callable[[int], bytes]

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(BytesIO(data))
        self.name, self.objects, self.odd_keys = name, 0, 0

    def count(self, more: int = 1) -> None:
        """Count containers, keys and memo entries; raise an error if there are too many."""
        self.objects += more
        if self.objects > self.max_objects:
            refuse(self.name, f"it has more than {self.max_objects:,} containers, keys and memo entries")

    def find_class(self, module: str, name: str) -> object:
        """Refuse everything that the pickle asks for by name."""
        self.refuse_name(f"{module[:100]}.{name[:100]}")

    def refuse_name(self, wanted: str) -> NoReturn:
        """Raise an error with what the pickle asks for."""
        raise PrepError(
            f"{self.name} is refused: it asks for {wanted!r}, and only plain data is allowed.",
            "Do not load it with pickle: that would run code. Download the file from the dataset's own page.",
        )

    def _decode_string(self, raw: bytes) -> str:
        # Python 2's str: ASCII in these files, or whatever the annotator typed otherwise.
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def check_depth(self) -> None:
        """Raise an error if too many containers are open at once."""
        if len(self.metastack) >= MAX_DEPTH:
            refuse(self.name, f"it is nested more than {MAX_DEPTH} deep")

    def check(self, kind: type, target: object, keys: Sequence[object] = ()) -> None:
        """Raise an error if ``target`` is no ``kind`` or a key would be slow to hash or to compare."""
        self.count(1 + len(keys))
        if type(target) is not kind:
            raise TypeError(f"a {type(target).__name__} instead of {kind.__name__}")
        for key in keys:
            if type(key) is str and len(key) <= MAX_KEY:
                continue
            parts = key if type(key) is tuple else (key,)
            if len(parts) > 16 or not all(map(_is_short, parts)):
                raise TypeError("a key that is not a short scalar or a tuple of them")
            self.odd_keys += parts is key or (type(key) is int and key.bit_length() > 64)
            if self.odd_keys > MAX_ODD_KEYS:
                refuse(self.name, f"more than {MAX_ODD_KEYS:,} keys are tuples or huge numbers")


def _is_short(key: object) -> bool:
    if type(key) is int:
        return key.bit_length() <= MAX_KEY
    return type(key) in (type(None), bool, float) or (
        (type(key) is str or type(key) is bytes) and len(key) <= MAX_KEY
    )


def _bytearray(reader: Reader) -> None:
    reader.append(bytearray(reader.read(int.from_bytes(reader.read(8), "little"))))


_UNCHECKED = (
    "PROTO", "STOP", "POP", "POP_MARK", "DUP", "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "GLOBAL", "STACK_GLOBAL",
)  # fmt: skip
_ALLOCATING = (
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "EMPTY_LIST", "LIST", "EMPTY_DICT", "EMPTY_SET", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3",
)  # fmt: skip
_CHECKED: dict[str, Callable[[Reader], None]] = {
    **dict.fromkeys(_ALLOCATING, Reader.count),
    "MARK": Reader.check_depth,
    "APPEND": lambda reader: reader.check(list, reader.stack[-2]),
    "APPENDS": lambda reader: reader.check(list, reader.metastack[-1][-1]),
    "SETITEM": lambda reader: reader.check(dict, reader.stack[-3], reader.stack[-2:-1]),
    "SETITEMS": lambda reader: reader.check(dict, reader.metastack[-1][-1], reader.stack[::2]),
    "ADDITEMS": lambda reader: reader.check(set, reader.metastack[-1][-1], reader.stack),
    "DICT": lambda reader: reader.check(list, reader.stack, reader.stack[::2]),
    "FROZENSET": lambda reader: reader.check(list, reader.stack, reader.stack),
}
CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}


def _handlers() -> Iterator[tuple[int, Handler]]:
    standard = pickle._Unpickler.dispatch
    for name, code in CODES.items():
        if name in _UNCHECKED:
            yield code, standard[code]
        elif name in _CHECKED:
            yield code, _in_turn(_CHECKED[name], standard[code])
        else:
            yield code, partial(Reader.refuse_name, wanted=name)
    # The sizes of frames say nothing about the data. Python's own bytearray is allocated before it is known
    # that as many bytes follow.
    yield CODES["FRAME"], lambda reader: reader.read(8)
    yield CODES["BYTEARRAY8"], _bytearray


def _in_turn(check: Callable[[Reader], None], run: Handler) -> Handler:
    def both(reader: Reader) -> None:
        check(reader)
        run(reader)

    return both


Reader.dispatch.update(_handlers())


def check_expanded(value: object, name: str) -> None:
    """Raise :class:`PrepError` if ``value`` is nested deeply or in itself, has objects that are not plain
    data, or is huge when every object is counted as often as it is used.
    """
    _measure([value], name, {}, 0)


def _measure(item: object, name: str, measured: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """The size and the depth of a container; ``measured`` has those of others, (0, 0) for those around it."""
    measured[id(item)] = (0, 0)
    size, height = 4, 0
    for member in _members(item, name):
        kind = type(member)
        if kind in TEXTS:
            size += 1 + len(member) // 16
        elif kind in SCALARS:
            size += 1
        else:
            inner = measured.get(id(member))
            if depth + (inner[1] if inner else 0) >= MAX_DEPTH or inner == (0, 0):
                refuse(name, f"it is nested in itself or more than {MAX_DEPTH} deep")
            inner = inner or _measure(member, name, measured, depth + 1)
            size += inner[0]
            height = max(height, inner[1])
    if size > MAX_EXPANDED:
        refuse(name, f"it has more than {MAX_EXPANDED:,} values, with every use of an object counted")
    measured[id(item)] = (size, height + 1)
    return size, height + 1


def _members(item: Any, name: str) -> Any:
    if type(item) is dict:
        return item.values()  # keys are short
    if type(item) in (list, tuple, set, frozenset):
        return item
    if type(item) is np.ndarray:
        return item.ravel().tolist() if item.dtype.hasobject else ()
    raise PrepError(
        f"{name} contains the name of a type where a value is expected.", "Check that it is the right file."
    )
