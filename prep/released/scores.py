"""Reads the ranked proposals of the released PCNet tree into a store, as scores."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prep.cache.keys import canonical_json
from prep.cache.mask_rows import rows_of_images
from prep.cache.rewrite import cut_rows
from prep.cache.schema import SCORES
from prep.cache.score_rows import cut_remade, follow_expressions
from prep.cache.shards import read_shard
from prep.datasets.object_npy import load_object_npy
from prep.engine.runner import Summary
from prep.errors import PrepError
from prep.masks import rle
from prep.proposals.mask_arrays import BadMasks, array_runs
from prep.records import ProposalRow
from prep.released.imports import SOURCE, Sentence, sentences
from prep.released.tree import SAM, candidates_file, masks_folder

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store
    from prep.cache.writer import StageWriter
    from prep.datasets.catalogue import Dataset


def import_scores(
    folder: Path,
    dataset: Dataset,
    store: Store,
    *,
    variant: str = SAM,
    replace: bool = False,
    keep_missing: bool = False,
    arguments: Mapping[str, object] | None = None,
) -> Summary:
    """Import the ranking of the released tree's candidates into ``store`` as scores.

    ``variant`` is the folder of the proposals that are ranked (:func:`prep.released.tree.variant_of`).

    The proposals must already be in the store (``pcnet-prep import --layout official``). They are matched by
    their masks, since a selection may have dropped or reordered them; what cannot be matched is counted in
    ``extra["skipped"]``. Rows whose ranking or masks have changed are made again; those of expressions that
    the store no longer has are set aside, unless ``keep_missing``.
    """
    candidates = load_object_npy(folder / candidates_file(dataset.split_by, variant))
    if not isinstance(candidates, dict):
        raise PrepError(
            f"{candidates_file(dataset.split_by, variant)} contains no dict of references.",
            "Check that it is the right file.",
        )
    wanted: dict[str, list[Sentence]] = {}
    for one in sentences(folder, dataset, None):
        if one.expression.image and one.expression.ref_id in candidates and not one.expression.problem:
            wanted.setdefault(one.expression.image, []).append(one)
    proposals = store.require_table(
        "proposals", f"pcnet-prep import {shlex.quote(str(folder))} --layout official"
    )
    settings = {"model": SOURCE, "layout": "official", "proposals": proposals.fingerprint}
    with store.stage("scores").writer(settings, replace=replace) as writer:
        summary, skipped = Summary(stage="scores", where=writer.uri), Counter[str]()
        summary.extra.update(follow_expressions(store, writer, keep_missing=keep_missing))
        remade = cut_remade(proposals, writer)
        made = list(_tables(folder / masks_folder(variant), proposals, wanted, candidates, skipped))
        changed = _cut_changed(writer, made)
        for table in made:
            new = ~writer.done.contains(table["row_id"].to_pylist())
            writer.write(table.filter(pa.array(new)))
            summary.count(table.filter(pa.array(new)))
        summary.close(sum(map(len, made)), sum(map(len, made)) - summary.done, 0)
        record = summary.figures()
        record["workers"], record["arguments"] = 1, dict(arguments or {})
        writer.record_run(record)
    summary.extra.update({"skipped": dict(skipped), "changed": remade + changed})
    return summary


def _tables(
    masks: Path,
    proposals: StageReader,
    wanted: Mapping[str, list[Sentence]],
    candidates: Mapping[object, object],
    skipped: Counter[str],
) -> Iterator[pa.Table]:
    """The rows of each image; counts the expressions that get none."""
    columns = ["image", "height", "width", "masks", "key", "status"]
    for stored in rows_of_images(proposals, set(wanted), columns):
        if stored["status"] != "ok":
            continue
        texts = wanted[stored["image"]]
        if order := _order(masks, stored):
            table = _score_table(stored, order, texts, candidates)
            skipped["the ranking does not fit the masks"] += len(texts) - len(table)
            yield table
        elif stored["masks"]:
            skipped["the masks in the store are not those of the tree"] += len(texts)
    for reason in [reason for reason, count in skipped.items() if not count]:
        del skipped[reason]


def _cut_changed(writer: StageWriter, made: list[pa.Table]) -> int:
    """Remove the rows whose scores have changed; returns their number."""
    now: dict[str, str] = {}
    for table in made:
        now.update(zip(table["row_id"].to_pylist(), table["key"].to_pylist(), strict=True))
    cut = {}
    for shard in writer.manifest.shards:
        rows = read_shard(writer.files, shard, ["row_id", "key"]).to_pylist()
        if stale := {at for at, row in enumerate(rows) if now.get(row["row_id"], row["key"]) != row["key"]}:
            cut[shard] = stale
    cut_rows(writer, cut)
    return sum(map(len, cut.values()))


def _order(folder: Path, stored: ProposalRow) -> list[int]:
    """For every stored mask its index among the file's 40; empty if they are not the file's masks."""
    path = folder / f"{PurePosixPath(stored['image']).stem}.npy"
    try:
        masks = array_runs(path, stored["height"], stored["width"])
    except BadMasks:
        return []
    places: dict[str, int] = {}
    for place, runs in enumerate(masks):
        places.setdefault(rle.compress(runs), place)
    found = [places.get(mask["counts"], -1) for mask in stored["masks"]]
    return [] if -1 in found else found


def _score_table(
    stored: ProposalRow, order: list[int], texts: list[Sentence], candidates: Mapping[object, object]
) -> pa.Table:
    rows = []
    for one in texts if order else []:
        item = one.expression
        rank = _ranking(candidates[item.ref_id or 0], one.place)
        if max(order, default=0) >= len(rank):
            continue
        scores = [float(rank[place]) for place in order]
        key = hashlib.sha256(canonical_json([item.row_id, stored["key"], scores]).encode()).hexdigest()
        rows.append(
            {
                "row_id": item.row_id,
                "split_by": item.split_by,
                "image": item.image,
                "scores": scores,
                "proposals_key": stored["key"],
                "model": SOURCE,
                "key": key,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORES)


def _ranking(entry: Any, place: int) -> npt.NDArray[np.float32]:
    """The scores of the masks for a reference's sentence; empty if the entry has none."""
    try:
        return np.asarray(entry["clip_score"][place], np.float32).ravel()
    except (KeyError, IndexError, TypeError, ValueError):
        return np.empty(0, np.float32)
