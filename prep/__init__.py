"""Data preparation for weakly supervised referring segmentation: phrases, proposals and their store."""

from __future__ import annotations

from typing import Any

from prep.moved import install

install()
del install


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pcnet-prep")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
