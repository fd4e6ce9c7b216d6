"""How well places lie to what a text points at: "left of the blue square", wherever that square is."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

# The widths, in halves of the image's side, within which a place counts as near.
NEAR = (0.2, 0.5)
OFFSETS = 5 + len(NEAR)


class Relation(nn.Module):
    """A text looks for its anchor, and says with a kernel over offsets where from there the target lies.

    The kernel starts at zero, so that training starts without relations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = nn.Linear(channels, channels)
        self.kernel = nn.Linear(channels, OFFSETS)
        nn.init.zeros_(self.kernel.weight)
        nn.init.zeros_(self.kernel.bias)

    def forward(self, looks: Tensor, said: Tensor) -> Tensor:
        """(T,n,h,w) scores of :attr:`look`'s queries in n images and (T,C) texts of unit length -> (T,n,h,w).

        sum_u A(u) sum_k w_k f_k(v - u) at place v, with A the soft-max of ``looks`` over places, w_k said by
        the text, and f_k as in :func:`offsets`. In float32, as scores are.
        """
        height, width = looks.shape[2:]
        with torch.autocast(looks.device.type, enabled=False):
            anchors = looks.float().flatten(2).softmax(-1)
            weights = nn.functional.linear(said.float(), self.kernel.weight, self.kernel.bias)
            # One kernel a text and not one response a function: the images share it.
            kernels = torch.einsum("tk,kuv->tuv", weights, offsets(height, width, looks.device))
            return torch.bmm(anchors, kernels).view_as(looks)


@lru_cache(8)
def offsets(height: int, width: int, device: torch.device) -> Tensor:
    """f_k(v - u): (7,N,N) float32 by function, place u and place v, row by row.

    For the offset (x, y) in halves of the image's sides, y downwards, and r its length: x/r, y/r,
    (x^2 - y^2)/r^2 and 2xy/r^2 tell the direction, r and exp(-(r/s)^2/2) for two s the distance.
    """
    with torch.inference_mode(False):  # it is kept, and training may follow an evaluation
        y = torch.linspace(-1, 1, height, device=device)
        x = torch.linspace(-1, 1, width, device=device)
        at = torch.stack([x.repeat(height), y.repeat_interleave(width)])
        away = at[:, None, :] - at[:, :, None]
        r = (away.square().sum(0) + 1e-3).sqrt()
        x, y = away / r
        return torch.stack(
            [x, y, x * x - y * y, 2 * x * y, r, *(torch.exp(-((r / s) ** 2) / 2) for s in NEAR)]
        )
