"""Generates masks at a grid of points: what the generators of SAM and SAM 2 have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Generic

import numpy as np
import numpy.typing as npt
import torch

from prep.allocator import keep_freed_memory
from prep.devices import cpu_cores
from prep.errors import PrepError
from prep.files import sha256_of
from prep.proposals.sam.candidates import MaskData
from prep.proposals.sam.crops import Crop, Points, crops, cut_off, grids
from prep.proposals.sam.device import reduced_precision
from prep.proposals.sam.fidelity import Differences, exactness_stats, refuse_wrong_masks
from prep.proposals.sam.nms import suppress
from prep.proposals.sam.parts import Embedded, Encoder, Model, PointDecoder, Settings
from prep.proposals.sam.postprocess import Measures, Postprocessor, Thresholds
from prep.proposals.sam.upsample import Geometry
from prep.records import Proposal

log = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]
SAMPLE = 100  # with fidelity fast, one image in this many is also computed exactly
FAST = "fidelity fast: masks are close to the reference's, not equal; a sample is compared with exact"


class PointGridGenerator(ABC, Generic[Settings, Model, Embedded]):
    """Generates the masks of a reference generator, in its order; a subclass defines the model.

    Picklable until :meth:`open`, which loads the model once by ``load``.
    """

    images_at_once = 1  # encoded together
    masks_per_point = 3
    _model: Model
    _encode: Encoder[Embedded]
    _decode: PointDecoder[Embedded]

    def __init__(self, name: str, settings: Settings, load: Callable[[Settings], Model]) -> None:
        self.name = name
        self.options = settings
        self.recomputed = 0  # masks recomputed by the reference's operations, out of
        self.measured = 0  # masks measured so far
        # From exact, on a sample of the images; only if the fidelity is fast.
        self.differences = Differences()
        self._proposed = 0
        # The last bits of a matrix product depend on the number of threads, and Ray workers have a different
        # number from this process, so every copy uses the number of this process.
        self._threads = settings.threads or torch.get_num_threads()
        self._load = load
        self._weights_sha256: str | None = None
        self._is_open = False

    # What a subclass defines.

    @abstractmethod
    def _checkpoint(self) -> Path:
        """The file of the weights."""

    @abstractmethod
    def _parts(self, fast: bool) -> tuple[Encoder[Embedded], PointDecoder[Embedded]]:
        """The encoder of resized crops and the decoder of a batch of prompts, for a fidelity."""

    @abstractmethod
    def _thresholds(self) -> Thresholds:
        """The thresholds of the mask and of its stability score."""

    @abstractmethod
    def _fits(self, size: tuple[int, int]) -> bool:
        """Whether a crop of ``size`` (H, W) has pixels after it was resized."""

    @abstractmethod
    def _resize(self, pixels: Image) -> torch.Tensor:
        """A crop as the encoder takes it."""

    @abstractmethod
    def _embed_points(self, layer: int, size: tuple[int, int]) -> list[torch.Tensor]:
        """The prompts of a crop of ``size``, in the reference's batches; the same for all images of that
        size.
        """

    def _points(self, layer: int, size: tuple[int, int]) -> Points:
        """The points of a crop of ``size`` (H, W), in its pixels."""
        return np.asarray(self._grids[layer] * np.array([size[1], size[0]]))

    @abstractmethod
    def _geometry(self, features: Embedded, size: tuple[int, int]) -> Geometry:
        """The mapping from the logits of a crop of ``size`` (H, W) and its embedding to its pixels."""

    def _cleaned(self, found: MaskData, size: tuple[int, int]) -> MaskData:
        """The masks of an image of ``size`` (H, W) after the last step of the reference."""
        return found

    # What is shared.

    def settings(self) -> dict[str, object]:
        """Every setting that can change a mask (JSON values), for the content key."""
        return self.options.key()

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the checkpoint file (64 hex digits); read once, without loading the model."""
        if self._weights_sha256 is None:
            self._weights_sha256 = sha256_of(self._checkpoint())
        return self._weights_sha256

    def open(self) -> None:
        """Load the model; raises PrepError if the weights or the device are not available."""
        self._model = self._load(self.options)
        self._is_open = True
        self._device = self._model.device
        self._grids = grids(self.options)
        self._cuts = self._thresholds()
        torch.set_num_threads(self._threads)
        keep_freed_memory(self._device.type)
        self._pool = ThreadPoolExecutor(max(1, min(self._threads, cpu_cores())), thread_name_prefix="resize")
        self._post = Postprocessor(self._threads)
        with torch.inference_mode():
            self._encode, self._decode = self._exact = self._parts(fast=False)
            if self.options.fidelity == "fast":
                log.warning(FAST)
                self._encode, self._decode = self._parts(fast=True)
        self._prompts = lru_cache(maxsize=64)(self._embed_points)

    def propose(self, images: Sequence[Image]) -> list[list[Proposal]]:
        """The masks of each image (H x W x 3, uint8, RGB) in the reference's order; none if all are filtered
        out.
        """
        if not self._is_open:
            raise PrepError("The generator has not been opened.", "Call open() before propose().")
        if self.options.fidelity == "exact":
            return self._masks(images)
        with reduced_precision(self._device):
            found = self._masks(images)
        for image, fast in zip(images, found, strict=True):
            if self._proposed % SAMPLE == 0:
                self._compare(image, fast)
            self._proposed += 1
        return found

    def report(self) -> dict[str, object]:
        """Statistics on how the masks were computed, as JSON values."""
        said: dict[str, object] = {"measured": self.measured, "recomputed": self.recomputed}
        if self.options.fidelity == "fast":
            said["compared_with_exact"] = self.differences.summary()
        return said

    def pop_stats(self) -> dict[str, object]:
        """The statistics since the last call, as :class:`prep.proposals.sam.fidelity.ExactnessStats`
        sums them up.
        """
        taken = exactness_stats(self.measured, self.recomputed, self.differences, self._notes())
        self.measured = self.recomputed = 0
        self.differences = Differences()
        return taken

    def _notes(self) -> set[str]:
        """What ran without its faster kernel, and why."""
        notes = {self._post.without_gpu, self._decode.without_sharing} if self._is_open else set()
        return notes - {""}

    def _compare(self, image: Image, fast: list[Proposal]) -> None:
        """Compute an image exactly too, and log how its masks differ; PrepError if most are other masks."""
        quick = self._encode, self._decode
        self._encode, self._decode = self._exact
        try:
            exact = self._masks([image])[0]
        finally:
            self._encode, self._decode = quick
        far = self.differences.add(exact, fast, (image.shape[0], image.shape[1]), self.options)
        log.warning("fidelity fast: %s", self.differences)
        refuse_wrong_masks(len(exact), far)

    def _masks(self, images: Sequence[Image]) -> list[list[Proposal]]:
        """The masks of each image by the encoder and decoder in use."""
        options = self.options
        found: list[list[MaskData]] = [[] for _ in images]
        work = [
            (number, crop)
            for number, image in enumerate(images)
            for crop in crops(image.shape[:2], options.crop_n_layers, options.crop_overlap_ratio)
            if self._fits(crop.size)
        ]
        with torch.inference_mode():
            for (number, crop), features in self._embedded(images, work):
                found[number].append(self._in_crop(features, crop, images[number].shape[:2]))
            return [self._finish(parts, image.shape[:2]) for parts, image in zip(found, images, strict=True)]

    def _embedded(
        self, images: Sequence[Image], work: list[tuple[int, Crop]]
    ) -> Iterator[tuple[tuple[int, Crop], Embedded]]:
        """The embedding of each crop, resized before the encoder runs."""
        size = self.images_at_once

        def cut(piece: tuple[int, Crop]) -> torch.Tensor:
            x0, y0, x1, y1 = piece[1].box
            return self._resize(images[piece[0]][y0:y1, x0:x1])

        groups = [work[start : start + size] for start in range(0, len(work), size)]
        ahead = [self._pool.submit(cut, piece) for piece in groups[0]] if groups else []
        for number, group in enumerate(groups):
            pixels = [future.result() for future in ahead]
            if number + 1 < len(groups):
                ahead = [self._pool.submit(cut, piece) for piece in groups[number + 1]]
            yield from zip(group, self._encode(pixels), strict=True)

    def _in_crop(self, features: Embedded, crop: Crop, size: tuple[int, int]) -> MaskData:
        """The masks that survive in one crop of an image of ``size``, best predicted IoU first."""
        plan = self._geometry(features, crop.size)
        points = np.repeat(self._points(crop.layer, crop.size), self.masks_per_point, axis=0)
        logits: list[torch.Tensor] = []
        ious, stability, boxes, kept, close = [], [], [], [], []
        first = 0
        for prompts in self._prompts(crop.layer, crop.size):
            some = self._decode(features, prompts, self.options.pred_iou_thresh)
            seen, keep = self._measure(some.logits, plan, crop, size)
            logits += [
                some.logits[i] for i in keep
            ]  # views, not copies: those below the threshold are kept until the end
            ious.append(some.iou.cpu()[torch.as_tensor(keep)])
            stability.append(seen.stability[keep])
            boxes.append(seen.boxes[keep])
            close.append(seen.recomputed[keep])
            kept.append(some.index.numpy()[keep] + first)
            first += self.masks_per_point * len(prompts)
        if not logits:
            return MaskData.nothing()
        order = suppress(
            np.concatenate(boxes), torch.cat(ious), self.options.box_nms_thresh, self._device.type
        )
        where = torch.as_tensor(order)
        winners = [logits[i] for i in order]
        shift = np.array([crop.box[0], crop.box[1]])
        return MaskData(
            self._post.runs(winners, plan, self._cuts, crop.box[:2], size, np.concatenate(close)[order]),
            torch.cat(ious)[where],
            np.concatenate(stability)[order],
            (np.concatenate(boxes)[order] + np.tile(shift, 2)).astype(np.float32),
            points[np.concatenate(kept)[order]] + shift.astype(points.dtype),
            np.tile(np.array(crop.box, np.int64), (len(order), 1)),
        )

    def _measure(
        self, logits: torch.Tensor, plan: Geometry, crop: Crop, size: tuple[int, int]
    ) -> tuple[Measures, npt.NDArray[np.int64]]:
        """The measures of the candidates, and which of them are stable and not cut off by the crop."""
        seen = self._post.measure(logits, plan, self._cuts)
        self.measured += len(seen.area)
        self.recomputed += int(seen.recomputed.sum())
        keep = ~cut_off(seen.boxes, crop, size)
        if self.options.stability_score_thresh > 0.0:
            # Compared in float32, as torch compares a tensor with a number; NaN (an empty mask) is dropped.
            keep &= seen.stability >= np.float32(self.options.stability_score_thresh)
        return seen, np.flatnonzero(keep)

    def _finish(self, parts: list[MaskData], size: tuple[int, int]) -> list[Proposal]:
        """The proposals of an image from the masks of its crops."""
        options = self.options
        found = MaskData.join(parts) if parts else MaskData.nothing()
        if len(found.runs) == 0:
            return []
        if options.crop_n_layers > 0:
            # Masks of smaller crops first. The areas are those of the crops, as int64.
            sides = torch.as_tensor(found.crops[:, 2:] - found.crops[:, :2])
            scores = 1 / (sides[:, 0] * sides[:, 1])
            found = found.pick(suppress(found.boxes, scores, options.crop_nms_thresh, self._device.type))
        found = self._cleaned(found, size)
        return [found.proposal(i) for i in range(len(found.runs))]
