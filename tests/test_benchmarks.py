"""The commands beside the figures of the README and the documentation run, in their smallest form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROPOSALS = ("proposals.py", "--count", "1", "--post-points", "2", "--points", "2")


def run(repository: Path, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_agreement_with_the_released_code(repository: Path, shared: Path) -> None:
    path = shared / "conformance" / "pcnet_released_small.npz"
    if not path.exists():
        pytest.skip("the recorded values are not here")
    last = run(repository, "released_agreement.py", str(path)).splitlines()[-1]
    assert last.startswith("maximum")
    assert float(last.split()[-1]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_no_mask_after_the_decoder_is_recomputed(repository: Path, threads: str) -> None:
    said = run(repository, *PROPOSALS, "--threads", threads, "--sections", "post")
    assert f"{threads} threads" in said
    assert "0.0% of" in said


@pytest.mark.slow
def test_the_orders_of_operations(repository: Path) -> None:
    lines = run(repository, "orders.py", "--threads", "2", "--masks", "3").splitlines()[1:]
    assert lines
    assert all("5 of 5; 0.0%, 0.0%;" in line for line in lines)
