"""Counts the rows of a store's tables for its report, batch by batch and column by column."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# The number of bars in a histogram.
BINS = 20
# Expressions shown for each violation.
EXAMPLES = 3


@dataclass
class Histogram:
    """Counts of values in ``BINS`` equal bins from ``low`` to ``high``; outliers count in the outer bins."""

    low: float
    high: float
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    total: float = 0.0

    def add(self, values: npt.NDArray[np.number]) -> None:
        """Count ``values``, ignoring those that are not finite."""
        numbers = np.asarray(values, dtype=np.float64)
        numbers = numbers[np.isfinite(numbers)]
        at = ((numbers - self.low) / (self.high - self.low) * BINS).astype(np.int64)
        self.counts += np.bincount(np.clip(at, 0, BINS - 1), minlength=BINS)
        self.total += float(numbers.sum())

    def to_json(self) -> dict[str, object]:
        """The bars as ``[from, count]``, empty if nothing was counted; their width, and the mean."""
        step = (self.high - self.low) / BINS
        bars = [[round(self.low + at * step, 4), int(count)] for at, count in enumerate(self.counts)]
        n = int(self.counts.sum())
        return {"bars": bars if n else [], "step": step, "n": n, "mean": self.total / n if n else None}


class PhraseCounts:
    """Counts of sources, violations, phrases, words and errors over all phrase rows."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.examples: dict[str, list[list[object]]] = {}
        self.repairs: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.words: Counter[int] = Counter()
        self.phrase_words: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch of the phrases table."""
        import pyarrow as pa
        import pyarrow.compute as pc

        of_split = pa.table({name: batch[name] for name in ("dataset", "split_by", "split")})
        for row in of_split.group_by(of_split.column_names).aggregate([([], "count_all")]).to_pylist():
            named = [row[name] for name in of_split.column_names if row[name]]
            self.splits[" ".join(named)] += row["count_all"]
        failed = pc.equal(batch["status"], "error")
        _count(self.failures, batch.filter(failed)["error"], "no reason given")
        kept = batch.filter(pc.invert(failed))
        _count(self.sources, kept["source"], "none")
        _count(self.lengths, pc.list_value_length(kept["phrases"]))
        for counter, texts in (
            (self.words, kept["expression"]),
            (self.phrase_words, kept["phrases"].flatten()),
        ):
            for words, times in zip(*np.unique(word_counts(texts), return_counts=True), strict=True):
                counter[int(words)] += int(times)
        self._violations(kept)
        for _, code in _distinct(kept["repairs"]):
            self.repairs[code] += 1
        for row in kept.filter(pc.greater(pc.list_value_length(kept["rejected"]), 0))["rejected"].to_pylist():
            for attempt in row:
                self.rejected.update(f"{attempt['source']}: {one}" for one in attempt["violations"] or ["?"])

    def _violations(self, batch: pa.RecordBatch) -> None:
        for at, code in _distinct(batch["violations"]):
            self.violations[code] += 1
            examples = self.examples.setdefault(code, [])
            if len(examples) < EXAMPLES:
                examples.append([batch["expression"][at].as_py(), batch["phrases"][at].as_py()])

    def to_json(self) -> dict[str, object]:
        """Each count as ``[name, count]`` pairs, the most frequent first; lengths by number."""
        violations = self.violations.most_common(30)
        return {
            "splits": sorted(self.splits.items()),
            "sources": self.sources.most_common(),
            "violations": violations,
            "examples": {code: self.examples[code] for code, _ in violations},
            "repairs": self.repairs.most_common(30),
            "rejected": self.rejected.most_common(30),
            "lengths": sorted(self.lengths.items()),
            "words": sorted(self.words.items()),
            "phrase_words": sorted(self.phrase_words.items()),
            "failures": self.failures.most_common(50),
        }


class ProposalCounts:
    """Distributions of masks per image, their sizes, scores and coverage, and errors over all images."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.masks = Histogram(0, 60)
        self.area = Histogram(-4, 0)
        self.coverage = Histogram(0, 1)
        self.predicted_iou = Histogram(0.5, 1.05)
        self.stability_score = Histogram(0.5, 1.0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch of the proposals table."""
        import pyarrow.compute as pc

        _count(self.status, batch["status"])
        failed = pc.equal(batch["status"], "error")
        _count(self.failures, batch.filter(failed)["error"], "no reason given")
        kept = batch.filter(pc.invert(failed))
        numbers = _numbers(pc.list_value_length(kept["masks"])).astype(np.int64)
        self.masks.add(numbers)
        masks = kept["masks"].flatten()
        pixels = np.nan_to_num(_numbers(kept["height"]) * _numbers(kept["width"]))
        share = np.maximum(_numbers(masks.field("area")), 1) / np.repeat(np.maximum(pixels, 1), numbers)
        self.area.add(np.log10(share))
        self.predicted_iou.add(_numbers(masks.field("predicted_iou")))
        self.stability_score.add(_numbers(masks.field("stability_score")))
        self.coverage.add(np.array([covered(grid) for grid in kept["grid32"].to_pylist() if grid]))

    def to_json(self) -> dict[str, object]:
        """Counts as pairs and histograms as bars; areas are log10 of the share of the image."""
        return {
            "status": self.status.most_common(),
            "failures": self.failures.most_common(50),
            "masks": self.masks.to_json(),
            "area": self.area.to_json(),
            "coverage": self.coverage.to_json(),
            "predicted_iou": self.predicted_iou.to_json(),
            "stability_score": self.stability_score.to_json(),
        }


def covered(grid: bytes) -> float:
    """The share of the 32 x 32 cells of an image that at least one of its packed masks contains."""
    from prep.masks.grid32 import BYTES_PER_MASK

    union = np.bitwise_or.reduce(np.frombuffer(grid, dtype=np.uint8).reshape(-1, BYTES_PER_MASK), axis=0)
    return int(np.unpackbits(union).sum()) / (8 * BYTES_PER_MASK)


def word_counts(texts: pa.Array) -> npt.NDArray[np.int64]:
    """The number of words of each string: its parts between spaces, tabs and line breaks.

    It is read from the array's bytes, because a regular expression took half of the time of a whole report.
    """
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    _, places, data = texts.buffers()
    ends = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    held = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data else np.zeros(0, np.uint8)
    ends -= ends[0]
    space = (held == 32) | ((held >= 9) & (held <= 13))
    begins = ~space
    begins[1:] &= space[:-1]
    firsts = ends[:-1][ends[:-1] < len(held)]  # a word may begin where the string before ends in one
    begins[firsts] = ~space[firsts]
    before = np.concatenate([[0], np.cumsum(begins)])
    counts: npt.NDArray[np.int64] = before[ends[1:]] - before[ends[:-1]]
    return counts


def _count(counter: Counter[T], values: pa.Array, absent: T | None = None) -> None:
    """Add the number of times that each value occurs; ``absent`` stands for null and the empty string."""
    for entry in values.value_counts().to_pylist():
        counter[entry["values"] or absent if absent is not None else entry["values"]] += entry["counts"]


def _distinct(lists: pa.Array) -> list[tuple[int, str]]:
    """(row, value) for each distinct value of each list, in the order of rows."""
    import pyarrow.compute as pc

    rows, values = pc.list_parent_indices(lists).to_pylist(), lists.flatten().to_pylist()
    return list(dict.fromkeys(zip(rows, values, strict=True)))


def _numbers(values: pa.Array) -> npt.NDArray[np.float64]:
    """The values of an array as floats; null is NaN."""
    import pyarrow as pa

    numbers: npt.NDArray[np.float64] = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers
