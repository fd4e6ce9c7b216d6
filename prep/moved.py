"""Module paths that the documentation of 0.1 named: each gives the module at its new path, and warns."""

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
    """Finds the modules of :data:`MOVED`, each as the very module that stands at its present path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for a path that was moved, None for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the present module where the old path is looked up."""
        old = module.__name__
        warnings.warn(
            f"{old} is {MOVED[old]} now; the old path goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = importlib.import_module(MOVED[old])


def install() -> None:
    """Let the old paths be found, after everything that exists."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
