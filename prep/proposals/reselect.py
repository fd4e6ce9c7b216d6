"""Re-filters the stored proposals of a store into another store, without a model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.keys import fingerprint
from prep.cache.schema import PROPOSALS
from prep.engine.local import Engine
from prep.engine.runner import Summary, run_stage
from prep.errors import PrepError
from prep.masks import rle
from prep.proposals.rows import answer, content_key, make_row, masks_key, proposal_of
from prep.proposals.select import Selection, select
from prep.records import ImageRef, ProposalRow
from prep.stage import Resources

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store


class NarrowStage:
    """Rows of the proposals schema (as mappings) to rows with fewer masks.

    Rows from a store without selection equal those that the generator would give with ``selection``,
    including the key. If ``source`` (the settings of the stored rows) already has a selection, both are
    applied in order and both are in the key.
    """

    def __init__(self, source: Mapping[str, object], selection: Selection) -> None:
        self.source = dict(source)
        self.selection = selection
        self.resources = Resources()
        self.key = fingerprint(self.settings())

    def settings(self) -> dict[str, object]:
        """The settings of the table; their hash is half of each row's ``key``."""
        before = self.source.get("selection")
        if before is None:
            raise PrepError(
                "The stored proposals do not record how they were selected.", "Generate them again."
            )
        new: dict[str, object] = dict(self.selection.settings())
        if before != Selection().settings():
            new["after"] = before
        return {**self.source, "selection": new}

    def open(self) -> None:
        """Does nothing."""

    def load(self, unit: list[ProposalRow]) -> list[ProposalRow]:
        """The rows unchanged."""
        return unit

    def process(self, loaded: list[ProposalRow]) -> pa.Table:
        """One row for each, in order; rows that are not ``ok`` are unchanged."""
        return pa.Table.from_pylist([self._row(row) for row in loaded], schema=PROPOSALS)

    def _row(self, row: ProposalRow) -> dict[str, object]:
        ref = ImageRef(row["image"], row["image_id"], "")
        key = content_key(self.key, row["image_sha256"] or "")
        if row["status"] == "error":
            return make_row(ref, row["image_sha256"], row["error"], row["generator"], key)
        height, width = row["height"], row["width"]
        for mask in row["masks"]:  # pycocotools compares them, and a damaged string makes it crash
            rle.checked_runs(mask["counts"], height, width)
        kept = select([proposal_of(mask) for mask in row["masks"]], self.selection, height, width)
        made = answer(kept, height, width)
        if row["generator"].startswith("import:"):
            key = masks_key(self.key, made.masks)
        return make_row(ref, row["image_sha256"], made, row["generator"], key)


def run_narrow(
    source: Store,
    store: Store,
    selection: Selection,
    *,
    replace: bool = False,
    arguments: Mapping[str, object] | None = None,
) -> Summary:
    """Apply ``selection`` to every row of ``source``'s proposals that is missing in ``store``, and write it
    there.
    """
    reader = source.stage("proposals").reader()
    if not reader.exists:
        remedy = f"Run: pcnet-prep sam --store {shlex.quote(source.uri)}"
        raise PrepError(f"{source.uri} has no proposals.", remedy)
    if source.uri == store.uri:
        raise PrepError(
            f"--from and --store are the same store, {store.uri}.", "Set --store to another store."
        )
    stage = NarrowStage(reader.settings, selection)
    with store.stage("proposals").writer(stage.settings(), replace=replace) as writer:
        return run_stage(
            Engine(stage),
            _rows(reader),
            key=lambda row: str(row["image"]),
            writer=writer,
            unit_size=64,
            label="narrowing",
            total=reader.num_rows,
            arguments=arguments,
        )


def _rows(reader: StageReader) -> Iterator[ProposalRow]:
    for batch in reader.batches():
        for place in range(batch.num_rows):
            yield batch.slice(place, 1).to_pylist()[0]
