"""Compiles loops with numba, and caches the machine code on disk if a folder for it is writable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

# A helper that numba inlines into its callers: for functions called per pixel row, where passing the arrays
# would cost more than the work.
inlined = numba.njit(inline="always", nogil=True, error_model="numpy")

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` compiled on its first call; it releases the GIL while it runs.

    The disk cache is invalidated when the function's own file changes, not when a helper in another file
    does.
    """
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")  # type: ignore[no-any-return]
    except RuntimeError:  # no writable cache folder: compile in each process
        return numba.njit(function, nogil=True, error_model="numpy")  # type: ignore[no-any-return]
