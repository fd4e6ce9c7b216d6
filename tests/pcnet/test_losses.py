"""Every loss against numbers worked out by hand or by plain loops, and against the released code's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcnet import losses


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_classification_scores_by_loops() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 2) * 3
    got = losses.classification_scores(logits)
    for i in range(2):
        for j in range(3):
            values = logits[i, j].flatten().tolist()
            share = 0.0
            for place in range(4):
                row = [1.0, *logits[i, :, place // 2, place % 2].tolist()]
                share += math.exp(row[j + 1]) / sum(map(math.exp, row)) / 4
            focal = (1 - share) ** 3 * math.log(0.01 + share)
            assert got[i, j] == pytest.approx(sum(values) / 4 + max(values) + focal, rel=1e-5)


def test_classification_is_the_mean_log_loss() -> None:
    logits = torch.tensor([[[[2.0]], [[-1.0]]], [[[0.5]], [[0.0]]]])
    scores = losses.classification_scores(logits)
    total = 0.0
    for i in range(2):
        for j in range(2):
            y = float(scores[i, j])
            total -= math.log(sigmoid(y)) if i == j else math.log(1 - sigmoid(y))
    assert losses.classification(logits, torch.arange(2)) == pytest.approx(total / 4, rel=1e-6)


def test_the_own_text_may_be_any_column() -> None:
    logits = torch.randn(2, 4, 3, 3)
    order = torch.tensor([2, 3, 0, 1])
    moved = losses.classification(logits[:, order], torch.tensor([2, 3]))
    assert moved == pytest.approx(float(losses.classification(logits, torch.tensor([0, 1]))), rel=1e-5)


def test_the_maximum_is_taken_inside_only() -> None:
    logits = torch.tensor([[[[9.0, 1.0], [2.0, -3.0]]]])
    inside = torch.tensor([[[[False, True], [False, True]]]])
    free, held = losses.classification_scores(logits), losses.classification_scores(logits, inside)
    assert float(free - held) == pytest.approx(9 - 1)


def test_soft_iou_by_hand() -> None:
    response = torch.tensor([[1.0, 0.5], [0.0, 0.25]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert losses.soft_iou(response, mask) == pytest.approx(1.25 / (1.75 + 3 - 1.25))
    assert losses.soft_iou(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_ambiguity_by_hand() -> None:
    # Three proposals of a 2x2 grid: top row, bottom row, right column. The foreground is the top row, so the
    # background is everything but the top left.
    grid = torch.tensor([[[[1, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 1], [0, 1]]]]).float()
    response = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
    front, back = 1.5 / (2 + 2 - 1.5), 1.0 / (2 + 3 - 1)
    assert losses.ambiguity(response, grid, torch.tensor([0])) == pytest.approx(1 - (front - back))


def test_best_proposal_breaks_ties_by_area_and_never_takes_padding() -> None:
    grid = torch.zeros(1, 4, 4, 4)
    grid[0, 0] = 1
    grid[0, 1, :2, :2] = 1
    grid[0, 2, 2:, 2:] = 1
    response = torch.zeros(1, 1, 4, 4)
    response[..., 0, 0] = 1
    assert losses.best_proposal(response, grid) == 1
    response[..., 3, 3] = 2
    assert losses.best_proposal(response, grid) == 2
    assert losses.best_proposal(torch.zeros(1, 1, 4, 4), grid) != 3


def ramp(peak: tuple[int, int], floor: float) -> torch.Tensor:
    maps = torch.full((1, 1, 4, 4), floor)
    maps[0, 0, peak[0], peak[1]] = 1.0
    return maps


def test_ras_counts_rises_of_ambiguity_only() -> None:
    grid = torch.zeros(1, 2, 4, 4)
    grid[0, 0, :2] = 1
    grid[0, 1, 2:] = 1
    sharp, blurred = ramp((0, 0), 0.0), ramp((0, 0), 0.8)
    # The soft IoUs of the map with the upper half, which is the foreground, and with the lower half.
    steps = [1 - (1 / 8 - 0), 1 - (6.6 / 14.4 - 6.4 / 14.6)]
    for one, wanted in zip((sharp, blurred), steps, strict=True):
        assert losses.ambiguity(one, grid, torch.tensor([0])).item() == pytest.approx(wanted, rel=1e-6)
    assert losses.ras([sharp, blurred], grid) == pytest.approx(steps[1] - steps[0], rel=1e-6)
    assert losses.ras([blurred, sharp], grid) == 0
    three = losses.ras([blurred, sharp, blurred], grid)
    assert three == pytest.approx((0 + steps[1] - steps[0]) / 2, rel=1e-6)


def test_ras_is_zero_with_one_stage_and_without_proposals() -> None:
    maps = torch.rand(2, 1, 4, 4, requires_grad=True)
    grid = torch.zeros(2, 3, 4, 4)
    assert losses.ras([maps], grid) == 0
    value = losses.ras([maps, maps * 2 + 0.3], grid)
    assert value == 0
    value.backward()


def test_ras_may_take_the_previous_stage_foreground() -> None:
    grid = torch.zeros(1, 2, 4, 4)
    grid[0, 0, :2] = 1
    grid[0, 1, 2:] = 1
    top, bottom = ramp((0, 0), 0.1), ramp((3, 3), 0.1)
    assert losses.ras([top, bottom], grid) == pytest.approx(0, abs=1e-6)
    # The peak is in one half (soft IoU 1.7 / 8.8), not in the other (0.8 / 9.7), and then the reverse.
    moved = 2 * (1.7 / 8.8 - 0.8 / 9.7)
    assert losses.ras([top, bottom], grid, "previous") == pytest.approx(moved, rel=1e-6)


def halves() -> torch.Tensor:
    grid = torch.zeros(1, 3, 4, 4)
    grid[0, 0, :2] = 1
    grid[0, 1, 2:] = 1
    return grid


def test_iad_as_written_has_no_gradient_in_a_collision() -> None:
    yes = torch.tensor([True])
    own, other = ramp((0, 0), 0.2).requires_grad_(), ramp((1, 3), 0.3).requires_grad_()
    value = losses.iad(own, other, halves(), yes)
    value.backward()
    assert value == 1
    assert own.grad is not None
    assert not own.grad.any()
    apart = losses.iad(ramp((0, 0), 0.2), ramp((3, 3), 0.2), halves(), yes)
    assert apart == pytest.approx(1 - 2)


def test_iad_gradient_is_that_of_the_scores() -> None:
    own, other = ramp((0, 0), 0.2).requires_grad_(), ramp((3, 3), 0.4)
    losses.iad(own, other, halves(), torch.tensor([True])).backward()
    # y_a - y_d = (1, -1, 0), so d/dS_a = -2 (1, -1, 0); S_a of the second half is its largest value.
    assert own.grad is not None
    assert float(own.grad[0, 0, 2:].sum()) == pytest.approx(2.0, rel=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_no_rounding_gives_a_collision_a_gradient(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 40, generator=generator)
    scores[:, 7] = 2
    for surrogate in (lambda s: s, lambda s: torch.softmax(s, -1)):
        leaf = scores.clone().requires_grad_()
        choices = losses.straight_through(leaf, surrogate(leaf))
        assert set(choices.unique().tolist()) == {0.0, 1.0}
        (choices[0] - choices[1]).abs().sum().backward()
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_iad_soft_has_a_gradient_in_a_collision() -> None:
    own, other = ramp((0, 0), 0.9).requires_grad_(), ramp((1, 3), 0.8)
    value = losses.iad_soft(own, other, halves(), torch.tensor([True]), temperature=10)
    value.backward()
    chances = [torch.softmax(10 * torch.tensor([1.0, low]), 0) for low in (0.9, 0.8)]
    assert value.item() == pytest.approx(float(chances[0] @ chances[1]), rel=1e-5)
    assert own.grad is not None
    assert own.grad.abs().max() > 0.01


def test_iad_soft_counts_only_images_with_proposals() -> None:
    """An image without proposals has no choice to compare, whatever the others in the batch have."""
    own, other, grid = (torch.cat([part, part]) for part in (ramp((0, 0), 0.9), ramp((1, 3), 0.8), halves()))
    grid = torch.cat([grid[:1], torch.zeros_like(grid[:1])])
    same = torch.tensor([True, True])
    alone = losses.iad_soft(own[:1], other[:1], grid[:1], same[:1], temperature=10)
    assert losses.iad_soft(own, other, grid, same, temperature=10).item() == pytest.approx(alone.item())


def test_inside_asks_for_the_peak_in_a_proposal() -> None:
    own = torch.tensor([[3.0, 4.0], [7.0, 5.0]]).view(1, 1, 2, 2).requires_grad_()
    objects = torch.tensor([[True, False], [False, False]]).view(1, 1, 2, 2)
    anything = torch.tensor([[True, False], [True, False]]).view(1, 1, 2, 2)
    value = losses.inside(own, objects, anything)
    assert value.item() == pytest.approx(math.log(1 + math.exp(5.0 - 3.0)), rel=1e-6)
    value.backward()
    assert own.grad is not None
    assert own.grad.flatten().tolist() == pytest.approx([-sigmoid(2.0), 0, 0, sigmoid(2.0)])


def test_inside_asks_nothing_where_proposals_cover_the_image() -> None:
    own = torch.randn(2, 1, 4, 4).requires_grad_()
    everywhere = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    value = losses.inside(own, everywhere, everywhere)
    value.backward()
    assert value == 0
    assert own.grad is not None
    assert not own.grad.any()


def test_opposites_compares_at_the_peak_of_the_text_as_it_is() -> None:
    own = torch.tensor([[3.0, 1.0], [0.0, 5.0]]).view(1, 1, 2, 2).requires_grad_()
    other = torch.tensor([[2.5, 9.0], [9.0, 4.0]]).view(1, 1, 2, 2).requires_grad_()
    yes = torch.tensor([True])
    value = losses.direction_contrast(own, other, yes)
    assert value.item() == pytest.approx(math.log(1 + math.exp(4.0 - 5.0)), rel=1e-6)
    value.backward()
    assert own.grad is not None
    assert other.grad is not None
    # One place alone learns, and what both texts ask of it cancels.
    assert own.grad.flatten().nonzero().tolist() == other.grad.flatten().nonzero().tolist() == [[3]]
    assert own.grad.flatten()[3] == -other.grad.flatten()[3] == -sigmoid(4.0 - 5.0)
    inside = torch.tensor([[True, True], [False, False]]).view(1, 1, 2, 2)
    value = losses.direction_contrast(own, other, yes, inside)
    assert value.item() == pytest.approx(math.log(1 + math.exp(2.5 - 3.0)), rel=1e-6)


def test_opposites_counts_the_texts_that_have_one() -> None:
    own, other = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    masked = losses.direction_contrast(own, other, torch.tensor([True, False, True]))
    alone = losses.direction_contrast(own[[0, 2]], other[[0, 2]], torch.tensor([True, True]))
    assert masked == pytest.approx(float(alone), rel=1e-6)
    assert losses.direction_contrast(own, other, torch.zeros(3, dtype=torch.bool)) == 0
    # Two processes with two and one of them: the mean of their losses is that of all three together.
    yes = torch.tensor([True, True, True])
    parts = [losses.direction_contrast(own[s], other[s], yes[s], pairs=1.5) for s in (slice(2), slice(2, 3))]
    assert float(sum(parts) / 2) == pytest.approx(float(losses.direction_contrast(own, other, yes)), rel=1e-5)


@pytest.mark.parametrize("loss", ["iad", "released_iad", "iad_soft"])
def test_only_pairs_of_one_image_count(loss: str) -> None:
    torch.manual_seed(0)
    own, other = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    grid = (torch.rand(3, 5, 4, 4) > 0.5).float()
    more: dict[str, Any] = {"temperature": 10} if loss == "iad_soft" else {}
    function = getattr(losses, loss)
    masked = function(own, other, grid, torch.tensor([True, False, True]), **more)
    alone = function(own[[0, 2]], other[[0, 2]], grid[[0, 2]], torch.tensor([True, True]), **more)
    assert masked == pytest.approx(float(alone), rel=1e-6)
    none = function(own, other, grid, torch.zeros(3, dtype=torch.bool), **more)
    assert none == (1 if loss == "released_iad" else 0)
    # Two processes with two and one pairs: the mean of their losses is that of all three together.
    yes = torch.tensor([True, True, True])
    parts = [function(own[s], other[s], grid[s], yes[s], pairs=1.5, **more) for s in (slice(2), slice(2, 3))]
    together = function(own, other, grid, yes, **more)
    assert float(sum(parts) / 2) == pytest.approx(float(together), rel=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_ranges(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    own, other = (torch.randn(2, 1, 6, 6, generator=generator) for _ in range(2))
    grid = (torch.rand(2, 4, 8, 8, generator=generator) > 0.6).float()
    grid[:, -1] = 0
    yes = torch.tensor([True, True])
    assert -1 <= losses.iad(own, other, grid, yes) <= 1
    assert 0 <= losses.iad_soft(own, other, grid, yes, temperature=10) <= 1
    assert 0 <= losses.released_iad(own.relu(), other.relu(), grid, yes) <= 1
    assert 0 <= losses.ras([own, other, own], grid) <= 2
    left, right = losses.released_overlap(own.relu(), grid, torch.rand(2, 4, generator=generator))
    assert 0 <= left <= 0.5
    assert 0 <= right <= 0.5


def test_released_overlap_by_loops() -> None:
    torch.manual_seed(3)
    maps = torch.rand(2, 1, 4, 4)
    grid = (torch.rand(2, 3, 4, 4) > 0.5).float()
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.7, 0.3, 0.1]])
    left, right = losses.released_overlap(maps, grid, scores)
    lefts, rights = [], []
    for image, best in ((0, 1), (1, 0)):
        response = (maps[image, 0] / (maps[image].max() + 1e-5) - 1e-5).clamp(min=0)
        shares = [
            float((response * mask).sum() / (response.sum() + mask.sum() + 2e-5)) for mask in grid[image]
        ]
        lefts.append(shares.pop(best))
        rights.append(max(shares))
    assert left == pytest.approx(sum(lefts) / (2 + 1e-4), rel=1e-5)
    assert right == pytest.approx(sum(rights) / (2 + 1e-4), rel=1e-5)


def test_released_overlap_of_halves() -> None:
    grid = torch.zeros(1, 3, 4, 4)
    grid[0, 0, :2] = 1
    grid[0, 1, 2:] = 1
    grid[0, 2] = 1
    # The map is the upper half: 8 of 8 + 8 cells, 0 of 8 + 8, and 8 of 8 + 16.
    for scores, left, right in [([3.0, 2.0, 1.0], 1 / 2, 1 / 3), ([1.0, 3.0, 2.0], 0, 1 / 2)]:
        found = losses.released_overlap(grid[:, :1], grid, torch.tensor([scores]))
        assert [float(value) for value in found] == pytest.approx([left, right], rel=1e-3)


def test_the_released_response_is_scaled_by_its_own_maximum_and_resized_between_the_corners() -> None:
    maps = torch.tensor([[[[4.0, 0.0], [2.0, 0.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    found = losses.released_response(maps, torch.zeros(2, 1, 3, 5))
    wanted = [
        [[1, 0.75, 0.5, 0.25, 0], [0.75, 0.5625, 0.375, 0.1875, 0], [0.5, 0.375, 0.25, 0.125, 0]],
        [[0, 0, 0, 0, 0], [0, 0.125, 0.25, 0.375, 0.5], [0, 0.25, 0.5, 0.75, 1]],
    ]
    assert found[:, 0].flatten().tolist() == pytest.approx(torch.tensor(wanted).flatten().tolist(), abs=3e-5)
    assert float(found.min()) == 0  # what the subtraction of 1e-5 makes negative


def test_mask_loss_by_loops() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(2, 3, 2, 4) * 3, torch.rand(2, 3, 2, 4)
    target[0, 1] = 0
    weight = torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.0, 0.25]])
    entropies, dices = [], []
    for image in range(2):
        for text in range(3):
            cells = list(zip(*(t[image, text].flatten().tolist() for t in (logits, target)), strict=True))
            entropy = -sum(t * math.log(sigmoid(x)) + (1 - t) * math.log(1 - sigmoid(x)) for x, t in cells)
            both, total = sum(sigmoid(x) * t for x, t in cells), sum(sigmoid(x) + t for x, t in cells)
            entropies.append(float(weight[image, text]) * entropy / 8)
            dices.append(float(weight[image, text]) * (1 - 2 * both / total))
    found = losses.mask_loss(logits, target, weight)
    assert [float(value) for value in found] == pytest.approx([sum(entropies) / 6, sum(dices) / 6], rel=1e-5)
    nothing = losses.mask_loss(torch.full((1, 1, 2, 2), -200.0), torch.zeros(1, 1, 2, 2), torch.ones(1, 1))
    assert [float(value) for value in nothing] == [0, 1]


def test_released_ras_and_anchor() -> None:
    right, left = torch.tensor([0.3, 0.1, 0.4]), torch.tensor([0.2, 0.4, 0.5])
    assert losses.released_ras(right.unbind(), 0) == pytest.approx(0.8)
    assert losses.released_ras(right.unbind(), 1) == pytest.approx(1.3)
    assert losses.released_ras(right[:2].unbind(), 0) == pytest.approx(0.8)
    assert losses.released_ras(right[:1].unbind(), 0) == 0
    assert losses.anchor(left.unbind()) == pytest.approx((0.8 + 0.6 + 0.5) / 3)


def test_released_iad_takes_the_gradient_of_the_soft_max() -> None:
    own, other = ramp((0, 0), 0.2).requires_grad_(), ramp((3, 3), 0.4)
    value = losses.released_iad(own, other, halves(), torch.tensor([True]))
    value.backward()
    assert value.item() == pytest.approx(1 - 2 / 2.0001, abs=1e-6)
    low = 0.2 / (1 + 1e-5) - 1e-5
    chances = torch.softmax(torch.tensor([1 - 2e-5, low, 0.0]), 0)
    # d|y|/dS_2 = sum_k sign_k p_k (1[k=2] - p_2) with signs (1, -1, 0); the loss is minus half of it.
    wanted = -(chances[0] * -chances[1] - chances[1] * (1 - chances[1])) / 2.0001 / (1 + 1e-5)
    assert own.grad is not None
    assert float(own.grad[0, 0, 2:].sum()) == pytest.approx(float(wanted), rel=1e-3)


def test_calibration_by_hand() -> None:
    cosines = torch.tensor([0.5, -0.2])
    wanted = -(math.log(0.5) + math.log(1e-4)) / 2
    assert losses.calibration_foreground(cosines) == pytest.approx(wanted, rel=1e-6)
    # A cosine of 1, or above it by a rounding error, has neither a loss below 0 nor a gradient.
    sure = torch.tensor([1.5, 1.0], requires_grad=True)
    losses.calibration_foreground(sure).backward()
    assert losses.calibration_foreground(sure).item() == pytest.approx(-math.log(0.9999), rel=1e-3)
    assert sure.grad is not None
    assert not sure.grad.any()
    table = torch.tensor([[0.5, 0.0], [-1.0, 0.2]])
    wanted = -(math.log(0.5) + math.log(2.0) + math.log(0.8)) / 4
    assert losses.calibration_negatives(table) == pytest.approx(wanted, rel=1e-6)


def test_single_functions_match_the_released_code(released: Any, deviation: Any) -> None:
    batch = released.batch()
    cam = released["loss/cam"].requires_grad_()
    left, right = losses.released_overlap(cam, batch.grid, batch.clip_scores)
    assert deviation(left, released["loss/left_iou"]) <= 1e-6
    assert deviation(right, released["loss/right_iou"]) <= 1e-6
    (gradient,) = torch.autograd.grad(right - left, cam)
    assert deviation(gradient, released["loss/grad_right_minus_left"]) <= 1e-6
    value = losses.released_iad(cam, released["loss/cam_diff"], batch.grid, batch.same_image)
    assert deviation(value, released["loss/diversify"]) <= 1e-6
    (gradient,) = torch.autograd.grad(value, cam)
    assert deviation(gradient, released["loss/grad_diversify"]) <= 1e-6
    logits = released["loss/score"].transpose(1, 2).unflatten(2, (3, 3))
    assert deviation(losses.classification_scores(logits), released["loss/cls_out"]) <= 1e-6
    assert deviation(losses.shares(logits).diagonal(), released["loss/cls_fg"]) <= 1e-6
    value = losses.classification(logits, torch.arange(4))
    assert deviation(value, released["loss/multilabel"]) <= 1e-6


def test_pairs_of_all_processes_divide_the_sum_even_where_they_are_fewer_than_one() -> None:
    same = torch.ones(2, 1, 3, 3)
    # Equal responses at the peak: log(1 + exp(0)) = log 2 for each image.
    for opposite, pairs, wanted in [
        ([True, False], None, math.log(2)),
        ([True, True], None, math.log(2)),
        ([True, False], 0.5, 2 * math.log(2)),
        ([False, False], None, 0.0),
        ([False, False], 0.0, 0.0),
    ]:
        value = losses.direction_contrast(same, same, torch.tensor(opposite), pairs=pairs)
        assert float(value) == pytest.approx(wanted, rel=1e-6)
