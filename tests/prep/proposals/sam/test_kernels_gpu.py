"""The Triton kernel in Triton's interpreter, or on the GPU where there is one, against full resolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("triton")

# Triton decides when a kernel is defined whether to interpret it, so the comparison has a process of its own.
SCRIPT = """
import sys

import numpy as np
import torch

from prep.proposals.sam import kernels_gpu
from prep.proposals.sam.crops import resized
from prep.proposals.sam.postprocess import Thresholds, count, settled_edges
from prep.proposals.sam.upsample import geometry, reference

device, exact = torch.device(sys.argv[1]), sys.argv[2] == "exact"
rng = np.random.default_rng(0)
LOW, SETTLED = 32, 0
y, x = np.mgrid[:LOW, :LOW] / LOW
noise = rng.standard_normal((LOW, LOW))
kinds = [
    noise,
    12 * (0.3 - np.hypot(x - 0.4, y - 0.6)),
    12 * (0.15 - np.hypot(x - 0.7, y - 0.3)) + 0.1 * noise,
    np.full((LOW, LOW), 2.0),
    np.full((LOW, LOW), -2.0),
    np.round(noise),
    np.where(noise > 2, np.nan, noise),
]
logits = torch.tensor(np.stack(kinds), dtype=torch.float32, device=device)
for size in [(1, 1), (7, 5), (40, 61), (64, 64)]:
    inside = resized(size, 4 * LOW)
    plan = geometry(LOW, 4 * LOW, inside, size, device)
    assert kernels_gpu.agrees(plan, device) == exact, (size, plan.orders, plan.band)
    values = Thresholds.of(0.0, 0.5).values
    found = kernels_gpu.measure(logits, plan, values, settled_edges(values))
    for number, mask in enumerate(logits):
        if found[number, 7]:
            continue
        SETTLED += 1
        pixels = reference(mask.expand(1, 3, -1, -1), plan.mid, inside, size)[0, 0].cpu().numpy()
        expected = count(pixels, values)
        if expected[2] == 0:  # no box to speak of
            expected[3:7] = found[number, 3:7] if found[number, 3] > found[number, 5] else -9
        assert np.array_equal(found[number], expected), (size, number, found[number], expected)
assert (found[5, 7] > 0) != exact, "ties are too close to call, unless every bit is known"
assert found[6, 7] > 0, "what is no number is left to the reference"
assert len(kernels_gpu.measure(logits[:0], plan, values, settled_edges(values))) == 0
print(f"settled {SETTLED}")
"""


@pytest.mark.slow
def test_interpreted_within_the_band(python: Callable[..., str]) -> None:
    """The interpreter rounds a fused product twice, so its bits are not those of a processor that fuses."""
    assert int(python("-c", SCRIPT, "cpu", "band", TRITON_INTERPRET="1").split()[-1]) >= 16


@pytest.mark.slow
def test_interpreted_with_equal_bits(python: Callable[..., str]) -> None:
    """Without fused products in torch, the interpreter gives its bits: only NaN is left to the reference."""
    settings = {"TRITON_INTERPRET": "1", "ATEN_CPU_CAPABILITY": "default"}
    assert (
        int(python("-c", SCRIPT, "cpu", "exact", **settings).split()[-1]) == 4 * 6 + 1
    )  # no NaN reaches 1 x 1


def test_on_the_gpu(python: Callable[..., str]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    assert int(python("-c", SCRIPT, "cuda", "exact").split()[-1]) == 4 * 6 + 1  # no NaN reaches 1 x 1
