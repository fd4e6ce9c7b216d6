"""That a part of a network runs compiled, and uncompiled with one warning where the compiler fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prep.proposals.sam.compiled import Compiled


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our module logged; torch's compiler logs too."""
    return [r.getMessage() for r in caplog.records if r.name == "prep.proposals.sam.compiled"]


def double(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x) * 2


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What other tests compiled is compiled anew."""
    torch._dynamo.reset()


@pytest.mark.slow
def test_it_runs_compiled(caplog: pytest.LogCaptureFixture) -> None:
    function, x = Compiled(double, "The part"), torch.randn(8)
    torch.testing.assert_close(function(x), double(x))
    assert function._compiled is not double
    assert not warned(caplog)


WITHOUT_COMPILER = """
import logging, torch
from prep.proposals.sam.compiled import Compiled
logging.basicConfig(format="%(name)s %(message)s")
function, x = Compiled(lambda x: torch.sin(x) * 2, "The part"), torch.randn(9)
assert torch.equal(function(x), torch.sin(x) * 2)
assert torch.equal(function(x + 1), torch.sin(x + 1) * 2)
"""


@pytest.mark.slow
def test_without_a_compiler_it_runs_as_it_is_with_one_warning(repository: Path, tmp_path: Path) -> None:
    missing = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        cwd=repository, env=os.environ | missing, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("prep.")]
    assert len(said) == 1
    assert "The part runs uncompiled" in said[0]
    assert "no-such-compiler" in said[0]


def fails(x: torch.Tensor) -> torch.Tensor:
    if len(x) > 8:
        raise ValueError("too long")
    return x * 2


@pytest.mark.slow
def test_what_fails_after_it_has_worked_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    function = Compiled(fails, "The part")
    assert torch.equal(function(torch.ones(2)), 2 * torch.ones(2))
    with pytest.raises(ValueError, match="too long"):
        function(torch.ones(9))
    assert not warned(caplog)


def exhausted(x: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory for this")


def test_a_lack_of_memory_is_not_taken_for_a_fault_of_the_compiler(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no memory for this"):
        Compiled(exhausted, "The part")(torch.ones(2))
    assert not warned(caplog)
