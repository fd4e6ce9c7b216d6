"""Decides whether a checkpoint belongs to the run that was asked for, and what lengthens a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pcnet.recipes import EPOCHS
from pcnet.training.setup import TrainConfig

# Settings that may differ when a run resumes: they affect neither the data nor the result.
RESUMABLE = frozenset(
    [
        "store",
        "data",
        "input",
        "exclude",
        "out",
        "workers",
        "threads",
        "memory",
        "save_seconds",
        "device",
        "val_split",
        "restart",
        "quiet",
        "log",
        "clip_weights",
        "teacher",  # its weights are part of the samples' fingerprint
    ]
)
# They give the length of a run, which may grow.
LENGTH = ("steps", "epochs")
OLD_EPOCH = "sentences"  # of the runs of version 0.1.0, which do not record it


def epoch_of(config: TrainConfig, saved: Mapping[str, Any] | None) -> str:
    """What an epoch is if the settings do not say it: as in the saved run, else the recipe's."""
    if saved is None:
        return EPOCHS.get(config.recipe, OLD_EPOCH)
    return str(saved.get("training", {}).get("config", {}).get("epoch") or OLD_EPOCH)


def total_steps(settings: Mapping[str, Any], per_epoch: int) -> int:
    """The length of a run in optimiser steps, of which an epoch has ``per_epoch``."""
    return int(settings.get("steps") or settings.get("epochs", 0) * per_epoch)


def differences(begun: Mapping[str, object], asked: TrainConfig, per_epoch: int) -> list[str]:
    """``name: old, new`` for every setting that differs from the run's and may not change."""
    now = asdict(asked)
    begun = {**asdict(TrainConfig()), "epoch": OLD_EPOCH, **begun}
    changed = [
        f"{name}: was {begun.get(name)!r}, now {now[name]!r}"
        for name in now
        if name not in RESUMABLE and name not in LENGTH and begun.get(name) != now[name]
    ]
    before, after = total_steps(begun, per_epoch), total_steps(now, per_epoch)
    return [*changed, f"length: was {before:,} steps, now {after:,}"] if after < before else changed


def told_of_length(parts: Sequence[Sequence[int]], asked: TrainConfig, total: int) -> str:
    """What is said of a run of ``total`` steps that was shorter before; empty if that changes nothing.

    ``parts`` are pairs: the steps taken when it was lengthened, and its length until then. A step's learning
    rate depends on the length of the run, unless it is constant (``power`` is 0).
    """
    if not parts or asked.power == 0:
        return ""
    taken = ", ".join(f"up to step {step:,} is that of a run of {length:,} steps" for step, length in parts)
    return (
        f"The run was lengthened. Its learning rate {taken}, then that of a run of {total:,} steps: the "
        f"result is not that of one run of {total:,} steps, which --restart trains."
    )
