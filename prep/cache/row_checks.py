"""Validates the rows of each table: names stay in their folder, masks decode, scores are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pyarrow as pa

from prep.cache.keys import concept_id, is_row_id
from prep.cache.schema import PHRASE_SOURCES
from prep.cache.shards import check_values
from prep.errors import PrepError
from prep.inputs import below
from prep.records import ConceptRow, MaskRow, ProposalRow

MAX_PHRASES = 5
GRID_BYTES = 128

Fault = tuple[int, str]
RowCheck = Callable[[pa.Table], Iterator[Fault]]


def phrase_faults(table: pa.Table) -> Iterator[Fault]:
    """Invalid rows of the phrases table, as (row number, reason)."""
    columns = table.select(["row_id", "image", "phrases", "source", "status", "error"]).to_pydict()
    for number, (row, image, phrases, source, status, error) in enumerate(
        zip(*columns.values(), strict=True)
    ):
        if reason := _name_fault(image, row):
            yield number, reason
        elif status == "error":
            if phrases or not error:
                yield number, "an error row has phrases or no reason"
        elif status != "ok":
            yield number, f"unknown status {status!r}"
        elif not 1 <= len(phrases) <= MAX_PHRASES:
            yield number, f"{len(phrases)} phrases"
        elif any(not phrase or not phrase.strip() for phrase in phrases):
            yield number, "an empty phrase"
        elif source not in PHRASE_SOURCES:
            yield number, f"unknown source {source!r}"


def triplet_faults(table: pa.Table) -> Iterator[Fault]:
    """Invalid rows of the triplets table."""
    names = ["row_id", "image", "entity", "relations", "source", "status", "error"]
    columns = table.select(names).to_pydict()
    for number, (row, image, entity, relations, source, status, error) in enumerate(
        zip(*columns.values(), strict=True)
    ):
        if reason := _name_fault(image, row):
            yield number, reason
        elif status == "error":
            if entity is not None or relations or not error:
                yield number, "an error row has triplets or no reason"
        elif status != "ok":
            yield number, f"unknown status {status!r}"
        elif not entity or not relations:
            yield number, f"{len(relations)} relations of the entity {entity!r}"
        elif any(entity not in (one["subject"], one["object"]) for one in relations):
            yield number, "a relation without the entity"
        elif source not in PHRASE_SOURCES:
            yield number, f"unknown source {source!r}"


def _name_fault(image: str | None, row_id: str | None = None) -> str:
    """Why files that are named after the image or the row could be outside their folder, or empty."""
    if row_id is not None and not is_row_id(row_id):
        return f"the row_id {row_id[:80]!r} is not 32 hex digits"
    if image is not None and below(image) is None:
        return f"the image {image[:80]!r} leaves the image folder"
    return ""


def proposal_faults(table: pa.Table) -> Iterator[Fault]:
    """Rows of the proposals table whose masks do not decode, or do not match the row."""
    number = 0
    for batch in table.to_batches(max_chunksize=64):
        for row in batch.to_pylist():
            reason = _proposal_fault(row)
            if reason:
                yield number, reason
            number += 1


def _proposal_fault(row: ProposalRow) -> str:
    masks, grid = row["masks"], row["grid32"]
    if reason := _status_fault(row):
        return reason
    if len(grid) != GRID_BYTES * len(masks):
        return f"grid32 has {len(grid)} bytes for {len(masks)} masks"
    if masks and not ((row["height"] or 0) > 0 and (row["width"] or 0) > 0):
        return "masks without the image's size"
    for index, mask in enumerate(masks):
        reason = _mask_fault(mask, row["height"], row["width"], grid[GRID_BYTES * index :][:GRID_BYTES])
        if reason:
            return f"mask {index}: {reason}"
    return ""


def _status_fault(row: ProposalRow | ConceptRow) -> str:
    """Whether the status, the number of masks, the reason and the image of a row agree."""
    if row["status"] not in ("ok", "empty", "error"):
        return f"unknown status {row['status']!r}"
    if (row["status"] == "ok") != bool(row["masks"]):
        return f"status {row['status']} with {len(row['masks'])} masks"
    if row["status"] == "error" and not row["error"]:
        return "an error row has no reason"
    # An image that was not opened keeps the name that a folder or the phrases gave.
    return _name_fault(row["image"]) if row["status"] != "error" else ""


def _mask_fault(mask: MaskRow, height: int, width: int, grid: bytes) -> str:
    from prep.masks.grid32 import grid32

    if len(mask["bbox"]) != 4 or not all(map(math.isfinite, mask["bbox"])):
        return "its box is not four finite numbers"
    if reason := _counts_fault(mask["counts"], mask["area"], height, width):
        return reason
    if grid32([mask["counts"]], height, width) != grid:
        return "grid32 is not this mask"
    return ""


def _counts_fault(counts: str, area: int | None, height: int, width: int) -> str:
    from prep.masks import rle

    try:
        runs = rle.expand(counts)
        if rle.area(runs) != area:
            return f"its area is {rle.area(runs)}, not {area}"
        rle.checked_runs(counts, height, width)
    except PrepError as error:
        return error.message.rstrip(".")
    return ""


def score_faults(table: pa.Table) -> Iterator[Fault]:
    """Rows of the scores table with a score that is not finite, or names that are not ours."""
    columns = table.select(["row_id", "image", "scores"]).to_pydict()
    for number, (row, image, scores) in enumerate(zip(*columns.values(), strict=True)):
        if reason := _name_fault(image, row):
            yield number, reason
        elif not all(map(math.isfinite, scores)):
            yield number, "a score is not a finite number"


def concept_faults(table: pa.Table) -> Iterator[Fault]:
    """Rows of the concepts table whose masks do not decode, or that disagree with themselves."""
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            if reason := _concept_fault(row):
                yield number, reason
            number += 1


def _concept_fault(row: ConceptRow) -> str:
    masks = row["masks"]
    if row["concept_id"] != concept_id(row["image"], row["phrase"]):
        return "concept_id is not that of its image and phrase"
    if reason := _status_fault(row):
        return reason
    if masks and not ((row["height"] or 0) > 0 and (row["width"] or 0) > 0):
        return "masks without the image's size"
    if any(a["score"] < b["score"] for a, b in pairwise(masks)):
        return "its masks are not in the order of their scores"
    for index, mask in enumerate(masks):
        numbers = [*mask["bbox"], mask["score"]]
        if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
            return f"mask {index}: its box or score is not finite"
        size = row["height"], row["width"]
        counts = mask["counts"]
        if counts is not None and (reason := _counts_fault(counts, mask["area"], *size)):
            return f"mask {index}: {reason}"
    return ""


def _whole_rows(check: RowCheck, table: pa.Table) -> Iterator[Fault]:
    """The faults that ``check`` finds in rows that have every value, and the other rows."""
    try:
        check_values(table)
    except pa.ArrowInvalid:
        kept = []
        for number in range(table.num_rows):
            try:
                check_values(table.slice(number, 1))
                kept.append(number)
            except pa.ArrowInvalid as error:
                yield number, str(error)
        rest = check(table.take(pa.array(kept, pa.int64())))
        yield from ((kept[number], reason) for number, reason in rest)
    else:
        yield from check(table)


CHECKS: dict[str, RowCheck] = {
    "phrases": partial(_whole_rows, phrase_faults),
    "triplets": partial(_whole_rows, triplet_faults),
    "proposals": partial(_whole_rows, proposal_faults),
    "scores": partial(_whole_rows, score_faults),
    "concepts": partial(_whole_rows, concept_faults),
}
