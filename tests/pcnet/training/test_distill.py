"""Distillation: it learns the teacher's masks, resumes with the same losses, and is used like any model."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pcnet import load_model
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.evaluation.predict import predict
from pcnet.model.checkpoint import read_checkpoint
from pcnet.model.student import Student
from pcnet.training.distill import DistillConfig, distill
from pcnet.training.trainer import TrainConfig, train
from prep.datasets.catalogue import open_dataset
from prep.errors import PrepError


@pytest.fixture(scope="module")
def teacher(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    config = TrainConfig(
        store=prepared.store, data=str(prepared.data), out=str(out), encoder="tiny", recipe="plus", steps=20
    )
    return train(replace(config, batch_size=16, size=32, threads=1, device="cpu", quiet=True)).best


@pytest.fixture
def config(prepared, teacher, tmp_path):
    return DistillConfig(
        store=prepared.store,
        data=str(prepared.data),
        teacher=str(teacher),
        out=str(tmp_path / "student"),
        steps=12,
        batch_size=16,
        warmup=2,
        threads=1,
        device="cpu",
        quiet=True,
    )


def losses(folder: str) -> list[list[str]]:
    with (Path(folder) / "losses.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


class Killed(Exception):
    """Ends a run after an epoch, as a signal that cannot be handled would."""


def kill(model: torch.nn.Module) -> None:
    raise Killed


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_losses(config, tmp_path):
    whole = replace(config, steps=30)
    distill(whole)
    cut = replace(whole, out=str(tmp_path / "cut"), save_seconds=0.0)
    with pytest.raises(Killed):
        distill(cut, kill)
    stopped = read_checkpoint(Path(cut.out) / "last.pt")["training"]["step"]
    assert 0 < stopped < 30
    (Path(cut.out) / "targets.npz").write_bytes(b"damaged")
    distill(cut)
    assert losses(cut.out) == losses(whole.out)
    one, other = (read_checkpoint(Path(run.out) / "last.pt")["model"] for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    totals = [float(row[3]) for row in losses(whole.out)[1:]]
    assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])


@pytest.mark.slow
def test_a_student_is_evaluated_and_predicts_like_any_model(config, prepared):
    best = distill(config).best
    payload = read_checkpoint(best)
    assert payload["config"]["comprehension"] == payload["recipe"]["name"] == "student"
    assert payload["training"]["config"]["size"] == 32  # the teacher's
    dataset = open_dataset(prepared.data, "refcoco")
    report = evaluate_checkpoint(
        best, dataset, store=prepared.store, split="val", settings=EvalSettings(prms=True), device="cpu"
    )
    assert report.prms is not None
    assert 0 < report.prms.n < report.metrics.n
    model = load_model(best)
    assert isinstance(model, Student)
    image = prepared.data / "train2014" / "COCO_train2014_000000000001.jpg"
    found = predict(model, image, "the red circle", ["anything"], size=32)
    other = predict(model, image, "the red circle", ["else"], size=32)
    assert np.array_equal(found.stages, other.stages)
    assert found.mask.shape == (64, 64)
    assert np.array_equal(found.mask, found.stages[-1] > 0)


def test_wrong_combinations_are_refused_in_words(config, tmp_path):
    best = distill(replace(config, steps=2)).best
    with pytest.raises(PrepError, match="is a student itself"):
        distill(replace(config, teacher=str(best), out=str(tmp_path / "second")))
    with pytest.raises(PrepError, match="no stages of another recipe"):
        load_model(best, recipe="plus")
    with pytest.raises(PrepError, match="no stages of another recipe"):
        load_model(config.teacher, recipe=None) and load_model(best, recipe="paper")
    with pytest.raises(PrepError, match="exactly one stage"):
        load_model(best, stages=2)


def test_another_teacher_is_another_run(config, prepared, tmp_path):
    distill(replace(config, steps=2))
    other = TrainConfig(
        store=prepared.store, data=str(prepared.data), out=str(tmp_path / "other"), encoder="tiny", seed=1
    )
    other = replace(
        other, recipe="plus", steps=2, batch_size=16, size=32, threads=1, device="cpu", quiet=True
    )
    with pytest.raises(PrepError, match="the teacher's weights have changed"):
        distill(replace(config, steps=2, teacher=str(train(other).best)))
