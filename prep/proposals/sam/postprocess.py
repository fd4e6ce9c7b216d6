"""Computes stability scores, boxes and runs from low-resolution logits, equal to the reference
generator's.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from prep.display import shown
from prep.masks import rle
from prep.proposals.sam import kernels_cpu as kernels
from prep.proposals.sam.upsample import Geometry, reference, workspace

log = logging.getLogger(__name__)

CHUNK = 16  # masks per thread task
COPIED = 256  # masks copied from a GPU at a time
ROOM = 1 << 14  # expected maximum of run changes per mask; a mask with more is computed again with more space


@dataclass(frozen=True)
class Thresholds:
    """The generator's three thresholds: ``middle`` gives the mask, the other two its stability score.

    Compared in float32, as torch compares a float32 tensor with a number.
    """

    low: np.float32
    middle: np.float32
    high: np.float32

    @staticmethod
    def of(mask_threshold: float, offset: float) -> Thresholds:
        """The thresholds for ``mask_threshold`` and ``stability_score_offset`` of the reference."""
        return Thresholds(
            np.float32(mask_threshold - offset),
            np.float32(mask_threshold),
            np.float32(mask_threshold + offset),
        )

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """The three in ascending order (a negative offset reverses them)."""
        return np.sort(np.array([self.low, self.middle, self.high], np.float32))


@dataclass
class Measures:
    """The measures of n masks before any runs are computed: ``high`` and ``low`` count pixels above the outer
    thresholds.

    ``boxes`` (n x 4, int64) are XYXY of the first and last pixel inside, zeros for an empty mask.
    ``recomputed`` marks those computed by the reference's operations because a value was too close to a
    threshold.
    """

    high: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    area: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]
    recomputed: npt.NDArray[np.bool_]

    @property
    def stability(self) -> npt.NDArray[np.float32]:
        """The reference's stability score: IoU of the masks at the outer thresholds, NaN if both
        are empty.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.high.astype(np.float32) / self.low.astype(np.float32), np.float32)


def settled_edges(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Both sides of each threshold, at the distance by which rounding can move a mean of values across it."""
    margin = np.abs(values) * np.float32(1e-5) + np.float32(1e-30)
    return np.stack([values - margin, values + margin], axis=1).ravel().astype(np.float32)


class Postprocessor:
    """Runs the fused pass over many masks on their device; on a CPU with ``threads`` threads.

    ``without_gpu`` is why the CPU's kernels measure masks that are on a GPU; empty while Triton's do.
    """

    def __init__(self, threads: int = 1) -> None:
        self.without_gpu = ""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="masks") if threads > 1 else None

    def measure(self, logits: torch.Tensor, plan: Geometry, cuts: Thresholds) -> Measures:
        """Measure masks given as logits (n, L, L), float32."""
        values = cuts.values
        results = self._measure_on_gpu(logits, plan, values) if logits.is_cuda else None
        if results is None:
            results = self._measure(np.ascontiguousarray(logits.cpu().numpy()), plan, values)
        close = results[:, kernels.CLOSE] > 0
        for i, pixels in zip(
            np.flatnonzero(close),
            pixels_by_reference([logits[i] for i in np.flatnonzero(close)], plan),
            strict=True,
        ):
            results[i] = count(pixels, values)
        boxes = results[:, [kernels.LEFT, kernels.TOP, kernels.RIGHT, kernels.BOTTOM]]
        boxes[results[:, kernels.AREA] == 0] = 0
        high, low_count = results[:, kernels.HIGH], results[:, kernels.LOW]
        if cuts.low > cuts.high:
            high, low_count = low_count, high
        return Measures(high, low_count, results[:, kernels.AREA], boxes, close)

    def _measure_on_gpu(
        self, logits: torch.Tensor, plan: Geometry, values: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64] | None:
        """The same by the Triton kernel; ``None`` from its first error on, which is logged."""
        if self.without_gpu:
            return None
        try:
            kernel = importlib.import_module("prep.proposals.sam.kernels_gpu")
            found: npt.NDArray[np.int64] = kernel.measure(logits, plan, values, settled_edges(values))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # its compiler fails in ways of its own
            told = shown(f"{type(error).__name__}: {error}".splitlines()[0])
            self.without_gpu = f"masks are measured on the CPU, because the GPU kernel failed: {told}"
            log.warning("%s", self.without_gpu)
            return None
        return found

    def _measure(
        self, low: npt.NDArray[np.float32], plan: Geometry, values: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64]:
        """The nine results of each mask, by the CPU kernels."""
        results = np.empty((len(low), kernels.EDGES + 1), np.int64)
        edges = settled_edges(values)

        def work(part: slice) -> None:
            kernels.measure_all(
                low[part], plan.arrays, values, edges, np.float32(plan.band), workspace(plan), results[part]
            )

        self._share(work, len(low))
        return results

    def runs(
        self,
        logits: Sequence[torch.Tensor],
        plan: Geometry,
        cuts: Thresholds,
        corner: tuple[int, int],
        size: tuple[int, int],
        recompute: npt.NDArray[np.bool_],
    ) -> list[rle.Runs]:
        """The runs of masks, each L x L, in an image of ``size`` (H, W), with their crop at ``corner`` (X,
        Y).

        Those to ``recompute`` are computed by the reference's operations.
        """
        low = _in_memory(logits)
        out: list[rle.Runs] = [np.empty(0, np.int64)] * len(low)
        values = np.full(3, cuts.middle, np.float32)
        edges = settled_edges(values)
        offset = corner[0] * size[0] + corner[1]

        def work(part: slice) -> None:
            room, tools = np.empty(ROOM, np.int64), workspace(plan)
            for i in range(part.start, part.stop):
                used = kernels.trace(low[i], plan.arrays, values, edges, offset, size[0], room, tools)
                if used > len(room):
                    room = np.empty(2 * used, np.int64)
                    used = kernels.trace(low[i], plan.arrays, values, edges, offset, size[0], room, tools)
                out[i] = kernels.lengths(room[:used], size[0] * size[1])

        self._share(work, len(low))
        (height, width), (x, y) = plan.size, corner
        for i, pixels in zip(
            np.flatnonzero(recompute),
            pixels_by_reference([logits[i] for i in np.flatnonzero(recompute)], plan),
            strict=True,
        ):
            whole = np.zeros(size, np.bool_)
            whole[y : y + height, x : x + width] = pixels > cuts.middle
            out[i] = rle.encode(whole)
        return out

    def _share(self, work: Callable[[slice], None], count: int) -> None:
        """Run ``work`` on all of ``count`` masks, in chunks."""
        if self._pool is None:
            work(slice(0, count))
        else:
            list(self._pool.map(work, _chunks(count)))


def _in_memory(logits: Sequence[torch.Tensor]) -> list[npt.NDArray[np.float32]]:
    """The logits of each mask (L x L) in main memory; from a GPU, :data:`COPIED` masks in one copy."""
    if len(logits) == 0 or logits[0].device.type == "cpu":
        return [mask.numpy() for mask in logits]
    groups = [logits[start : start + COPIED] for start in range(0, len(logits), COPIED)]
    return [mask for group in groups for mask in torch.stack(list(group)).cpu().numpy()]


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def pixels_by_reference(logits: Sequence[torch.Tensor], plan: Geometry) -> Iterator[npt.NDArray[np.float32]]:
    """Each mask's pixels (H x W) by the reference's operations, as many at a time as in the reference."""
    for start in range(0, len(logits), plan.channels):
        group = list(logits[start : start + plan.channels])
        filled = torch.stack(group + group[:1] * (plan.channels - len(group)))
        pixels = reference(filled[None], plan.mid, plan.inside, plan.size)[0].cpu().numpy()
        yield from pixels[: len(group)]


def count(pixels: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The results of :func:`kernels_cpu.measure`, from all of a mask's pixels; none is close."""
    mask = pixels > values[1]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = (columns[0], rows[0], columns[-1], rows[-1]) if len(rows) else (1, 1, 0, 0)
    counts = (int((pixels > values[2]).sum()), int((pixels > values[0]).sum()), int(mask.sum()))
    return np.array([*counts, left, top, right, bottom, 0, 0], np.int64)
