"""Compiles loops with numba, and caches the machine code on disk if a folder for it is writable."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numba
from numba.core.caching import FunctionCache

# A helper that numba inlines into its callers: for functions called per pixel row, where passing the arrays
# would cost more than the work.
inlined = numba.njit(inline="always", nogil=True, error_model="numpy")

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` compiled on its first call; it releases the GIL while it runs.

    The machine code on disk is used again while every file of the function's folder is unchanged: helpers
    and constants of other files become part of it, so a kernel takes them from its own folder only.
    """
    kernel = numba.njit(function, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # no writable cache folder: compile in each process
        kernel._cache = _Cache(function)
    return kernel  # type: ignore[no-any-return]


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, whose key has the function's own file alone, with the files beside it in the key."""

    def _index_key(self, sig: object, codegen: object) -> tuple[object, ...]:
        files = _sources(Path(self._py_func.__code__.co_filename).parent)
        return (*super()._index_key(sig, codegen), files)


@cache
def _sources(folder: Path) -> str:
    """The SHA-256 of the names and contents of the Python files of a folder, and of this one."""
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(folder.glob("*.py"))):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
