"""Reads pickles that hold only containers, numbers and strings, and rejects every other one by name.

A pickle is a program. Instead of running it with some names forbidden, this reader implements only the
opcodes that build plain data, for protocols 0 to 5: none of them can import, call or set anything. Lengths
are checked against the rest of the file and memo numbers are dictionary keys, so a short hostile file cannot
allocate much memory either, which it can with the standard library's reader.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prep.errors import PrepError

MAX_BYTES = 1 << 30

# The opcodes that would import or call something, with their names in the pickle protocol.
CALLS = {
    b"c": "GLOBAL", b"\x93": "STACK_GLOBAL", b"R": "REDUCE", b"b": "BUILD", b"i": "INST", b"o": "OBJ",
    b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX", b"P": "PERSID", b"Q": "BINPERSID",
    b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip


def load_pickle(path: Path) -> Any:
    """The plain data pickled in ``path``; :class:`PrepError` if missing, broken or holding anything else."""
    return loads(read_pickle_file(path), str(path))


def read_pickle_file(path: Path) -> bytes:
    """The bytes of a file of at most ``MAX_BYTES`` that is not a Git LFS pointer."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise PrepError(
                f"{path} has {size / 2**20:,.0f} MiB; a list of references has a few dozen.",
                "Check that it is the right file.",
            )
        data = path.read_bytes()
    except OSError as error:
        raise PrepError(f"{path} cannot be read: {error.strerror or error}.") from error
    if data.startswith(b"version https://git-lfs"):
        raise PrepError(
            f"{path} is a Git LFS pointer, not the file itself.", "Run `git lfs pull` in its folder."
        )
    return data


def loads(data: bytes, name: str = "the pickle", machine: type[Machine] | None = None) -> Any:
    """The data of the pickle ``data``; errors call it ``name``. ``machine`` may support more opcodes."""
    # A list of references is a few million small live objects; collecting them only costs time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return (machine or Machine)(data, name).run()
    except PrepError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise PrepError(
            f"{name} is not a whole pickle: {reason}.",
            "Download it again: it may be truncated or a different kind of file.",
        ) from error
    finally:
        if collecting:
            gc.enable()


class Machine:
    """The pickle stack machine, with the data-building opcodes only (PEP 3154 and before)."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0
        # A mark saves the stack and starts a new one, so that nothing can access values below it.
        self.stack: list[Any] = []
        self.aside: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def opcodes(self) -> list[Callable[[Any], Any] | None]:
        """The handler of each of the 256 opcodes; None for those that are rejected."""
        return OPCODES

    def run(self) -> Any:
        """Execute until STOP; return the top of the stack."""
        data, memo, stack, table, at = self.data, self.memo, self.stack, self.opcodes(), 0
        while at < len(data):
            opcode = data[at]
            # The four most frequent opcodes of a protocol 2 file are inlined: they take most of the time.
            if opcode == 0x71:  # BINPUT
                memo[data[at + 1]] = stack[-1]
                at += 2
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[at + 1]])
                at += 2
            elif opcode == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[at + 1 : at + 5], "little")] = stack[-1]
                at += 5
            elif opcode == 0x58:  # BINUNICODE
                start = at + 5
                at = start + int.from_bytes(data[at + 1 : start], "little")
                if at > len(data):
                    raise ValueError(f"byte {start}: {at - start} bytes requested, {len(data) - start} left")
                stack.append(str(data[start:at], "utf-8", "surrogatepass"))
            elif opcode == 0x2E:  # STOP
                return stack.pop()
            else:
                self.at = at + 1
                action = table[opcode]
                if action is None:
                    self._refuse(bytes([opcode]))
                else:
                    action(self)
                at, stack = self.at, self.stack
        raise ValueError("it ends before its STOP")

    def _refuse(self, opcode: bytes) -> None:
        if opcode not in CALLS:
            raise ValueError(f"byte {self.at - 1} is not a pickle opcode ({opcode!r})")
        wanted = CALLS[opcode]
        if opcode in b"ci":
            wanted = f"{self.line().decode('utf-8', 'replace')}.{self.line().decode('utf-8', 'replace')}"
        elif opcode == b"\x93" and len(self.stack) >= 2:
            wanted = f"{self.stack[-2]}.{self.stack[-1]}"
        self.refuse_name(wanted)

    def refuse_name(self, wanted: str) -> None:
        """Raise an error with what the pickle asks for."""
        raise PrepError(
            f"{self.name} is refused: it asks for {wanted[:200]!r}, and only plain data is allowed.",
            "Do not load it with pickle: that would run code. Download the file from the dataset's own page.",
        )

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise ValueError(f"byte {self.at}: {count} bytes requested, {len(self.data) - self.at} left")
        start, self.at = self.at, end
        return self.data[start:end]

    def line(self) -> bytes:
        """The bytes up to the next newline, which is skipped."""
        end = self.data.index(b"\n", self.at)
        start, self.at = self.at, end + 1
        return self.data[start:end]

    def unsigned(self, size: int) -> int:
        """The next ``size`` bytes as a little-endian unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def push(self, value: Any) -> None:
        """Push a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Pop the top of the stack."""
        return self.stack.pop()

    def mark(self) -> None:
        """Start the items of a container."""
        self.aside.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """The values since the last mark, which is removed."""
        items, self.stack = self.stack, self.aside.pop()
        return items

    def top(self, kind: type) -> Any:
        """The top of the stack, which must be a ``kind``."""
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise TypeError(f"byte {self.at}: {type(value).__name__} instead of {kind.__name__}")
        return value

    def remember(self, number: int) -> None:
        """Store the top of the stack under a memo number."""
        self.memo[number] = self.stack[-1]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _old_string(raw: bytes) -> str:
    # Python 2's str: ASCII in these files, or whatever the annotator typed otherwise.
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _quoted(m: Machine) -> None:
    line = m.line().strip()
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
        raise ValueError(f"byte {m.at}: a string without quotes")
    m.push(_old_string(line[1:-1].decode("unicode-escape").encode("latin-1")))


def _int_line(m: Machine) -> None:
    line = m.line()
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _append(m: Machine) -> None:
    value = m.pop()
    m.top(list).append(value)


def _extend(m: Machine) -> None:
    items = m.to_mark()
    m.top(list).extend(items)


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.top(dict)[key] = value


def _set_items(m: Machine) -> None:
    items = m.to_mark()
    m.top(dict).update(_pairs(items))


def _add_items(m: Machine) -> None:
    items = m.to_mark()
    m.top(set).update(items)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _tuple(count: int) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)))

    return action


def _push(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


def _sized(size: int, decode: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """An opcode whose argument is a length of ``size`` bytes followed by that many bytes."""
    return lambda m: m.stack.append(decode(m.take(m.unsigned(size))))


def _whole(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


_ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
    # framing, stack and memo
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": Machine.mark,
    b"0": lambda m: m.stack.pop() if m.stack else m.to_mark(),
    b"1": lambda m: m.to_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"p": lambda m: m.remember(int(m.line())),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"j": lambda m: m.push(m.memo[m.unsigned(4)]),
    # constants and numbers
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"I": _int_line,
    b"L": lambda m: m.push(int(m.line().rstrip(b"L"))),
    b"J": lambda m: m.push(_whole(m.take(4))),
    b"K": lambda m: m.push(m.unsigned(1)),
    b"M": lambda m: m.push(m.unsigned(2)),
    b"\x8a": _sized(1, _whole),
    b"\x8b": _sized(4, _whole),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # strings
    b"S": _quoted,
    b"U": _sized(1, _old_string),
    b"T": _sized(4, _old_string),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"\x8c": _sized(1, _text),
    b"\x8d": _sized(8, _text),
    b"C": _sized(1, bytes),
    b"B": _sized(4, bytes),
    b"\x8e": _sized(8, bytes),
    b"\x96": _sized(8, bytearray),
    # containers
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.to_mark()),
    b"a": _append,
    b"e": _extend,
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.push(_pairs(m.to_mark())),
    b"s": _set_item,
    b"u": _set_items,
    b")": _push(()),
    b"t": lambda m: m.push(tuple(m.to_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"\x8f": lambda m: m.push(set()),
    b"\x90": _add_items,
    b"\x91": lambda m: m.push(frozenset(m.to_mark())),
}
OPCODES: list[Callable[[Any], Any] | None] = [_ACTIONS.get(bytes([code])) for code in range(256)]
