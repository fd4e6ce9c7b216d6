"""The small detectors, made once for all tests of concepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prep.concepts.small_models import grounding_dino_folder, sam3_folder


@pytest.fixture(scope="session")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small seeded SAM 3."""
    return sam3_folder(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small seeded Grounding DINO."""
    return grounding_dino_folder(tmp_path_factory.mktemp("grounding-dino"))
