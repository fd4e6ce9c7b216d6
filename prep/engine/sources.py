"""Defines what the jobs need of a dataset or a folder, and how a run identifies and counts its items."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prep.cache.follow import Entry, follow
from prep.cache.sources import Origin, is_followed
from prep.display import tell

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter
    from prep.engine.runner import RunOptions

Item = TypeVar("Item")
Items = Callable[[Collection[str] | None], Iterable[Any]]


class Source(Protocol):
    """A dataset or a folder of images."""

    @property
    def name(self) -> str:
        """The dataset's or folder's name."""

    @property
    def split_by(self) -> str:
        """The split version, or an empty string."""

    @property
    def place(self) -> Path:
        """The file or folder that is read."""

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of each annotation file that was read."""


def origin_of(source: Source) -> Origin:
    """How the tables that are made of a source identify it; its annotation files are hashed."""
    place, inputs = os.path.abspath(source.place), source.inputs()
    name = os.path.basename(place) if inputs else place
    if source.split_by:
        name = f"{source.name}/{source.split_by}"
    return Origin(name, (source.name, source.split_by), place, os.path.abspath(source.root), inputs)


def follow_source(
    writer: StageWriter, origin: Origin, entries: Callable[[], Iterable[Entry]], *, keep_missing: bool
) -> dict[str, int]:
    """Bring a table in line with all of a source, by :func:`prep.cache.follow.follow`; count the changes.

    Says how many entries the source has, and how many of them cannot be used and why.
    """
    if is_followed(writer, origin, keep_missing):
        return {}
    total, problems = 0, Counter[str]()

    def counted() -> Iterator[Entry]:
        nonlocal total
        for entry in entries():
            total += 1
            if entry[2]:
                problems[entry[2].split("\n")[0][:100]] += 1
            yield entry

    changes = follow(writer, origin, counted(), keep_missing=keep_missing).counts()
    what = ("expression" if writer.stage.name in ("phrases", "triplets") else "image") + (
        "s" if total != 1 else ""
    )
    shown = [f"{count:,} {why}" for why, count in problems.most_common(3)]
    unusable = f", {problems.total():,} of them unusable ({'; '.join(shown)})" if problems else ""
    tell(f"{origin.owner[0]}: {total:,} {what} in the input{unusable}")
    return changes


class First:
    """The first ``limit`` items of several sources together; None: all of them."""

    def __init__(self, limit: int | None) -> None:
        self.left = limit

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that are left to take."""
        for item in items if self.left is None else islice(items, self.left):
            if self.left is not None:
                self.left -= 1
            yield item


def source_options(
    writer: StageWriter,
    origin: Origin,
    splits: Collection[str] | None,
    items: Items | None,
    first: int | None = None,
) -> RunOptions:
    """``run_stage``'s label, selection and total for ``splits`` (None: all) of a source.

    ``items`` are counted, so that progress has a total (None: not counted). A folder has no annotation files
    that identify its images: it has no selection, and is scanned each time. Nor have the ``first`` items.
    """
    name, split_by = origin.owner
    named = {"name": name, "split_by": split_by, "splits": sorted(splits or [])}
    selection = {**named, "inputs": dict(origin.inputs)} if origin.inputs and first is None else None
    finished = selection is not None and writer.finished(selection) is not None
    total = None if finished or items is None else sum(1 for _ in First(first).of(items(splits)))
    return {"label": f"{writer.stage.name} {name}", "selection": selection, "total": total}


def inputs_of(origins: Collection[Origin]) -> dict[str, str]:
    """The files of several sources, as the manifest lists them."""
    return {f"{one.owner[0]}/{file}": digest for one in origins for file, digest in one.inputs.items()}
