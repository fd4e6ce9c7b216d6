"""Computes box NMS with the result and the order of torchvision's ``batched_nms`` for one category."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from prep.masks.jit import compiled

# Above this many numbers (four per box) torchvision works per category and sorts the result again with an
# unstable sort, so tied scores may be in another order. The limit depends on the device type, as in
# torchvision.
BY_CATEGORY = {"cpu": 4_000}
BY_CATEGORY_ELSEWHERE = 100_000


def suppress(
    boxes: npt.NDArray[np.generic], scores: torch.Tensor, threshold: float, device: str = "cpu"
) -> npt.NDArray[np.int64]:
    """Which of n XYXY boxes are kept, best first.

    A box is dropped if its IoU with a better one is above ``threshold``; equal scores keep their order, NaN
    is best. ``boxes`` is n x 4, ``scores`` float32 (n); ``device`` is where the reference would run ("cpu" or
    "cuda").
    """
    if len(boxes) == 0:
        return np.empty(0, np.int64)
    corners = np.ascontiguousarray(boxes, np.float32)
    scores = scores.detach().cpu()
    order = torch.sort(scores, descending=True, stable=True).indices.numpy()
    kept: npt.NDArray[np.int64] = order[_greedy(corners[order], float(threshold))]
    if 4 * len(boxes) <= BY_CATEGORY.get(device, BY_CATEGORY_ELSEWHERE):
        return np.asarray(kept, np.int64)
    kept = np.sort(kept)
    again = torch.sort(scores[torch.as_tensor(kept)], descending=True).indices.numpy()
    return np.asarray(kept[again], np.int64)


@compiled
def _greedy(boxes: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """Which boxes are not suppressed by a better one; ``boxes`` are float32 and sorted best first, and every
    step is float32.
    """
    count = len(boxes)
    keep = np.ones(count, np.bool_)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    zero = np.float32(0)
    for i in range(count):
        if not keep[i]:
            continue
        for j in range(i + 1, count):
            if not keep[j]:
                continue
            width = max(zero, min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]))
            height = max(zero, min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]))
            shared = width * height
            union = areas[i] + areas[j] - shared
            if np.float64(shared / union) > threshold:
                keep[j] = False
    return keep
