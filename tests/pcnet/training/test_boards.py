"""Where the values of a run are sent, read back by each library; a run that resumes sends none twice."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pcnet.training.boards import PACKAGES, open_boards
from prep.errors import PrepError

SETTINGS = {"recipe": "plus", "lr": 0.002, "steps": 4, "input": None}


def run_twice(name: str, folder: Path) -> None:
    """Three steps and a validation, then the same run from its checkpoint after step 2 to step 4."""
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        boards = open_boards([name], folder, start, SETTINGS)
        for step in steps:
            for board in boards:
                board.add({"loss/total": 1 / step, "lr": 0.1 * step}, step)
        for board in boards:
            board.add({"validation/miou": 0.5}, steps[-1])
            board.close()
        time.sleep(1.1)  # Weights & Biases names its files by the second


def test_tensorboard(tmp_path: Path) -> None:
    run_twice("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss/total")] == [
        (step, 1 / step) for step in (1, 2, 3, 4)
    ]


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_twice("wandb", tmp_path)
    name = (tmp_path / "wandb.txt").read_text().strip()
    files = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    rows = [row for file in files for row in history(file)]
    assert {row["_step"] for row in rows} == {1, 2, 3, 4}
    assert {row["_step"]: row["loss/total"] for row in rows if "loss/total" in row} == {
        step: pytest.approx(1 / step) for step in (1, 2, 3, 4)
    }


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that an offline run of Weights & Biases keeps for its later upload."""
    from wandb.proto import wandb_internal_pb2 as messages

    rows = list[dict[str, Any]]()
    for data in log_records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return rows


def log_records(data: bytes, place: int = 7, block: int = 32768) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which a header of seven bytes precedes."""
    parts = b""
    while place + 7 <= len(data):
        if (left := block - place % block) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/tracked")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_twice("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    run = client.get_run((tmp_path / "mlflow.txt").read_text().strip())
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe"] == "plus"
    sent = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss/total")]
    assert sent == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("names", "part"),
    [(["neptune"], "--log is 'neptune'"), (["tensorboard", "gone"], "--log is 'gone'")],
)
def test_unknown_names_are_refused(names: Sequence[str], part: str, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=part) as caught:
        open_boards(names, tmp_path, 0, SETTINGS)
    assert all(name in caught.value.remedy for name in PACKAGES)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "mlflow", ("mlflow_that_is_not_there", "mlflow-skinny"))
    with pytest.raises(PrepError, match="mlflow-skinny") as caught:
        open_boards(["mlflow"], tmp_path, 0, SETTINGS)
    assert "pip install mlflow-skinny" in caught.value.remedy


@pytest.mark.slow
def test_a_board_that_cannot_start_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://server")
    with pytest.raises(PrepError, match="--log mlflow cannot be started"):
        open_boards(["mlflow"], tmp_path, 0, SETTINGS)
