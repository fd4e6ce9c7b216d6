"""Defines what an examination of this machine finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line: ``ok`` is None for information only; ``remedy`` is what to type or change; ``items`` are the
    names that the line counts.
    """

    area: str
    name: str
    ok: bool | None
    text: str
    remedy: str = ""
    items: tuple[str, ...] = ()
