"""What every test may use: the real data beside the project, where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long a case takes says how busy the machine is, not whether the case is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# Threads that wait shall sleep, not spin (see prep/commands/entry.py); torch reads it when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray runs its workers at niceness 15: beside other work on the machine an engine would take minutes to start.
os.environ.setdefault("RAY_worker_niceness", "0")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real photos, expressions and reference numbers beside the checkout; skips where they are absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data" / "README.md").is_file():
        pytest.skip("the folder of real data beside the checkout (../shared) is absent")
    return folder
