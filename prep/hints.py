"""Formats error messages, and adds remedies for missing packages, full disks, lack of memory and the like."""

from __future__ import annotations

import errno

from prep.display import shown
from prep.errors import PrepError

LINES, WIDTH = 5, 400
_REMEDIES = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again: committed rows stay.",
    errno.EFBIG: "A file-size limit stopped the write. Raise it (ulimit -f) and run the same command again.",
    errno.EDQUOT: "Your quota is used up. Free some space, then run the same command again.",
    errno.EROFS: "This file system is read-only. Write to another place.",
    errno.EACCES: "Check who owns it and its permissions, or write to another place.",
    errno.EPERM: "Check who owns it and its permissions, or write to another place.",
    errno.ENOENT: "Check if the store was moved or removed. Run the command again to start over.",
}

# The extra of the project that installs a package; torch belongs to two.
_EXTRAS = {
    "huggingface_hub": "vllm",
    "open_clip": "train",
    "ray": "ray",
    "safetensors": "train",
    "segment_anything": "sam",
    "tensorboard": "train",
    "torch": "train",
    "torchvision": "train",
    "transformers": "sam",
    "vllm": "vllm",
}


def missing_package(error: ModuleNotFoundError, command: str) -> PrepError | None:
    """The error for a package that an extra installs, imported by ``command``; ``None`` for any other."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    extra = "sam" if command in ("sam", "concepts") else _EXTRAS[package]
    return PrepError(
        f"`{command}` needs the package {package}, which is not installed.",
        f"Run `pip install 'pcnet-prep[{extra}]'`.",
    )


def format_error(error: PrepError) -> str:
    """The error, safe to show, in at most :data:`LINES` lines of bounded length.

    Only the message is truncated.
    """
    remedy = shown(error.remedy).splitlines()
    message, room = f"error: {shown(error.message)}".splitlines(), max(1, LINES - len(remedy))
    if len(message) > room:
        left = len(message) - room + 1
        message = [*message[: room - 1], f"  ... and {left} more lines (use --debug to see them)"]
    return "\n".join(line if len(line) <= WIDTH else f"{line[:WIDTH]}..." for line in [*message, *remedy])


def remedy_of(error: OSError) -> str:
    """The remedy for an error of the operating system."""
    return _REMEDIES.get(
        error.errno or 0, "Check the path and your access to it, then run the command again."
    )


def memory_error(error: BaseException) -> PrepError | None:
    """The error for running out of GPU or system memory; ``None`` for any other error.

    torch's classes are recognised by name because this file must not import torch.
    """
    text = str(error).strip()
    if not (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
    ):
        return None
    return PrepError(
        "Out of memory: "
        f"{text.splitlines()[0].rstrip('.') if text else 'the machine has too little memory'}.",
        "Reduce the load: --batch-size or --size (train, eval), --points-per-batch (sam),\n"
        "--phrases-per-batch (concepts), --max-num-seqs (phrases). Run `nvidia-smi` to see who else uses a "
        "GPU.\nCommitted rows are kept.",
    )
