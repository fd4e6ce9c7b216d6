"""Compiles loops with numba, and keeps the machine code on disk where a folder for it can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

# A helper that numba copies into its callers: for those called per pixel row, whose many arrays would cost
# more to pass than the work they do.
inlined = numba.njit(inline="always", nogil=True, error_model="numpy")

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` compiled on its first call; it releases the interpreter lock while it runs.

    What is kept on disk is renewed when the function's own file changes, not when a helper's in another does.
    """
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")  # type: ignore[no-any-return]
    except RuntimeError:  # nowhere to keep it: compile in each process
        return numba.njit(function, nogil=True, error_model="numpy")  # type: ignore[no-any-return]
