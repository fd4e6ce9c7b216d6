"""Defines what the jobs need of a dataset or a folder, and how a run identifies and counts its items."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter

Items = Callable[[Collection[str] | None], Iterable[Any]]


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


def source_options(
    writer: StageWriter, source: Source, splits: Collection[str] | None, items: Items | None
) -> dict[str, Any]:
    """``run_stage``'s label, selection and total for ``splits`` (None: all) of a source.

    ``items`` are counted, so that progress has a total (None: not counted). A folder has no annotation files
    that identify its images: it has no selection, and is scanned each time.
    """
    inputs = source.inputs()
    named = {"name": source.name, "split_by": source.split_by, "splits": sorted(splits or [])}
    selection = {**named, "inputs": inputs} if inputs else None
    finished = selection is not None and writer.finished(selection)
    total = None if finished or items is None else sum(1 for _ in items(splits))
    return {"label": f"{writer.stage.name} {source.name}", "selection": selection, "total": total}


def inputs_of(sources: Collection[Source]) -> dict[str, str]:
    """The files of several sources, as the manifest lists them."""
    return {f"{source.name}/{file}": digest for source in sources for file, digest in source.inputs().items()}
