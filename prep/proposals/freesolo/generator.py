"""Runs the `freesolo` generator: FreeSOLO's masks, in the order of their scores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prep.allocator import keep_freed_memory
from prep.errors import PrepError
from prep.files import sha256_of
from prep.masks import rle
from prep.proposals.freesolo.settings import FreeSoloSettings, find_checkpoint
from prep.records import Proposal

if TYPE_CHECKING:
    import torch

    from prep.proposals.freesolo.network import Network

# RGB: freesolo_30k.yaml:3-4,36.
MEAN = (123.675, 116.280, 103.530)
DEVIATION = (58.395, 57.120, 57.375)
MULTIPLE = 32  # the pyramid's size_divisibility
VERSION = 1  # part of every key: increment it when the masks change


class FreeSoloGenerator:
    """Masks of the released FreeSOLO model; ``predicted_iou`` is the score after matrix NMS."""

    name = "freesolo"

    def __init__(self, settings: FreeSoloSettings | None = None) -> None:
        self.options = settings or FreeSoloSettings()
        self._weights_sha256: str | None = None
        self._network: Network | None = None
        # Every worker uses this number of threads: the last bits of a matrix product depend on it.
        self._threads = int(os.environ.get("OMP_NUM_THREADS", "0"))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file (64 hex digits)."""
        if self._weights_sha256 is None:
            self._weights_sha256 = sha256_of(find_checkpoint(self.options.checkpoint))
        return self._weights_sha256

    def settings(self) -> dict[str, object]:
        """Every option but the path and the device, and the version of the method."""
        return {"version": VERSION, **self.options.key()}

    def open(self) -> None:
        """Load the network; raises PrepError if the file is missing or holds other weights."""
        path = find_checkpoint(self.options.checkpoint)
        if path.suffix == ".pkl":
            raise PrepError(
                f"{path} is a pickle of detectron2, which is not read because it can run code.",
                "Set --checkpoint to the .pth file of the trained model.",
            )
        import torch

        from prep.proposals.checkpoint import read_weights
        from prep.proposals.freesolo.network import build

        if self._threads:
            torch.set_num_threads(self._threads)
        keep_freed_memory(self.options.device)
        self._network = build(read_weights(path), str(path)).to(self.options.device)

    def propose(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        """The masks of each H x W x 3 RGB image, the best first; possibly none."""
        return [self._propose(image) for image in images]

    def _propose(self, image: npt.NDArray[np.uint8]) -> list[Proposal]:
        import torch

        from prep.proposals.freesolo.inference import enlarge, select

        assert self._network is not None
        height, width = image.shape[:2]
        shown = resized(height, width, self.options.min_size_test, self.options.max_size_test)
        found: list[Proposal] = []
        with torch.inference_mode():
            logits, kernels, features = self._network(self._input(image, shown))
            soft, scores = select(logits, kernels, features, self.options)
            for each, score in zip(soft, scores.tolist(), strict=True):  # one full mask at a time
                mask = enlarge(each[None], shown, (height, width), self.options.mask_thr)[0].cpu().numpy()
                if mask.any():  # solov2.py:695-697
                    found.append(_proposal(mask, score))
        return found

    def _input(self, image: npt.NDArray[np.uint8], shown: tuple[int, int]) -> torch.Tensor:
        """The network's input, 1 x 3 x H x W: resized by Pillow, normalised, then padded with 0."""
        import torch
        from PIL import Image

        small = Image.fromarray(image).resize((shown[1], shown[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).to(self.options.device).permute(2, 0, 1).float()
        mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        right, below = -shown[1] % MULTIPLE, -shown[0] % MULTIPLE
        return torch.nn.functional.pad((pixels - mean) / deviation, (0, right, 0, below))[None]


def resized(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """The height and width at which an image is shown to the network (detectron2's ResizeShortestEdge).

    The shorter side becomes ``shorter``, unless the longer one would exceed ``longer``.
    """
    scale = shorter / min(height, width)
    new = (float(shorter), scale * width) if height < width else (scale * height, float(shorter))
    if max(new) > longer:
        scale = longer / max(new)
        new = (new[0] * scale, new[1] * scale)
    return max(1, int(new[0] + 0.5)), max(1, int(new[1] + 0.5))


def _proposal(mask: npt.NDArray[np.bool_], score: float) -> Proposal:
    runs = rle.encode(mask)
    x, y, w, h = (float(value) for value in rle.bounding_box(runs, mask.shape[0]))
    return Proposal(rle.compress(runs), rle.area(runs), (x, y, w, h), predicted_iou=score)
