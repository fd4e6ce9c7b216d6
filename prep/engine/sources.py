"""Defines what the jobs need to know of a source of items, and how the manifest identifies its items."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol


class Source(Protocol):
    """A dataset or a folder of images."""

    @property
    def name(self) -> str:
        """The dataset's or folder's name."""

    @property
    def split_by(self) -> str:
        """The split version, or an empty string."""

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of each annotation file that was read."""


def selection_of(source: Source, splits: Collection[str] | None) -> dict[str, Any]:
    """What identifies the items of ``splits`` (None: all), for ``run_stage``."""
    named = {"name": source.name, "split_by": source.split_by}
    return {**named, "splits": sorted(splits or []), "inputs": source.inputs()}


def inputs_of(sources: Collection[Source]) -> dict[str, str]:
    """The files of several sources, as the manifest lists them."""
    return {f"{source.name}/{file}": digest for source in sources for file, digest in source.inputs().items()}
