"""Compiles a part of a network; where the compiler fails, the part runs uncompiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from prep.display import shown

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """``function`` compiled by ``torch.compile`` for each shape that it is called with.

    If the first call fails (no compiler, an old driver), this is logged with the name ``what``, and the
    function is called as it is from then on: slower, with results that differ by rounding at most.
    """

    def __init__(self, function: Callable[P, R], what: str) -> None:
        self._function, self._what = function, what
        self._compiled: Callable[P, R] = torch.compile(function, dynamic=False)
        self._works = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``function``."""
        try:
            result = self._compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler fails in ways of its own
            if self._works:
                raise
            # The first line says that a compiler failed, the second why.
            told = " ".join(shown(line.strip()) for line in str(error).splitlines()[:2])
            log.warning("%s runs uncompiled: %s", self._what, told)
            self._compiled = self._function
            result = self._function(*args, **kwargs)
        self._works = True
        return result
