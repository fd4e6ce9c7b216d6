"""Decomposes referring expressions into short phrases about the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prep.phrases.api import decompose as decompose

__all__ = ["decompose"]


def __getattr__(name: str) -> Any:
    if name == "decompose":
        from prep.phrases.api import decompose

        return decompose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
