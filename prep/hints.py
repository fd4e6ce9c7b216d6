"""What to say of an error: what to do about the system's own, what it means that memory ran out."""

from __future__ import annotations

import errno

from prep.errors import PrepError

LINES, WIDTH = 5, 400
_REMEDIES = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again: committed rows stay.",
    errno.EFBIG: "A file-size limit stopped the write. Raise it (ulimit -f) and run the same command again.",
    errno.EDQUOT: "Your quota is used up. Free some space, then run the same command again.",
    errno.EROFS: "This file system is read-only. Choose another place with --out.",
    errno.EACCES: "Check who owns it and its permissions, or choose another place with --out.",
    errno.EPERM: "Check who owns it and its permissions, or choose another place with --out.",
    errno.ENOENT: "Was the store moved or removed? Run the command again to start it anew.",
}


def told(error: PrepError) -> str:
    """The error in at most :data:`LINES` lines of bounded length. What is too long is cut, but no remedy."""
    remedy = error.remedy.splitlines()
    message, room = f"error: {error.message}".splitlines(), max(1, LINES - len(remedy))
    if len(message) > room:
        left = len(message) - room + 1
        message = [*message[: room - 1], f"  ... and {left} lines more, which --debug shows"]
    return "\n".join(line if len(line) <= WIDTH else f"{line[:WIDTH]}..." for line in [*message, *remedy])


def remedy_of(error: OSError) -> str:
    """What to do about an error of the operating system."""
    return _REMEDIES.get(
        error.errno or 0, "Check the path and your access to it, then run the command again."
    )


def memory_error(error: BaseException) -> PrepError | None:
    """What to say where memory ran out, on a GPU or in the machine; ``None`` for any other error.

    torch's classes are told by their names, since this file must not import it.
    """
    text = str(error).strip()
    if not (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
    ):
        return None
    return PrepError(
        f"Out of memory: {text.splitlines()[0] if text else 'the machine has too little for this'}",
        "Give it less at a time: --batch-size or --size (train, eval), --points-per-batch (sam),\n"
        "--max-num-seqs (phrases). `nvidia-smi` shows who else uses a GPU. What is committed is kept.",
    )
