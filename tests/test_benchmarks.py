"""The commands beside the figures of the README and the documentation run, in their smallest form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PROPOSALS = ("benchmarks/proposals.py", "--count", "1", "--post-points", "2", "--points", "2")


@pytest.mark.slow
def test_the_agreement_with_the_released_code(python: Callable[..., str], shared: Path) -> None:
    path = shared / "conformance" / "pcnet_released_small.npz"
    if not path.exists():
        pytest.skip("the recorded values are not here")
    last = python("benchmarks/released_agreement.py", str(path)).splitlines()[-1]
    assert last.startswith("maximum")
    assert float(last.split()[-1]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_no_mask_after_the_decoder_is_recomputed(python: Callable[..., str], threads: str) -> None:
    said = python(*PROPOSALS, "--threads", threads, "--sections", "post")
    assert f"{threads} threads" in said
    assert "0.0% of" in said


@pytest.mark.slow
def test_the_orders_of_operations(python: Callable[..., str]) -> None:
    lines = python("benchmarks/orders.py", "--threads", "2", "--masks", "3").splitlines()[1:]
    assert lines
    assert all("5 of 5; 0.0%, 0.0%;" in line for line in lines)


@pytest.mark.slow
def test_a_student_beside_its_teacher(python: Callable[..., str], tmp_path: Path) -> None:
    smallest = ("--teacher-steps", "30", "--steps", "2", "--seeds", "1", "--images", "60", "--threads", "1")
    lines = python("benchmarks/student.py", *smallest, "--out", str(tmp_path)).splitlines()
    assert [one.split("  ")[0] for one in lines[2:]] == [
        "teacher, map",
        "teacher, proposal under peak",
        "student, map",
    ]
