"""Sends the values of a run to TensorBoard, Weights & Biases or MLflow, through their own libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from prep.errors import PrepError, reason_of
from prep.files import write_whole

# What --log may name: the package that each needs, and its name on PyPI.
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow-skinny"),
}
PROJECT = "pcnet"  # the project of Weights & Biases, the experiment of MLflow


class Board(Protocol):
    """Where values are sent; ``step`` counts from 1."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Send the values of one step."""

    def close(self) -> None:
        """Send what is left."""


def open_boards(
    names: Sequence[str], folder: Path, start: int, settings: Mapping[str, object]
) -> tuple[Board, ...]:
    """The boards ``names`` for the run in ``folder``, which resumes after step ``start``.

    ``settings`` are shown as the run's configuration. A resumed run continues the same run of its board.

    :raises PrepError: for an unknown name, a package that is missing, or a board that cannot be opened.
    """
    known: dict[str, Callable[[ModuleType, Path, int, Mapping[str, object]], Board]]
    known = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
    opened: list[Board] = []
    for name in dict.fromkeys(names):
        if name not in PACKAGES:
            raise PrepError(f"--log is {name!r}.", f"Choose one of: {', '.join(PACKAGES)}.")
        module, package = PACKAGES[name]
        try:
            library = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise PrepError(
                f"--log {name} needs the package {package}, which is not installed.",
                f"Run `pip install {package}`.",
            ) from error
        try:
            opened.append(known[name](library, folder, start, settings))
        except Exception as error:  # each library has its own, for a missing login or server
            for board in opened:
                board.close()
            raise PrepError(
                f"--log {name} cannot be started: {reason_of(error)}.",
                f"Set up {name} as its documentation says, or leave out --log {name}.",
            ) from error
    return tuple(opened)


class _TensorBoard:
    """Event files in ``tensorboard/`` of the run folder; those of later steps than ``start`` are hidden."""

    def __init__(self, library: ModuleType, folder: Path, start: int, settings: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1, flush_secs=10)

    def add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases, whose mode and login are its own environment's (``WANDB_MODE=offline``)."""

    def __init__(self, library: ModuleType, folder: Path, start: int, settings: Mapping[str, object]) -> None:
        self._id = folder / "wandb.txt"
        known = _read(self._id) if start else ""
        self._run = library.init(
            project=PROJECT,
            name=folder.name,
            dir=str(folder),
            config=dict(settings),
            id=known or None,
            resume="allow" if known else None,
            settings=library.Settings(silent=True),
        )
        write_whole(self._id, f"{self._run.id}\n".encode())

    def add(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow on the server or folder that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, library: ModuleType, folder: Path, start: int, settings: Mapping[str, object]) -> None:
        self._client = library.MlflowClient()
        self._id, self._sent = folder / "mlflow.txt", 0
        run = _read(self._id) if start else ""
        if run:
            # A step that was sent before the run was killed is not sent again.
            history = self._client.get_metric_history(run, "lr")
            self._sent = max((one.step for one in history), default=0)
            self._client.update_run(run, status="RUNNING")
        else:
            experiment = library.set_experiment(PROJECT).experiment_id
            run = self._client.create_run(experiment, run_name=folder.name).info.run_id
            for name, value in settings.items():
                self._client.log_param(run, name, value)
        self._run = run
        write_whole(self._id, f"{run}\n".encode())

    def add(self, values: Mapping[str, float], step: int) -> None:
        if "lr" in values and step <= self._sent:
            return
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _read(path: Path) -> str:
    """The id of a board's run; empty if there is none."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
