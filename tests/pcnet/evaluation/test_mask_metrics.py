"""The metrics of masks against their formulas over explicit lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcnet.evaluation.mask_metrics import mask_score, summarise_masks

MASKS = hnp.arrays(bool, (3, 4))
CASES = st.lists(st.tuples(MASKS, MASKS, st.booleans(), st.booleans()), max_size=8)


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_every_figure_is_that_of_its_formula(cases):
    cases = [(p, t if has else np.zeros_like(t), has, silent) for p, t, has, silent in cases]
    found = summarise_masks(mask_score(*case) for case in cases)

    def ratio(i, u):
        return i / u if u else 0.0

    pairs = [((p & t).sum(), (p | t).sum()) for p, t, has, _ in cases if has]
    ious = [ratio(*pair) for pair in pairs]
    general, shared, union = [], 0, 0
    for p, t, has, silent in cases:
        used = np.zeros_like(p) if silent else p
        i, u = (used & t).sum(), (used | t).sum()
        shared, union = shared + i, union + u
        general.append(ratio(i, u) if has else float(silent))

    def mean(values):
        return 100 * float(np.mean(values)) if len(values) else 0.0

    assert found.n == len(ious)
    assert found.miou == pytest.approx(mean(ious))
    assert found.oiou == pytest.approx(100 * ratio(sum(i for i, _ in pairs), sum(u for _, u in pairs)))
    assert found.giou == pytest.approx(mean(general))
    assert found.ciou == pytest.approx(100 * ratio(shared, union))
    for name, at in (("p50", 0.5), ("p70", 0.7), ("p90", 0.9)):
        assert getattr(found, name) == pytest.approx(mean([iou >= at for iou in ious]))
    silent = [s for _, _, has, s in cases if not has]
    assert found.n_no_target == len(silent)
    assert found.n_acc == (pytest.approx(mean(silent)) if silent else None)
    assert found.t_acc == pytest.approx(mean([not s for _, _, has, s in cases if has]))


def test_a_precision_counts_its_own_threshold():
    truth = np.array([[True, True, False]])
    half = np.array([[True, False, False]])
    assert summarise_masks([mask_score(half, truth, True)]).p50 == 100.0


def test_without_silent_maps_and_with_targets_only_the_generalised_figures_are_the_plain_ones():
    rng = np.random.default_rng(0)
    found = summarise_masks(
        mask_score(rng.random((5, 5)) > 0.5, rng.random((5, 5)) > 0.5, True) for _ in range(9)
    )
    assert (found.giou, found.ciou, found.t_acc) == (found.miou, found.oiou, 100.0)
