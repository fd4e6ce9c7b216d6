"""Tiny Mistral models and the one vLLM engine that serves every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.prep.phrases import tiny

# Set before any engine starts: little memory, little talk.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def random_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Mistral with random weights."""
    folder = tmp_path_factory.mktemp("models") / "random-mistral"
    tiny.random_model(folder)
    return folder


@pytest.fixture(scope="session")
def taught_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Mistral that was taught ``tiny.LESSONS``."""
    folder = tmp_path_factory.mktemp("models") / "taught-mistral"
    tiny.taught_model(folder)
    return folder


@pytest.fixture(scope="session")
def taught(taught_mistral: Path) -> Iterator[Any]:
    """The taught model in the vLLM engine that serves every test."""
    stage = tiny.vllm_stage(taught_mistral)
    stage.open()
    yield stage
    stage.close()
