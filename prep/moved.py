"""Redirects the module paths documented in 0.1 to the new ones, with a deprecation warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Kept for one release.
MOVED = {
    "prep.runner": "prep.engine.runner",
    "prep.synthetic": "prep.demo.dataset",
    "prep.truth": "prep.datasets.truth",
    "pcnet.opposites": "pcnet.data.antonyms",
    "pcnet.predict": "pcnet.evaluation.predict",
}


class MovedFinder(MetaPathFinder, Loader):
    """Imports the modules of :data:`MOVED` under their old paths, as the same module objects."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for a path that was moved, None for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Register the module at its new path under the old one."""
        old = module.__name__
        warnings.warn(
            f"{old} has moved to {MOVED[old]}; the old path will be removed in the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = importlib.import_module(MOVED[old])


def install() -> None:
    """Register the finder for the old paths, after all others."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
