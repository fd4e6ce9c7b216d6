"""Single steps of the trainer, without a whole run: seed, rate, clipped gradients, and the best so far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcnet.metrics import Metrics
from pcnet.model.checkpoint import read_checkpoint
from pcnet.training.distributed import Ranks
from pcnet.training.trainer import BEST, BEST_POINT, LAST, Run, TrainConfig


@pytest.fixture
def config(prepared, tmp_path):
    return TrainConfig(
        store=prepared.store,
        data=str(prepared.data),
        out=str(tmp_path / "run"),
        encoder="tiny",
        recipe="plus",
        steps=12,
        batch_size=4,
        size=32,
        warmup=3,
        threads=1,
        seed=7,
        device="cpu",
        quiet=True,
    )


def begun(config: TrainConfig) -> Run:
    (Path(config.out)).mkdir(exist_ok=True)
    return Run(config.resolved(1), Ranks(), torch.device("cpu"))


def gradient(run: Run) -> float:
    """The norm of the gradient that the last step took."""
    parts = [p.grad for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack([part.norm() for part in parts])))


def test_each_step_has_its_own_seed_and_gradients_as_long_as_asked(config):
    run = begun(replace(config, clip_grad=0))
    (batches,) = [next(iter(run._batches(0, 0)))]
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    found = []
    for step in (0, 1, 5):
        run.step = step
        run._take(batches)
        found.append(torch.initial_seed())
    assert found == [7 * 1_000_003 + step for step in (0, 1, 5)]
    run.model.load_state_dict(weights)
    run.step = 0
    run._take(batches)
    whole = gradient(run)
    run.model.load_state_dict(weights)
    run.config = replace(run.config, clip_grad=whole / 4)
    run._take(batches)
    assert gradient(run) == pytest.approx(whole / 4, rel=1e-3)


def test_the_rate_of_every_group_rises_over_the_warm_up_of_the_run(config):
    run = begun(config)
    rates = []
    for step in range(5):
        run.step = step
        told = run._set_rate()
        groups = run.optimizer.param_groups
        shares = {group["lr"] / group["initial_lr"] for group in groups}
        assert told == groups[-1]["lr"]
        assert max(shares) == pytest.approx(min(shares))
        rates.append(max(shares) / (1 - step / run.job.total) ** config.power)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_only_a_better_validation_is_kept_also_after_a_resumed_run(config):
    run = begun(config)
    figures = iter([(30.0, 10.0), (30.0, 20.0), (20.0, 5.0)])

    def validate(model):
        miou, pointm = next(figures)
        return Metrics(1, miou, miou, pointm, 0.0, 0.0, 0)

    def kept(name: str) -> int:
        return read_checkpoint(Path(config.out) / name)["training"]["step"]

    log = run._log()
    for step in (1, 2):
        run.step = step
        run._validate(validate, log)
    log.close()
    assert (kept(BEST), kept(BEST_POINT)) == (1, 2)
    run._save(LAST)
    again = begun(config)
    again._resume()
    assert again.best == {BEST: 30.0, BEST_POINT: 20.0}
    again.step, log = 3, again._log()
    again._validate(validate, log)
    log.close()
    assert (kept(BEST), kept(BEST_POINT)) == (1, 2)
