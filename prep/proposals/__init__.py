"""Proposals: class-agnostic masks of an image, stored as RLE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prep.proposals.generators import propose as propose

__all__ = ["propose"]


def __getattr__(name: str) -> Any:
    if name == "propose":
        from prep.proposals.generators import propose

        return propose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
