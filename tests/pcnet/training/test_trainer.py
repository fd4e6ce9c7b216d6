"""The trainer: repeatable, killable, the same for one process and two, and silent about no failure."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pcnet.metrics import Metrics
from pcnet.model.checkpoint import load_model, read_checkpoint
from pcnet.training.setup import prepare
from pcnet.training.trainer import TrainConfig, learning_rate, train
from prep.cache.schema import SCORES
from prep.cache.store import open_store
from prep.errors import PrepError

# What a run in a process of its own executes: settings from the command line, as JSON.
SCRIPT = (
    "import json, sys\n"
    "from pcnet.training.trainer import TrainConfig, train\n"
    "from prep.errors import Interrupted\n"
    "if __name__ == '__main__':\n"
    "    try:\n"
    "        train(TrainConfig(**json.loads(sys.argv[1])))\n"
    "    except Interrupted as error:\n"
    "        print(error, file=sys.stderr)\n"
    "        sys.exit(error.exit_code)\n"
)


@pytest.fixture
def config(prepared, tmp_path):
    return TrainConfig(
        store=prepared.store,
        data=str(prepared.data),
        out=str(tmp_path / "run"),
        encoder="tiny",
        recipe="plus",
        weights={"iad": 0.5},
        steps=12,
        batch_size=8,
        size=32,
        warmup=2,
        threads=1,
        device="cpu",
        quiet=True,
    )


def losses(folder: str) -> list[dict[str, float]]:
    """The log without the wall times."""
    with open(Path(folder) / "losses.csv", newline="") as handle:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def same(one: object, other: object) -> bool:
    """Whether two nests of plain values and tensors are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return isinstance(other, type(one)) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def in_process(config: TrainConfig, *launcher: str, folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), json.dumps(asdict(config))],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stderr=subprocess.PIPE,
    )


def after_some_steps(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for a few logged steps and a checkpoint."""
    log, deadline = folder / "losses.csv", time.monotonic() + 500
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "last.pt").exists() and len(log.read_text().splitlines()) > 6:
            return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_for_bit(config, tmp_path, number):
    whole = replace(config, out=str(tmp_path / "whole"), steps=20)
    train(whole)
    cut = replace(config, out=str(tmp_path / "cut"), steps=20, save_seconds=0.0)
    process = in_process(cut, folder=tmp_path)
    after_some_steps(process, tmp_path / "cut")
    logged = len(losses(cut.out))
    process.send_signal(number)
    told = process.communicate()[1].decode()
    stopped = read_checkpoint(tmp_path / "cut" / "last.pt")["training"]["step"]
    assert 0 < stopped < 20
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:  # it finishes the step, keeps it, and says so
        assert process.returncode == 128 + number
        assert f"Stopped by {number.name}: step {stopped} of 20" in told
        assert logged <= stopped == len(losses(cut.out))
    train(replace(cut, save_seconds=60.0))
    assert losses(cut.out) == losses(whole.out)
    one, other = (read_checkpoint(Path(run.out) / "last.pt") for run in (whole, cut))
    assert same(one["model"], other["model"])
    assert same(one["training"]["optimizer"], other["training"]["optimizer"])


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(config, tmp_path):
    long = replace(config, steps=5000, save_seconds=0.0)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = in_process(long, *launcher, folder=tmp_path)
    after_some_steps(process, Path(config.out))
    process.terminate()
    told = process.communicate()[1].decode()
    assert process.returncode != 0
    stopped = read_checkpoint(Path(config.out) / "last.pt")["training"]["step"]
    assert told.count(f"Stopped by SIGTERM: step {stopped:,} of 5,000") == 2
    assert stopped == len(losses(config.out))


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(config, tmp_path):
    alone = replace(config, out=str(tmp_path / "alone"), steps=2, lr=1e-6)
    pair = replace(alone, out=str(tmp_path / "pair"))
    train(alone)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = in_process(pair, *launcher, folder=tmp_path)
    told = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, told
    # The rate is tiny because Adam's first steps are nearly signs of gradients: at the usual one, rounding in
    # a gradient near zero becomes a whole step, and later losses could be compared to a few digits only.
    for one, other in zip(losses(alone.out), losses(pair.out), strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    # Adam's averages keep the gradients of the steps.
    first, second = (
        read_checkpoint(Path(run.out) / "last.pt")["training"]["optimizer"]["state"] for run in (alone, pair)
    )
    for number, state in first.items():
        scale = state["exp_avg"].abs().max() + 1e-8
        assert (state["exp_avg"] - second[number]["exp_avg"]).abs().max() < 0.02 * scale, number


def test_the_same_settings_give_the_same_model_and_a_seed_another(config, tmp_path):
    states = []
    for name, seed, workers in (("a", 0, 0), ("b", 0, 2), ("c", 1, 0)):
        run = train(replace(config, out=str(tmp_path / name), steps=4, seed=seed, workers=workers))
        states.append(read_checkpoint(run.last)["model"])
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_checkpoint_loads(config):
    done = train(replace(config, steps=40))
    log = losses(config.out)
    assert sum(row["cls"] for row in log[-5:]) < sum(row["cls"] for row in log[:5])
    assert [row["step"] for row in log] == list(range(1, 41))
    assert done.best.read_bytes() == done.last.read_bytes()
    model = load_model(done.best)
    ids = model.tokenizer(["red circle"])
    assert model(torch.zeros(1, 3, 32, 32), ids, ids[None].expand(1, 3, -1)).shape == (1, 1, 32, 32)


def test_other_settings_or_other_data_are_refused_with_both_values(config):
    train(replace(config, steps=2))
    with pytest.raises(PrepError, match=r"lr: was 0\.002, now 0\.5"):
        train(replace(config, steps=2, lr=0.5))
    again = train(replace(config, steps=2, save_seconds=1.0))
    assert again.steps == 2
    saved = torch.load(again.last, weights_only=True)
    saved["training"]["samples"] = "other"
    torch.save(saved, again.last)
    with pytest.raises(PrepError, match="samples"):
        train(replace(config, steps=2))
    train(replace(config, steps=2, lr=0.5, restart=True))


def test_a_loss_that_is_not_a_number_names_the_rows(config, prepared):
    from prep.cache.store import open_store

    rows = set(open_store(prepared.store).stage("phrases").reader().read(["row_id"])["row_id"].to_pylist())
    with pytest.raises(PrepError, match="not finite") as caught:
        train(replace(config, lr=1e30, clip_grad=0.0))
    named = caught.value.message.split("batch: ")[1].removesuffix(".").split(", ")
    assert len(named) == 8
    assert set(named) <= rows


@pytest.mark.slow
def test_validation_chooses_best_by_miou_and_by_pointm(config):
    steps = replace(config, steps=None, epochs=3, batch_size=50)
    figures = [(30.0, 10.0), (20.0, 40.0), (10.0, 30.0)]
    seen = []

    def validate(model):
        assert not model.training
        miou, pointm = figures[len(seen)]
        seen.append(miou)
        return Metrics(1, miou, miou, pointm, 0.0, 0.0, 0)

    done = train(steps, validate)
    per_epoch = done.steps // 3
    assert len(seen) == 3
    found = [
        read_checkpoint(Path(config.out) / name)["training"]["step"]
        for name in ("best.pt", "best_pointm.pt", "last.pt")
    ]
    assert found == [per_epoch, 2 * per_epoch, 3 * per_epoch]


@pytest.mark.slow
def test_accumulated_batches_make_one_step(config):
    epoch = replace(config, steps=None, epochs=1, batch_size=40)
    done = train(replace(epoch, accumulate=2))
    alone = train(replace(epoch, restart=True))
    assert done.steps == alone.steps // 2


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_other_recipes_train_too(config, recipe):
    weights = {"cbs": 0.0, "iad": 1.0} if recipe == "released" else {}
    done = train(replace(config, recipe=recipe, weights=weights, steps=3))
    factors = {"cls": 5, "iad": 1} if recipe == "released" else {"cls": 1, "ras": 1, "iad": 1}
    parts = sum(factor * done.losses[name] for name, factor in factors.items())
    assert done.losses["total"] == pytest.approx(parts, rel=1e-5)


def test_the_released_recipe_trains_with_the_store_scores(config, prepared, tmp_path):
    """All of its losses but the calibration, which reads CLIP's tokens (tests/pcnet/test_recipes.py)."""
    store = tmp_path / "store"
    shutil.copytree(prepared.store, store)
    weights = {"ras": 1.0, "iad": 1.0, "anchor": 1.0, "cbs": 0.0}
    scored = replace(config, store=str(store), recipe="released", weights=weights, steps=3)
    with pytest.raises(PrepError, match="has no scores"):
        train(scored)
    write_scores(str(store))
    done = train(scored)
    factors = {"cls": 5.0, "ras": 1.0, "iad": 1.0, "anchor": 1.0}
    assert done.losses.keys() == {*factors, "total"}
    parts = sum(factor * done.losses[name] for name, factor in factors.items())
    assert done.losses["total"] == pytest.approx(parts, rel=1e-5)


def write_scores(store: str) -> None:
    """A score for every proposal of every expression's image, in the store's own order."""
    opened = open_store(store)
    proposals = opened.stage("proposals").reader().read(["image", "masks"]).to_pylist()
    counts = {row["image"]: len(row["masks"]) for row in proposals}
    told = opened.stage("phrases").reader().read(["row_id", "split_by", "image"]).to_pylist()
    fixed = {"proposals_key": "k", "model": "none", "key": "k"}
    rows = [{**row, **fixed, "scores": [0.1 * i for i in range(counts[row["image"]])]} for row in told]
    with opened.stage("scores").writer({}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=SCORES))


def test_a_run_begins_with_the_weights_of_another(config, tmp_path):
    first = train(replace(config, recipe="paper", weights={}, steps=3))
    second = replace(config, out=str(tmp_path / "second"), begin_from=str(first.last), steps=1, lr=0.0)
    one, other = (read_checkpoint(run)["model"] for run in (first.last, train(second).last))
    shared = [name for name in one if not name.startswith("attn_fusion_vl.") and "running" not in name]
    assert all(torch.equal(one[name], other[name]) for name in shared if "num_batches" not in name)
    assert other["attn_fusion_vl.1.gate"] == 1


def test_the_rate_rises_then_decays_to_nothing():
    rates = [learning_rate(step, 1000, 100, 0.9) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 101)
    assert max(rates) == rates[99] or max(rates) == rates[100]
    assert rates[500] == pytest.approx(0.5**0.9)
    assert rates[1000] == 0.0


def test_a_batch_is_shared_evenly_or_refused():
    assert TrainConfig().resolved(8).batch_size == 40
    assert TrainConfig(batch_size=64).resolved(8).batch_size == 64
    with pytest.raises(PrepError, match="8 processes"):
        TrainConfig(batch_size=36).resolved(8)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "epoch"), [("paper", "refs"), ("plus", "sentences")])
def test_an_epoch_is_that_of_the_recipe_and_a_resumed_run_keeps_its_own(config, recipe, epoch):
    config = replace(config, recipe=recipe, weights={}, steps=None, epochs=1, batch_size=32, size=16)
    steps = {name: train(replace(config, epoch=name, restart=True)).steps for name in ("refs", "sentences")}
    assert steps["refs"] < steps["sentences"]
    assert train(replace(config, restart=True)).steps == steps[epoch]
    assert train(config).steps == steps[epoch]
    other = {"refs": "sentences", "sentences": "refs"}[epoch]
    with pytest.raises(PrepError, match=f"epoch: was '{epoch}', now '{other}'"):
        train(replace(config, epoch=other))


def test_a_run_of_an_old_version_goes_on_with_every_sentence(config, tmp_path):
    train(replace(config, recipe="paper", weights={}, steps=2, epoch="sentences"))
    path = tmp_path / "run" / "last.pt"
    saved = read_checkpoint(path)
    del saved["training"]["config"]["epoch"]
    torch.save(saved, path)
    assert train(replace(config, recipe="paper", weights={}, steps=2)).steps == 2
    assert read_checkpoint(path)["training"]["config"]["epoch"] == "sentences"


@pytest.mark.slow
def test_a_finished_run_is_lengthened(config, tmp_path, capsys):
    """At a constant rate as one long run, bit for bit; at a falling one, that it is not is said and kept."""
    constant = replace(config, power=0.0, quiet=False)
    long, cut = (replace(constant, out=str(tmp_path / name)) for name in ("long", "cut"))
    train(replace(long, steps=9))
    train(replace(cut, steps=4))
    assert train(replace(cut, steps=9)).steps == 9
    assert losses(cut.out) == losses(long.out)
    one, other = (read_checkpoint(Path(run.out) / "last.pt") for run in (long, cut))
    assert same(one["model"], other["model"])
    assert same(one["training"]["optimizer"], other["training"]["optimizer"])
    assert "lengthened" not in capsys.readouterr().err
    with pytest.raises(PrepError, match="length: was 9 steps, now 4"):
        train(replace(cut, steps=4))

    falling = replace(config, quiet=False, out=str(tmp_path / "falling"))
    train(replace(falling, steps=4))
    capsys.readouterr()
    train(replace(falling, steps=9))
    told = "Its learning rate up to step 4 is that of a run of 4 steps, then that of a run of 9 steps"
    assert told in capsys.readouterr().err
    expected = [learning_rate(step, 4 if step < 4 else 9, 2, 0.9) * 2e-3 for step in range(9)]
    assert [row["lr"] for row in losses(falling.out)] == pytest.approx(expected)
    assert json.loads((tmp_path / "falling/settings.json").read_text())["lengthened"] == [[4, 4]]
    assert read_checkpoint(tmp_path / "falling/last.pt")["training"]["lengthened"] == [[4, 4]]


@pytest.mark.slow
def test_a_run_of_epochs_is_lengthened_by_epochs_or_steps(config):
    short = replace(config, steps=None, epochs=1, batch_size=50, size=16)
    per_epoch = train(short).steps
    assert train(replace(short, epochs=2)).steps == 2 * per_epoch
    assert train(replace(short, steps=2 * per_epoch + 1)).steps == 2 * per_epoch + 1
    with pytest.raises(PrepError, match=f"length: was {2 * per_epoch + 1} steps, now {per_epoch}"):
        train(replace(short, epochs=1, steps=None))


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("epoch", "other", "epoch is 'other'"), ("amp", "yes", "amp is 'yes'"), ("steps", 0, "steps is 0"),
        ("limit", -1, "limit is -1"), ("epochs", 2.5, "epochs is 2.5"),
    ],
)  # fmt: skip
def test_a_setting_that_does_not_exist_is_refused_in_words(setting, value, told):
    with pytest.raises(PrepError, match=told):
        TrainConfig(**{setting: value})


def test_a_limit_takes_the_first_expressions_and_says_how_many_are_left_out(config, prepared, capsys):
    rows = open_store(prepared.store).stage("phrases").reader().read(["row_id", "split"]).to_pylist()
    of_split = sorted(row["row_id"] for row in rows if row["split"] == "train")
    limited = replace(config, limit=10, steps=1, quiet=False)
    assert prepare(limited.resolved()).table.row_ids == of_split[:10]
    train(limited)
    told = capsys.readouterr().err
    assert "training on 10 expressions and" in told
    assert f"{len(of_split) - 10:,} left out: beyond --limit" in told
    assert "an epoch of every expression is 1;" in told
    with pytest.raises(PrepError, match="limit: was 10, now None"):
        train(replace(limited, limit=None))
