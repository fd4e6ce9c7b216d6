"""Shared by the tests of evaluation: a trained model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcnet.training.trainer import TrainConfig, train


@pytest.fixture(scope="session")
def checkpoint(prepared, tmp_path_factory):
    """A model that was trained for a few steps, so that its maps are neither flat nor all alike."""
    out = tmp_path_factory.mktemp("trained")
    config = TrainConfig(
        store=prepared.store, data=str(prepared.data), out=str(out), encoder="tiny", recipe="plus", steps=30
    )
    return train(replace(config, batch_size=16, size=48, threads=1, device="cpu", quiet=True)).best
