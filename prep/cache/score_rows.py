"""Keeps a store's scores in line with its expressions and its masks, from which they are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prep.cache.follow import Entry, follow
from prep.cache.rewrite import cut_rows
from prep.cache.shards import read_shard
from prep.cache.sources import Origin

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store
    from prep.cache.writer import StageWriter


def follow_expressions(store: Store, writer: StageWriter, *, keep_missing: bool) -> dict[str, int]:
    """Set aside the scores of expressions that the store no longer has; count the changes."""
    # Scores are made of the expressions in the store, wherever it is.
    origin = Origin("phrases", ("", ""), store.uri, store.uri)
    return follow(writer, origin, _entries(store), keep_missing=keep_missing).counts()


def _entries(store: Store) -> Iterator[Entry]:
    """The expressions that may have scores."""
    for batch in store.stage("phrases").reader().batches(["row_id"]):
        for row_id in batch.column(0).to_pylist():
            yield row_id, {}, None


def cut_remade(proposals: StageReader, writer: StageWriter) -> int:
    """Remove the scores of masks that have since been made again; returns their number."""
    keys: dict[str, str] = {}
    for batch in proposals.batches(["image", "key"]):
        keys.update(zip(batch["image"].to_pylist(), batch["key"].to_pylist(), strict=True))
    cut = {}
    for shard in writer.manifest.shards:
        table = read_shard(writer.files, shard, ["image", "proposals_key"])
        rows = zip(table["image"].to_pylist(), table["proposals_key"].to_pylist(), strict=True)
        stale = {row for row, (image, key) in enumerate(rows) if keys.get(image, key) != key}
        if stale:
            cut[shard] = stale
    cut_rows(writer, cut)
    return sum(map(len, cut.values()))
