"""Computes the losses, each a pure function of response maps and proposals, with its equation.

Legend: B images, T texts, M proposals (zero rows are padding), h x w the map's grid, H x W the image, g the
proposals' grid. [W] names a file of the released code; its quirks are kept in the ``released_*`` functions
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from pcnet.maps import EPSILON, alignment, normalised, on_grid, real

FOCAL_POWER = 3
FOCAL_FLOOR = 0.01


def classification_scores(logits: Tensor, inside: Tensor | None = None) -> Tensor:
    """TRIS' pooled scores y_ij of image i and text j: (B,T,h,w) raw responses -> (B,T).

    y = mean(x) + max(x) + (1 - a)^3 log(0.01 + a), a = shares(x). With ``inside`` (B,1,h,w) bool the maximum
    is taken there only: objects are covered by proposals, so the response to texture outside them does not
    count.
    """
    share = shares(logits)
    focal = (1 - share) ** FOCAL_POWER * torch.log(FOCAL_FLOOR + share)
    peak = logits if inside is None else logits.masked_fill(~inside, float("-inf"))
    return logits.mean((-2, -1)) + peak.amax((-2, -1)) + focal


def shares(logits: Tensor) -> Tensor:
    """(B,T,h,w) raw responses -> (B,T): softmax over the texts and a background of 1, mean over positions."""
    background = torch.ones_like(logits[:, :1])
    return torch.softmax(torch.cat([background, logits], 1), 1)[:, 1:].mean((-2, -1))


def classification(logits: Tensor, own: Tensor, inside: Tensor | None = None) -> Tensor:
    """L_Cls = -1/(BT) sum_ij [1_ij log s(y_ij) + (1 - 1_ij) log(1 - s(y_ij))], 1_ij: text j describes image
    i.

    ``logits`` (B,T,h,w) are those of the T expressions, ``own`` (B,) is the column of each image's own
    expression.
    """
    scores = classification_scores(logits, inside)
    return F.multilabel_soft_margin_loss(scores, F.one_hot(own, scores.shape[1]).to(scores))


def ambiguity(response: Tensor, grid: Tensor, foreground: Tensor) -> Tensor:
    """S_amb = 1 - (IoU(R, m_f) - IoU(R, m_b)) (paper eq. 6) -> (B,), in [0, 2].

    ``response`` (B,1,g,g) in [0, 1], ``foreground`` (B,) the index of m_f; m_b is the union of all other
    proposals, and IoU is the soft IoU, sum(R m) / (sum(R) + sum(m) - sum(R m)).
    """
    chosen = F.one_hot(foreground, grid.shape[1]).bool()[:, :, None, None]
    front = (grid * chosen).amax(1)
    back = (grid * ~chosen).amax(1)
    return 1 - (soft_iou(response[:, 0], front) - soft_iou(response[:, 0], back))


def soft_iou(response: Tensor, mask: Tensor) -> Tensor:
    """sum(R m) / (sum(R) + sum(m) - sum(R m)) over the last two axes; 0 if both are empty."""
    shared = (response * mask).sum((-2, -1))
    union = response.sum((-2, -1)) + mask.sum((-2, -1)) - shared
    return shared / union.clamp(min=EPSILON)


def best_proposal(response: Tensor, grid: Tensor) -> Tensor:
    """argmax_p max(R * m_p) -> (B,); ties go to the smallest proposal, then to the first.

    The maximum of a normalised map is 1 in every proposal that contains its peak, so ties are common.
    """
    scores = alignment(response, grid)
    area = grid.flatten(2).sum(-1)
    tied = (scores >= scores.amax(1, keepdim=True)) & real(grid)
    return torch.where(tied, area, torch.inf).argmin(1)


def ras(maps: Sequence[Tensor], grid: Tensor, foreground: str = "own") -> Tensor:
    """L_RaS = 1/(N-1) sum_n max(0, S_amb(n+1) - S_amb(n)) (paper eq. 7), mean over images; 0 with one stage.

    ``maps`` are the N stages' (B,1,h,w) raw responses to each image's own expression. m_f is the proposal
    with the highest alignment score: each stage's own (``foreground="own"``, the paper), or that of the stage
    before (``"previous"``), so that a stage does not only reinforce its own argmax. Images without proposals
    count as 0.
    """
    responses = [on_grid(normalised(one), grid) for one in maps]
    chosen = [best_proposal(one.detach(), grid) for one in responses]
    if foreground == "previous":
        chosen = [chosen[max(0, number - 1)] for number in range(len(chosen))]
    steps = [ambiguity(response, grid, index) for response, index in zip(responses, chosen, strict=True)]
    some = grid.flatten(1).any(1)
    rises = [((later - earlier).relu() * some).mean() for earlier, later in pairwise(steps)]
    return torch.stack(rises).mean() if rises else maps[0].new_zeros(())


def straight_through(scores: Tensor, surrogate: Tensor) -> Tensor:
    """y = one-hot(argmax S) forward, the gradient of ``surrogate`` backward (paper eq. 8 with S itself).

    The order of the sum makes y exactly 0 or 1: otherwise a rounding error would give the zero gradient of
    two equal choices a random sign.
    """
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores)
    return hard + (surrogate - surrogate.detach())


def iad(
    own: Tensor, other: Tensor, grid: Tensor, same_image: Tensor, *, pairs: float | None = None
) -> Tensor:
    """L_IaD = 1 - |y_a - y_d|^2, y = one-hot(argmax S) + S - sg(S) (paper eq. 8, 9), over same-image pairs.

    ``own`` and ``other`` (B,1,h,w) are the raw responses to an expression and to its partner. The loss is in
    [-1, 1], and -1 if the two choose different proposals. If they choose the same one, y_a = y_d and the
    gradient is exactly zero, although this is the case that the loss should correct. ``pairs`` replaces the
    number of pairs as the divisor (a data-parallel step divides by the mean over its processes).
    """
    first = alignment(on_grid(normalised(own), grid), grid)
    second = alignment(on_grid(normalised(other), grid), grid)
    apart = (straight_through(first, first) - straight_through(second, second)).square().sum(-1)
    return _over_pairs(1 - apart, same_image, pairs)


def iad_soft(
    own: Tensor,
    other: Tensor,
    grid: Tensor,
    same_image: Tensor,
    *,
    temperature: float,
    pairs: float | None = None,
) -> Tensor:
    """sum_p softmax(t S_a)_p softmax(t S_d)_p over same-image pairs: the probability that both choose the
    same one.

    The loss is in [0, 1]. Unlike the paper's form, it has a gradient when both choose the same proposal,
    which grows as the score of another proposal approaches. Padding is ignored.
    """
    there = real(grid)
    chances = [
        torch.softmax(
            (temperature * alignment(on_grid(normalised(one), grid), grid)).masked_fill(~there, -1e4), -1
        )
        for one in (own, other)
    ]
    return _over_pairs((chances[0] * chances[1]).sum(-1), same_image & there.any(-1), pairs)


def inside(own: Tensor, objects: Tensor, anything: Tensor) -> Tensor:
    """mean log(1 + exp(max outside - max inside)): it trains the peak of an image's own text to lie in a
    proposal.

    ``own`` (B,1,h,w) are raw responses, ``objects`` (B,1,h,w) bool is where the peak may lie and ``anything``
    is where there is any proposal. An image without a position outside counts as 0.

    Taking the maximum inside the proposals only puts no constraint on the response outside them.
    """
    peak = own.masked_fill(~objects, float("-inf")).flatten(1).amax(1)
    outside = own.masked_fill(anything, float("-inf")).flatten(1).amax(1)
    return F.softplus(outside - peak).mean()


def direction_contrast(
    own: Tensor,
    other: Tensor,
    has_opposite: Tensor,
    inside: Tensor | None = None,
    *,
    pairs: float | None = None,
) -> Tensor:
    """mean log(1 + exp(L_opp(v) - L_own(v))), v the peak of L_own, over images whose text has direction
    words.

    ``own`` and ``other`` (B,1,h,w) are the raw responses to an expression and to the same expression with its
    directions swapped ("left of" for "right of"); ``inside`` (B,1,h,w) bool is where v may lie. Both are read
    at one position, where everything the texts share (the attributes) contributes equally, so only the
    direction can separate them. That the swapped text does not describe the target is known from the text
    alone.
    """
    peak = own.detach() if inside is None else own.detach().masked_fill(~inside, float("-inf"))
    place = peak.flatten(1).argmax(1, keepdim=True)
    apart = other.flatten(1).gather(1, place) - own.flatten(1).gather(1, place)
    return _over_pairs(F.softplus(apart)[:, 0], has_opposite, pairs)


def _over_pairs(values: Tensor, mask: Tensor, pairs: float | None) -> Tensor:
    count = mask.sum() if pairs is None else torch.as_tensor(pairs, device=mask.device)
    return (values * mask).sum() / count.clamp(min=1e-4 if pairs else 1)


def released_response(maps: Tensor, grid: Tensor) -> Tensor:
    """The released normalisation ([W] model/utils.py): (B,1,H,W) maps after ReLU -> (B,1,g,g).

    R / (max R + 1e-5), minus 1e-5, at image size, then resized bilinearly with the corners aligned.
    """
    scaled = (maps / (maps.amax((-2, -1), keepdim=True) + EPSILON) - EPSILON).relu()
    return F.interpolate(scaled, size=grid.shape[-2:], mode="bilinear", align_corners=True)


def released_overlap(maps: Tensor, grid: Tensor, clip_scores: Tensor) -> tuple[Tensor, Tensor]:
    """(left, right): overlap of (B,1,H,W) maps after ReLU with the foreground, and with the worst other
    proposal.

    Quirks: the foreground is the proposal that CLIP ranks first, not the response's own; the background is
    the single other proposal with the highest overlap, not their union; "IoU" divides by the sum of both
    areas, so it is at most 0.5, and the mask that should exclude covered backgrounds (< 1) is always true.
    Left counts only images whose map overlaps the foreground.
    """
    response = released_response(maps, grid)
    order = clip_scores.argsort(dim=1, descending=True)
    ranked = grid.gather(1, order[:, :, None, None].expand_as(grid))
    overlap = _half_dice(response, ranked)
    touched = _half_dice((response > 1e-9).to(response), ranked)[:, 0] > 0
    left = (overlap[:, 0] * touched).sum() / (touched.sum() + 1e-4)
    right = overlap[:, 1:].amax(1).sum() / (len(overlap) + 1e-4)
    return left, right


def _half_dice(response: Tensor, grid: Tensor) -> Tensor:
    shared = (response * grid).sum((-2, -1))
    return shared / (response.sum((-2, -1)) + grid.sum((-2, -1)) + 2 * EPSILON)


def released_ras(right: Sequence[Tensor], pair: int) -> Tensor:
    """1 - (right[k] - right[k+1]), k = ``pair`` ([W] model/model_prog_v5.py); 0 with one stage.

    Quirks: one adjacent pair is drawn per step instead of the mean over all; there is no hinge and no
    foreground term. Minimising it lowers the background overlap of the later stage but raises that of the
    earlier one.
    """
    if len(right) < 2:
        return right[0].new_zeros(())
    return 1 - (right[pair] - right[pair + 1])


def anchor(left: Sequence[Tensor]) -> Tensor:
    """mean_k (1 - left_k) of the released code; not in the paper; at least 0.5, as left is at most 0.5."""
    return (1 - torch.stack(list(left))).mean()


def released_iad(
    own: Tensor, other: Tensor, grid: Tensor, same_image: Tensor, *, pairs: float | None = None
) -> Tensor:
    """1 - sum |y_a - y_d| / (2 pairs + 1e-4) over same-image pairs, for (B,1,H,W) maps after ReLU; in [0, 1].

    Quirk: y is hard forward but takes the gradient of softmax(S) backward, where the paper takes that of S.
    """
    choices = []
    for maps in (own, other):
        scores = alignment(released_response(maps, grid), grid)
        choices.append(straight_through(scores, torch.softmax(scores, -1)))
    apart = ((choices[0] - choices[1]).abs().sum(-1) * same_image).sum()
    count = same_image.sum() if pairs is None else pairs
    return 1 - apart / (2 * count + 1e-4)


def calibration_foreground(agreement: Tensor) -> Tensor:
    """TRIS' foreground loss: -mean log cos(masked image, its text), with the cosine clamped to [1e-4,
    0.9999].
    """
    return -agreement.clamp(1e-4, 0.9999).log().mean()


def calibration_negatives(agreement: Tensor) -> Tensor:
    """TRIS' suppression: -mean log(1 - cos), (B,n) cosines of the masked image and negative texts."""
    return -torch.log(1 - agreement).mean()


def mask_loss(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a student's masks: (B,R,h,w) logits against the covered share (B,R,h,w) of each cell.

    (cross-entropy, Dice), each a mean over masks weighted by (B,R): the mean over cells of the binary
    cross-entropy, and 1 - 2 sum(p t) / (sum(p) + sum(t)) with p = sigmoid(logits), which weighs small objects
    like large ones.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    share = logits.sigmoid()
    both, total = (share * target).sum((-2, -1)), (share + target).sum((-2, -1))
    dice = 1 - 2 * both / total.clamp(min=EPSILON)
    return (weight * entropy).mean(), (weight * dice).mean()
