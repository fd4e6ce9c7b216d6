"""The fused pass against the reference's own operations at full resolution, by brute force."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils import amg

from prep.masks import rle
from prep.proposals.sam.crops import resized
from prep.proposals.sam.fidelity import Differences, ExactnessStats, exactness_stats, lines
from prep.proposals.sam.postprocess import Postprocessor, Thresholds
from prep.proposals.sam.upsample import BAND, Geometry, geometry, reference

LOW, MID = 32, 128
CPU = torch.device("cpu")
KINDS = ["noise", "smooth", "full", "empty", "ties", "nan", "huge", "steps"]


def logits_of(kind: str, seed: int, count: int = 3, low: int = LOW) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, low, low)).astype(np.float32)
    y, x = np.mgrid[:low, :low].astype(np.float32) / low
    ball = 8 * (rng.uniform(0.1, 0.5) - np.hypot(x - rng.uniform(), y - rng.uniform()))
    values = {
        "noise": noise * rng.choice([1e-3, 0.08, 3]),
        "smooth": ball + 0.05 * noise,
        "full": np.abs(noise) + 1.5,
        "empty": -np.abs(noise) - 1.5,
        "ties": np.round(noise),
        "nan": np.where(noise > 2, np.float32("nan"), noise),
        "huge": np.where(noise > 2.2, np.float32("inf"), np.where(noise < -2.2, np.float32(3e38), noise)),
        "steps": np.sign(ball + 0 * noise),
    }[kind]
    return torch.as_tensor(np.broadcast_to(values, noise.shape).astype(np.float32).copy())


def plan_of(size: tuple[int, int], band: bool, low: int = LOW) -> Geometry:
    plan = geometry(low, 4 * low, resized(size, 4 * low), size, CPU)
    return dataclasses.replace(plan, band=BAND) if band else plan


def check(logits: torch.Tensor, plan: Geometry, offset: float) -> np.ndarray:
    pixels = reference(logits[None], plan.mid, plan.inside, plan.size)[0]
    stability = amg.calculate_stability_score(pixels, 0.0, offset)
    post, cuts = Postprocessor(), Thresholds.of(0.0, offset)
    seen = post.measure(logits, plan, cuts)
    assert np.array_equal(seen.stability, stability.numpy(), equal_nan=True)
    assert np.array_equal(seen.boxes, amg.batched_mask_to_box(pixels > 0).numpy())
    assert np.array_equal(seen.area, (pixels > 0).sum((1, 2)).numpy())
    runs = post.runs(logits, plan, cuts, (0, 0), plan.size, seen.recomputed)
    assert [r.tolist() for r in runs] == [r["counts"] for r in amg.mask_to_rle_pytorch(pixels > 0)]
    return seen.recomputed


@settings(deadline=None, max_examples=80)
@given(
    size=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(20, 260), st.integers(20, 260)),
        st.sampled_from([(1, 100), (100, 1), (128, 128), (96, 128), (131, 90)]),
    ),
    kind=st.sampled_from(KINDS),
    offset=st.sampled_from([1.0, 0.02, 0.0, -0.5]),
    band=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_to_the_reference(
    size: tuple[int, int], kind: str, offset: float, band: bool, seed: int
) -> None:
    if min(resized(size, MID)) == 0:
        return
    check(logits_of(kind, seed), plan_of(size, band), offset)


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (700, 90)])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_equal_at_the_released_sizes(size: tuple[int, int], kind: str) -> None:
    recomputed = check(logits_of(kind, 1, low=256), plan_of(size, False, low=256), 1.0)
    assert not recomputed.any(), "the kernels are the reference's operations, in its order"


def test_the_band_catches_what_another_order_of_operations_could_flip() -> None:
    recomputed = check(logits_of("ties", 3), plan_of((90, 131), True), 1.0)
    assert recomputed.all()


def test_runs_of_a_crop_are_placed_in_the_image() -> None:
    crop, size, corner = (60, 50), (90, 131), (40, 17)
    logits, plan, cuts = logits_of("smooth", 7), plan_of(crop, False), Thresholds.of(0.0, 1.0)
    for recompute in (False, True):
        flags = np.full(3, recompute)
        runs = Postprocessor().runs(logits, plan, cuts, corner, size, flags)
        pixels = reference(logits[None], plan.mid, plan.inside, plan.size)[0] > 0
        whole = torch.zeros((3, *size), dtype=torch.bool)
        whole[:, corner[1] : corner[1] + crop[0], corner[0] : corner[0] + crop[1]] = pixels
        assert [r.tolist() for r in runs] == [rle.encode(mask.numpy()).tolist() for mask in whole]


def test_threads_change_nothing() -> None:
    logits = torch.cat([logits_of(kind, seed) for seed in range(4) for kind in ("noise", "smooth")])
    plan, cuts = plan_of((90, 131), False), Thresholds.of(0.0, 0.5)
    one, four = Postprocessor(1), Postprocessor(4)
    flags = np.zeros(len(logits), np.bool_)
    for name in ("high", "low", "area", "boxes"):
        assert np.array_equal(
            getattr(one.measure(logits, plan, cuts), name), getattr(four.measure(logits, plan, cuts), name)
        )
    for a, b in zip(
        one.runs(logits, plan, cuts, (0, 0), plan.size, flags),
        four.runs(logits, plan, cuts, (0, 0), plan.size, flags),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_no_masks() -> None:
    plan, cuts = plan_of((90, 131), False), Thresholds.of(0.0, 1.0)
    none = torch.empty((0, LOW, LOW))
    assert Postprocessor().measure(none, plan, cuts).boxes.shape == (0, 4)
    assert Postprocessor().runs(none, plan, cuts, (0, 0), plan.size, np.zeros(0, np.bool_)) == []


@pytest.mark.parametrize("failure", ["import", "launch"])
def test_where_the_gpu_kernel_fails_the_cpu_s_measures_with_one_warning(
    failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if failure == "import":
        monkeypatch.setitem(sys.modules, "triton", None)
    else:
        pytest.importorskip("triton")  # its launch fails on tensors of a CPU
    monkeypatch.delitem(sys.modules, "prep.proposals.sam.kernels_gpu", raising=False)
    plan, logits, post = plan_of((90, 131), False), logits_of("smooth", 3), Postprocessor()
    for _ in range(2):
        assert post._measure_on_gpu(logits, plan, Thresholds.of(0.0, 1.0).values) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    stats = ExactnessStats()
    stats.add(exactness_stats(3, 0, Differences(), [post.without_gpu]))
    stats.add(exactness_stats(3, 0, Differences(), [post.without_gpu]))
    assert stats.figures()["notes"] == [post.without_gpu]
    assert lines(stats.figures())[-1] == post.without_gpu
    assert "GPU kernel failed: " in post.without_gpu
