"""The orders of operations of torch's interpolation, by thread count and by instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prep.proposals.sam import upsample
from prep.proposals.sam.crops import resized
from prep.proposals.sam.postprocess import Postprocessor, Thresholds
from prep.proposals.sam.upsample import agreeing, geometry

CPU = torch.device("cpu")
SIZES = [(480, 640), (333, 500), (700, 90), (40, 60), (1024, 1024)]
SCRIPT = f"""
import torch
from prep.proposals.sam.crops import resized
from prep.proposals.sam.upsample import geometry

for threads in (1, 3):
    torch.set_num_threads(threads)
    for size in {SIZES}:
        plan = geometry(256, 1024, resized(size, 1024), size, torch.device("cpu"))
        print(torch.backends.cpu.get_cpu_capability(), threads, size, plan.band)
"""


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_an_order_agrees_for_every_number_of_threads(count: int, threads: Callable[[int], None]) -> None:
    threads(count)
    plans = [geometry(256, 1024, resized(size, 1024), size, CPU) for size in SIZES]
    assert [plan.band for plan in plans] == [0.0] * len(SIZES)


def test_a_geometry_is_not_kept_for_another_number_of_threads(threads: Callable[[int], None]) -> None:
    size, orders = (480, 640), []
    for count in (1, 2, 1):
        threads(count)
        plan = geometry(256, 1024, resized(size, 1024), size, CPU)
        assert plan.orders == agreeing(plan, CPU)
        orders.append(plan.orders)
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_an_order_agrees_with_every_instruction_set(capability: str, repository: Path) -> None:
    native = torch.backends.cpu.get_cpu_capability().lower()
    known = ["default", "avx2", "avx512"]
    if native not in known or known.index(capability) > known.index(native):
        pytest.skip("this processor has no such instructions")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=repository,
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(SIZES)
    assert [
        line for line in lines if not line.startswith(capability.upper()) or line.split()[-1] != "0.0"
    ] == []


def test_where_no_order_agrees_few_smooth_masks_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:256, :256].astype(np.float32) / 256
    rng = np.random.default_rng(0)
    discs = [
        60 * (rng.uniform(0.1, 0.5) - np.hypot(x - rng.uniform(), y - rng.uniform())) for _ in range(200)
    ]
    logits = torch.from_numpy(np.stack(discs).astype(np.float32))
    monkeypatch.setattr(upsample, "agreeing", lambda plan, device: None)
    upsample._geometry.cache_clear()
    try:
        plan = geometry(256, 1024, (768, 1024), (480, 640), CPU)
        assert plan.band > 0
        share = Postprocessor().measure(logits, plan, Thresholds.of(0.0, 1.0)).recomputed.mean()
    finally:
        upsample._geometry.cache_clear()
    assert share < 0.1
