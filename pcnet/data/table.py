"""Reads the training samples from the store and joins phrases, proposals and scores by key.

No annotation is read: expressions, phrases, proposals and scores come from the store, pixels from the image
files. Shapes: S samples, I images, B batch size, L tokens per text, P phrases, M masks per image.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prep.cache.keyset import column_hashes
from prep.cache.sources import keys_of_input
from prep.errors import PrepError
from prep.masks.grid32 import BYTES_PER_MASK, unpack
from prep.records import DATASET_NAMES, in_splits

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.store import StageReader, Store


OVER_LIMIT = "beyond --limit"  # why expressions are left out that the run was not asked for


@dataclass(frozen=True)
class Selection:
    """The rows to read: a dataset, its split_by (if the store has more than one) and a split.

    With ``input``, they are the rows that were made of that JSONL file, whatever dataset each of them names.
    Rows of the images in ``exclude`` are skipped and counted.
    With ``limit``, they are the first so many by ``row_id``.
    """

    dataset: str
    split: str | None = None
    split_by: str | None = None
    input: Path | None = None
    exclude: frozenset[str] = frozenset()
    limit: int | None = None

    @property
    def flags(self) -> str:
        """The options of `pcnet-prep phrases` and `sam` for these rows."""
        if self.input is None and self.dataset in DATASET_NAMES:
            return f"--dataset {self.dataset}"
        return f"--input {shlex.quote(str(self.input or f'{self.dataset}.jsonl'))}"


@dataclass(frozen=True)
class SampleTable:
    """The samples of a selection, in the order of their ``row_id``.

    ``image`` (S,) is the index of each sample's image in ``images``; ``target`` (S,) is the index of its
    target (-1 if the dataset gives no ref_id). ``grids`` (sum of masks, 128) uint8 are the packed 32x32
    masks, those of image i at ``grid_bounds[i]:grid_bounds[i + 1]``. ``scores`` has one float array per
    sample, aligned with its image's masks, or is ``None`` if they were not requested. ``skipped`` counts the
    rows left out, by reason.
    """

    row_ids: list[str]
    expressions: list[str]
    phrases: list[list[str]]
    image: NDArray[np.int64]
    target: NDArray[np.int64]
    images: list[str]
    grids: NDArray[np.uint8]
    grid_bounds: NDArray[np.int64]
    scores: list[NDArray[np.float32]] | None = None
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def max_masks(self) -> int:
        """The largest number of masks in any image."""
        return int(np.diff(self.grid_bounds).max(initial=0))

    def masks(
        self, images: Sequence[int] | NDArray[np.int64], slots: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The masks of some images: uint8 (B, slots, 32, 32), zero-padded, and bool (B, slots), false for
        padding.
        """
        packed = np.zeros((len(images), slots, BYTES_PER_MASK), dtype=np.uint8)
        real = np.zeros((len(images), slots), dtype=bool)
        for row, image in enumerate(images):
            own = self.grids[self.grid_bounds[image] : self.grid_bounds[image + 1]][:slots]
            packed[row, : len(own)] = own
            real[row, : len(own)] = True
        return unpack(packed), real


def _require(stage: str, reader: StageReader, store: str, command: str) -> None:
    if not reader.exists or reader.num_rows == 0:
        raise PrepError(f"The store {store} has no {stage} yet.", f"Run: {command}")


def read_phrases(store: Store, selection: Selection) -> pa.Table:
    """The selection's phrase rows, sorted by ``row_id``.

    :raises PrepError: if the table or the selection is missing, or the store has several split_by.
    """
    reader = store.stage("phrases").reader()
    command = f"pcnet-prep phrases {selection.flags} --store {shlex.quote(store.uri)}"
    _require("phrases", reader, store.uri, command)
    columns = ["row_id", "dataset", "split_by", "split", "ref_id", "image", "expression", "phrases", "status"]
    table = _selected(reader, reader.read(columns), selection)
    what = f"{selection.dataset}" + (f" split {selection.split}" if selection.split else "")
    if table.num_rows == 0:
        everything = reader.read(["dataset", "split_by", "split"]).group_by(["dataset", "split_by", "split"])
        held = everything.aggregate([]).to_pylist()
        names = ", ".join(sorted(f"{r['dataset']}/{r['split_by']} {r['split']}" for r in held))
        raise PrepError(f"The store {store.uri} has no phrases of {what}; it has {names}.", f"Run: {command}")
    kinds = sorted(set(table["split_by"].to_pylist()))
    if len(kinds) > 1 and selection.input is None:
        raise PrepError(
            f"The store {store.uri} has {what} by {' and by '.join(kinds)}.",
            f"Choose one, for example --split-by {kinds[0]}.",
        )
    return table.sort_by("row_id")


def _selected(reader: StageReader, table: pa.Table, selection: Selection) -> pa.Table:
    """The rows of a selection; a split is as :func:`prep.records.in_splits` has it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = None if selection.input is None else keys_of_input(reader, selection.input)
    if keys is not None:
        chosen = pa.array(np.isin(column_hashes(table["row_id"]), keys))
    else:
        chosen = pc.equal(table["dataset"], selection.dataset)
    if selection.split_by is not None:
        chosen = pc.and_(chosen, pc.equal(table["split_by"], selection.split_by))
    if selection.split is not None:
        wanted = [name for name in table["split"].unique().to_pylist() if in_splits(name, (selection.split,))]
        chosen = pc.and_(chosen, pc.is_in(table["split"], pa.array(wanted, pa.string())))
    return table.filter(chosen)


def load_samples(store: Store, selection: Selection, *, with_scores: bool = False) -> SampleTable:
    """Join a selection's phrases to its proposals by ``image`` and, if requested, to its scores by
    ``row_id``.

    Rows with an error, without an image or with an unreadable image are skipped and counted. An image that is
    missing from the proposals is an error: training would silently use only part of the data.

    :raises PrepError: if a table or the selection is missing; the remedy is the command that creates it.
    """
    rows, skipped = read_phrases(store, selection), dict[str, int]()
    if selection.limit is not None and rows.num_rows > selection.limit:
        skipped[OVER_LIMIT] = rows.num_rows - selection.limit
        rows = rows.slice(0, selection.limit)
    status, image_key = rows["status"].to_pylist(), rows["image"].to_pylist()
    usable = {i for i, s in zip(image_key, status, strict=True) if i and s == "ok"}
    masks = _read_grids(store, selection, usable - selection.exclude)
    kept: list[int] = []
    for place, (state, key) in enumerate(zip(status, image_key, strict=True)):
        reason = (
            "phrases have an error"
            if state != "ok"
            else "no image"
            if not key
            else "image is in --exclude"
            if key in selection.exclude
            else "image could not be read"
            if masks[key] is None
            else ""
        )
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            kept.append(place)
    if not kept:
        raise PrepError(
            f"No usable sample in {selection.dataset} of {store.uri}: {_counts(skipped)}.",
            "Check the columns status and error of its phrases and proposals.",
        )
    rows = rows.take(kept)
    return _assemble(store, rows, masks, skipped, with_scores)


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _read_grids(store: Store, selection: Selection, wanted: set[str]) -> dict[str, NDArray[np.uint8] | None]:
    """Packed masks (masks, 128) of the wanted images; ``None`` for an image that could not be read."""
    reader = store.stage("proposals").reader()
    command = f"pcnet-prep sam {selection.flags} --store {shlex.quote(store.uri)}"
    _require("proposals", reader, store.uri, command)
    found: dict[str, NDArray[np.uint8] | None] = {}
    for batch in reader.batches(["image", "grid32", "status"]):
        for key, grid, state in zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True):
            if key in wanted:
                packed = np.frombuffer(grid, dtype=np.uint8)
                if packed.size % BYTES_PER_MASK:
                    raise PrepError(
                        f"The grid of {key} in {store.uri} has {packed.size} bytes, not 128 per mask."
                    )
                found[key] = None if state == "error" else packed.reshape(-1, BYTES_PER_MASK)
    missing = sorted(wanted - found.keys())
    if missing:
        raise PrepError(
            f"{len(missing)} of {len(wanted)} images have no proposals in {store.uri}, e.g. {missing[0]}.",
            f"Run: {command}" + (f" --split {selection.split}" if selection.split else ""),
        )
    return found


def _assemble(
    store: Store,
    rows: pa.Table,
    masks: Mapping[str, NDArray[np.uint8] | None],
    skipped: dict[str, int],
    with_scores: bool,
) -> SampleTable:
    keys = rows["image"].to_pylist()
    images = sorted(set(keys))
    number = {key: i for i, key in enumerate(images)}
    parts = [masks[key] for key in images]
    grids = [np.zeros((0, BYTES_PER_MASK), np.uint8) if part is None else part for part in parts]
    bounds = np.concatenate([[0], np.cumsum([len(g) for g in grids])]).astype(np.int64)
    row_ids = rows["row_id"].to_pylist()
    refs = rows["ref_id"].to_pylist()
    target_number = {ref: i for i, ref in enumerate(sorted({r for r in refs if r is not None}))}
    return SampleTable(
        row_ids=row_ids,
        expressions=rows["expression"].to_pylist(),
        phrases=rows["phrases"].to_pylist(),
        image=np.array([number[key] for key in keys], dtype=np.int64),
        target=np.array([-1 if r is None else target_number[r] for r in refs], dtype=np.int64),
        images=images,
        grids=np.concatenate(grids) if grids else np.zeros((0, BYTES_PER_MASK), np.uint8),
        grid_bounds=bounds,
        scores=_read_scores(store, row_ids, keys, dict(zip(images, np.diff(bounds), strict=True)))
        if with_scores
        else None,
        skipped=skipped,
    )


def _read_scores(
    store: Store, row_ids: Sequence[str], images: Sequence[str], counts: Mapping[str, int]
) -> list[NDArray[np.float32]]:
    """One array per row, aligned with the masks of its image."""
    reader = store.stage("scores").reader()
    command = f"pcnet-prep score --store {shlex.quote(store.uri)}"
    _require("scores", reader, store.uri, command)
    wanted = set(row_ids)
    found: dict[str, NDArray[np.float32]] = {}
    for batch in reader.batches(["row_id", "scores"]):
        for key, values in zip(batch.column(0).to_pylist(), batch.column(1), strict=True):
            if key in wanted:
                found[key] = np.asarray(values.values, dtype=np.float32)
    stale = [r for r, i in zip(row_ids, images, strict=True) if r not in found or len(found[r]) != counts[i]]
    if stale:
        raise PrepError(
            f"{len(stale)} of {len(row_ids)} rows of {store.uri} have no scores for their current proposals, "
            f"for example row {stale[0]}.",
            f"Run: {command}",
        )
    return [found[r] for r in row_ids]
