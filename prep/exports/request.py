"""What an export is asked for, and the rows of the store that layouts need, by image and by expression."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from prep.cache.mask_rows import rows_of_images
from prep.errors import PrepError
from prep.exports.output import Exported, Output, digest
from prep.records import ProposalRow

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.datasets.catalogue import Dataset

VERSION = 1  # part of every key: change it whenever a layout's files change


@dataclass(frozen=True)
class Request:
    """An export of ``layout`` to ``to``.

    ``dataset`` is None for all images of the store. ``masks`` is where masks of references come from:
    ``truth``, ``best`` (the best-scored proposal), or the folder of --save-pseudo of pcnet eval.
    """

    layout: str
    store: Store
    to: Path
    dataset: Dataset | None = None
    splits: tuple[str, ...] | None = None
    masks: str | None = None

    @cached_property
    def source(self) -> Dataset:
        """The dataset, for layouts that need one."""
        if self.dataset is None:
            raise ValueError(f"The layout {self.layout} needs a dataset.")
        return self.dataset

    def output(self, done: Exported) -> Output:
        """The files of this export."""
        about = "" if self.dataset is None else f"{self.dataset.name}\n{self.dataset.split_by}"
        return Output(done, about, whole=self.splits is None)

    def key(self, *tables: str) -> str:
        """A key that changes with the tables' rows, the annotation files and the selection."""
        readers = [self.store.stage(table).reader() for table in tables]
        rows = [
            (reader.fingerprint, sorted(reader.manifest.shards) if reader.manifest else [])
            for reader in readers
        ]
        inputs = None if self.dataset is None else self.dataset.inputs()
        return digest(VERSION, self.layout, rows, inputs, self.splits, self.masks)

    @cached_property
    def wanted(self) -> frozenset[str] | None:
        """The images of the dataset's selected splits; None for all of the store."""
        if self.dataset is None:
            return None
        return frozenset(ref.image for ref in self.dataset.images(self.splits))

    def one_file(
        self, name: str, table: str, write: Callable[[Request, Exported, BinaryIO], None]
    ) -> Exported:
        """Write a layout that is one file, made of the rows of ``table``, unless it is up to date."""
        done = Exported(self.layout, self.to)
        output, key = self.output(done), self.key(table)
        if not output.current(name, key):
            with output.open(name, key) as file:
                write(self, done, file)
        return output.finish()


def proposal_rows(
    request: Request, images: Collection[str] | None, columns: list[str] | None = None
) -> Iterator[ProposalRow]:
    """The rows of the proposals table of ``images`` (None: all), in the order of commits, one at a time."""
    reader = request.store.require_table("proposals", "pcnet-prep sam")
    columns = columns or ["image", "height", "width", "masks", "generator", "key", "error"]
    return rows_of_images(reader, images, columns)


def score_rows(request: Request) -> dict[str, tuple[str, npt.NDArray[np.float32]]]:
    """``row_id`` -> the key of the scored proposals and float32 scores, one for each, higher is better."""
    reader = request.store.stage("scores").reader()
    if not reader.exists:
        raise PrepError(
            f"{request.store.uri} has no scores, so no proposal is the best for an expression.",
            f"Run: pcnet-prep score --store {shlex.quote(request.store.uri)}",
        )
    found = {}
    for batch in reader.batches(["row_id", "proposals_key", "scores"]):
        for row, key, scores in zip(*(batch.column(at).to_pylist() for at in range(3)), strict=True):
            found[row] = key, np.array(scores, np.float32)
    return found


def image_numbers(given: Iterator[tuple[str, int | None]], done: Exported) -> dict[str, int]:
    """Image -> its integer id: the store's or dataset's where it has one of its own, else a new one."""
    pairs = dict(given)
    owner: dict[int, str] = {}
    for image, number in pairs.items():
        if number is not None:
            owner.setdefault(number, image)
    free = max([0, *owner]) + 1
    numbers = {}
    for image, number in pairs.items():
        if number is not None and owner[number] == image:
            numbers[image] = number
        else:
            done.note("images without an id of their own: they have new ids above all others")
            numbers[image], free = free, free + 1
    return numbers
