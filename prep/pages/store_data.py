"""Collects the data of the report on a store: statistics over all rows, and a gallery of some of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prep.images import UnreadableImage, read_rgb
from prep.inputs import below
from prep.pages import pictures
from prep.records import Expression

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store

THUMBNAIL_SIDE = 320
# The number of bars in a histogram.
BINS = 20
PHRASE_COLUMNS = [
    "row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "image", "expression",
    "phrases", "source", "violations", "repairs", "rejected", "status", "error",
]  # fmt: skip


@dataclass
class Histogram:
    """Counts of values in ``BINS`` equal bins from ``low`` to ``high``; outliers count in the outer bins."""

    low: float
    high: float
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count ``values``, ignoring those that are not finite."""
        numbers = np.asarray(values, dtype=np.float64)
        numbers = numbers[np.isfinite(numbers)]
        at = ((numbers - self.low) / (self.high - self.low) * BINS).astype(np.int64)
        self.counts += np.bincount(np.clip(at, 0, BINS - 1), minlength=BINS)

    def to_json(self) -> dict[str, Any]:
        """The bars as ``[from, count]``, empty if nothing was counted."""
        step = (self.high - self.low) / BINS
        bars = [[round(self.low + at * step, 4), int(count)] for at, count in enumerate(self.counts)]
        return {"bars": bars if self.counts.any() else [], "step": step}


def stages(store: Store) -> list[dict[str, Any]]:
    """How each table was generated, according to its manifest."""
    told = []
    for name in store.stages():
        manifest = store.stage(name).reader().manifest
        if manifest is not None:
            told.append(
                {
                    "stage": name,
                    "rows": manifest.rows,
                    "bytes": sum(shard.bytes for shard in manifest.shards.values()),
                    "shards": len(manifest.shards),
                    "created": manifest.created,
                    "settings": list(flat(manifest.settings)),
                    "versions": manifest.versions,
                    "inputs": manifest.inputs,
                    "runs": [
                        {
                            key: run.get(key)
                            for key in ("at", "rows", "failed", "reused", "seconds", "rate", "workers")
                        }
                        for run in manifest.runs
                    ],
                }
            )
    return told


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """A nested mapping as ``[dotted name, value]`` pairs."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flat(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield [f"{prefix}{key}", str(inner)]


class PhraseCounts:
    """Counts of sources, violations, numbers of phrases and errors over all phrase rows."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count some rows."""
        for row in rows:
            self.splits[f"{row['dataset']} {row['split_by']} {row['split']}".replace("  ", " ")] += 1
            if row["status"] == "error":
                self.failures[row["error"] or "no reason given"] += 1
                continue
            self.sources[row["source"] or "none"] += 1
            self.lengths[len(row["phrases"])] += 1
            self.violations.update(set(row["violations"]))
            self.repairs.update(set(row["repairs"] or ()))
            for attempt in row["rejected"]:
                self.rejected.update(
                    f"{attempt['source']}: {code}" for code in attempt["violations"] or ["?"]
                )

    def to_json(self) -> dict[str, Any]:
        """Each count as ``[name, count]`` pairs, the most frequent first; lengths by number."""
        return {
            "splits": sorted(self.splits.items()),
            "sources": self.sources.most_common(),
            "violations": self.violations.most_common(30),
            "repairs": self.repairs.most_common(30),
            "rejected": self.rejected.most_common(30),
            "lengths": sorted(self.lengths.items()),
            "failures": self.failures.most_common(50),
        }


class ProposalCounts:
    """Distributions of masks per image, their sizes and scores, and the errors over all proposal rows."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.masks = Histogram(0, 60)
        self.area = Histogram(-4, 0)
        self.predicted_iou = Histogram(0.5, 1.05)
        self.stability_score = Histogram(0.5, 1.0)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count some rows."""
        for row in rows:
            self.status[row["status"]] += 1
            if row["status"] == "error":
                self.failures[row["error"] or "no reason given"] += 1
                continue
            masks = row["masks"]
            self.masks.add(np.array([len(masks)]))
            if not masks:
                continue
            pixels = max((row["height"] or 0) * (row["width"] or 0), 1)
            self.area.add(np.log10(np.maximum([mask["area"] for mask in masks], 1) / pixels))
            for name in ("predicted_iou", "stability_score"):
                values = [mask[name] for mask in masks if mask[name] is not None]
                getattr(self, name).add(np.array(values, dtype=np.float64))

    def to_json(self) -> dict[str, Any]:
        """Counts as pairs and histograms as bars; areas are log10 of the share of the image."""
        return {
            "status": self.status.most_common(),
            "failures": self.failures.most_common(50),
            "masks": self.masks.to_json(),
            "area": self.area.to_json(),
            "predicted_iou": self.predicted_iou.to_json(),
            "stability_score": self.stability_score.to_json(),
        }


class Column:
    """A dictionary-encoded column of strings."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.codes: list[int] = []
        self._code: dict[str, int] = {}

    def code(self, value: str | None) -> int:
        """The code of ``value``; -1 for null."""
        if value is None:
            return -1
        at = self._code.setdefault(value, len(self.values))
        if at == len(self.values):
            self.values.append(value)
        return at

    def __contains__(self, value: str) -> bool:
        return value in self._code

    def add(self, value: str | None) -> None:
        """Append a row's value."""
        self.codes.append(self.code(value))

    def to_json(self) -> dict[str, Any]:
        """``values`` and the code of each row."""
        return {"values": self.values, "codes": self.codes}


class Gallery:
    """The searchable rows of the page, as columns: small to store and quick to filter."""

    def __init__(self) -> None:
        self.columns = {name: Column() for name in ("dataset", "split", "source", "status", "image", "error")}
        self.violations: list[list[int]] = []
        self.codes = Column()
        self.text: list[str] = []
        self.phrases: list[list[str]] = []
        self.ids: list[list[int | None]] = []
        self.row_ids: list[str] = []
        self.image_ids: list[int | None] = []
        self.split_bys = Column()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one phrase row."""
        for name, column in self.columns.items():
            column.add(row[name])
        self.violations.append([self.codes.code(code) for code in row["violations"]])
        self.text.append(row["expression"])
        self.phrases.append(row["phrases"])
        self.ids.append([row["ref_id"], row["sent_id"]])
        self.row_ids.append(row["row_id"])
        self.image_ids.append(row["image_id"])
        self.split_bys.add(row["split_by"])

    def expression(self, at: int) -> Expression:
        """Row ``at`` as returned by the dataset's reader."""
        ref_id, sent_id = self.ids[at]
        named = {
            name: column.values[column.codes[at]]
            for name, column in (*self.columns.items(), ("split_by", self.split_bys))
            if name in ("dataset", "split_by", "split", "image") and column.codes[at] >= 0
        }
        return Expression(
            row_id=self.row_ids[at],
            dataset=named["dataset"],
            split_by=named["split_by"],
            split=named["split"],
            ref_id=ref_id,
            sent_id=sent_id,
            image_id=self.image_ids[at],
            image=named.get("image"),
            text=self.text[at],
        )

    def to_json(self) -> dict[str, Any]:
        """The columns that the page needs."""
        return {
            **{name: column.to_json() for name, column in self.columns.items()},
            "violations": {"values": self.codes.values, "lists": self.violations},
            "text": self.text,
            "phrases": self.phrases,
            "ids": self.ids,
        }


def picture(row: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """The page's data for one proposal row: a thumbnail if the image is available, and its masks as RLE."""
    masks = [
        [mask["counts"], mask["area"], mask["predicted_iou"], mask["stability_score"]]
        for mask in row["masks"]
    ]
    size = [row["height"], row["width"]]
    return {"size": size, "masks": masks, "thumbnail": thumbnail(row["image"], data)}


def thumbnail(image: str, data: Path | None) -> str | None:
    """The image scaled to ``THUMBNAIL_SIDE`` as a JPEG data URI; None if it cannot be read."""
    if data is None or below(image) is None:
        return None
    try:
        small = read_rgb(data / image)
    except UnreadableImage:
        return None
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return pictures.data_uri(np.asarray(small), "JPEG")


def response_levels(path: Path) -> list[list[Any]]:
    """Each stage's map in a file of ``pcnet eval --save-stages`` as [height, width, base64 of bytes].

    0 stands for non-positive values, 255 for the maximum; positive values are at least 1.
    """
    maps = np.maximum(np.nan_to_num(np.load(path, allow_pickle=False).astype(np.float32)), 0)
    tops = np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-9)
    levels = np.ceil(maps / tops * 255).astype(np.uint8)
    return [[*level.shape, base64.b64encode(level.tobytes()).decode()] for level in levels]


def rows_of(reader: StageReader, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The committed rows of a table in batches that fit in memory."""
    for batch in reader.batches(columns=columns):
        yield batch.to_pylist()
