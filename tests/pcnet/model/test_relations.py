"""What the functions of an offset say, and that a kernel of them finds what lies left of an anchor."""

from __future__ import annotations

from math import exp, sqrt

import pytest
import torch

from pcnet.model.relations import OFFSETS, Relation, offsets

CPU = torch.device("cpu")


def test_offsets_are_their_formulas() -> None:
    f = offsets(3, 4, CPU)
    assert f.shape == (OFFSETS, 12, 12)
    for u, v in ((0, 11), (5, 2), (7, 7)):
        x = 2 / 3 * (v % 4 - u % 4)
        y = v // 4 - u // 4
        r = sqrt(x * x + y * y + 1e-3)
        wanted = [x / r, y / r, (x * x - y * y) / r**2, 2 * x * y / r**2, r]
        wanted += [exp(-((r / s) ** 2) / 2) for s in (0.2, 0.5)]
        assert f[:, u, v].tolist() == pytest.approx(wanted, abs=1e-5)


def test_training_may_follow_an_evaluation() -> None:
    """The functions are kept from call to call; those made in inference mode could not be learnt from."""
    offsets.cache_clear()
    relation = Relation(4)
    with torch.inference_mode():
        relation(torch.zeros(1, 2, 3, 3), torch.ones(1, 4))
    relation(torch.zeros(1, 2, 3, 3), torch.ones(1, 4)).sum().backward()
    assert relation.kernel.weight.grad is not None


def test_a_kernel_finds_what_lies_left_of_the_anchor() -> None:
    relation = Relation(2)
    with torch.no_grad():
        relation.kernel.weight[0, 0] = -1.0  # the first text says "left of", the second "right of"
        relation.kernel.weight[0, 1] = 1.0
    looks = torch.full((2, 1, 5, 5), -50.0)
    looks[:, :, 2, 3] = 50.0
    lies = relation(looks, torch.eye(2))
    for text, place in ((0, (2, 0)), (1, (2, 4))):
        assert divmod(int(lies[text, 0].argmax()), 5) == place
    torch.testing.assert_close(lies[0], -lies[1])


def test_a_square_image_is_not_another_one_for_a_finer_grid() -> None:
    """Offsets are shares of the image: the corners of any grid lie as far apart."""
    coarse, fine = offsets(4, 4, CPU), offsets(9, 9, CPU)
    torch.testing.assert_close(coarse[:, 0, -1], fine[:, 0, -1])
    torch.testing.assert_close(coarse[:, 3, -1], fine[:, 8, -1])
