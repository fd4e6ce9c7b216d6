"""What every test may use: the real data beside the project, where it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

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
