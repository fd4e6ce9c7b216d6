"""The training loop: trains a model on a store and images without ground truth, and writes checkpoints.

The same settings give the same batches for any number of processes and threads. A killed run resumes from
its last checkpoint; on the CPU the result is bit-identical to that of an uninterrupted run.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pcnet.data.batch import Batch
from pcnet.data.collate import finish, prefetch
from pcnet.metrics import Metrics
from pcnet.model.checkpoint import read_checkpoint, save_checkpoint
from pcnet.model.inputs import Scope
from pcnet.model.pcnet import PCNet
from pcnet.training.boards import open_boards
from pcnet.training.distributed import Ranks, share_batch_norm
from pcnet.training.log import RunLog, write_settings
from pcnet.training.objective import not_a_number, pairs_of, step_losses
from pcnet.training.resume import differences, epoch_of, told_of_length, total_steps
from pcnet.training.setup import (
    TrainConfig,
    TrainSetup,
    build_model,
    learning_rate,
    load_calibration,
    make_optimizer,
    prepare,
)
from prep.allocator import keep_freed_memory
from prep.engine.signals import Stoppable, interrupted, stoppable
from prep.errors import PrepError
from prep.files import replacing

__all__ = ["TrainConfig", "Trained", "train"]

Validate = Callable[[nn.Module], Metrics]

LAST, BEST, BEST_POINT = "last.pt", "best.pt", "best_pointm.pt"


@dataclass(frozen=True)
class Trained:
    """The checkpoints of a finished run and its result; ``losses`` are those of the last step."""

    last: Path
    best: Path
    steps: int
    seconds: float
    losses: dict[str, float]
    metrics: Metrics | None


def train(config: TrainConfig, validate: Validate | None = None) -> Trained:
    """Train to the end, resuming from ``config.out`` if it contains a run with the same settings.

    ``validate`` scores the model after every epoch (in process 0); ``best.pt`` is then the checkpoint with
    the best mIoU and ``best_pointm.pt`` that with the best PointM. Without it ``best.pt`` is the last one.
    On SIGINT or SIGTERM the current step is finished and a checkpoint is written.

    :raises PrepError: for missing data, other settings in ``out``, a loss that is not finite, or a signal
        (``Interrupted``).
    """
    return run_to_end(Run, config, validate)


def run_to_end(kind: type[Run], config: TrainConfig, validate: Validate | None) -> Trained:
    """Start the processes' communication and run ``kind`` with ``config`` to the end."""
    ranks = Ranks()
    config = config.resolved(ranks.size)
    device = ranks.device(config.device)
    # torch's default is the number of cores, or OMP_NUM_THREADS; processes on one machine share the cores.
    torch.set_num_threads(config.threads or max(1, torch.get_num_threads() // ranks.size))
    keep_freed_memory(device.type)
    ranks.init(device)
    try:
        return kind(config, ranks, device).to_end(validate)
    finally:
        ranks.destroy()


class Run:
    """One process of a run: its data, model, optimiser and position in the schedule.

    A kind of training has its own :meth:`prepare`, :meth:`network`, :meth:`columns` and ``_losses``.
    """

    changed_samples = "the samples: rows, phrases or masks of the store have changed"

    def __init__(self, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
        self.out = Path(config.out)
        path = self.out / LAST
        self.saved = read_checkpoint(path) if path.exists() and not config.restart else None
        self.config = config = replace(config, epoch=config.epoch or epoch_of(config, self.saved))
        self.ranks, self.device = ranks, device
        self.job = self.prepare()
        self.calibration = load_calibration(config, self.job.recipe, device)
        torch.manual_seed(config.seed)
        self.model = self.network().to(device)
        share_batch_norm(self.model, ranks)
        self.model.scope = Scope(pairwise=True, gather=ranks.gather, rank=ranks.rank)
        self.optimizer, self.step = make_optimizer(self.model, config), 0
        self.best: dict[str, float] = {}
        self.lengthened: list[list[int]] = []  # see pcnet.training.resume.told_of_length
        self.metrics: Metrics | None = None

    def prepare(self) -> TrainSetup:
        """Everything that the steps need besides the model."""
        return prepare(self.config)

    def network(self) -> PCNet:
        """The network before the first step."""
        return build_model(self.config, self.job)

    def columns(self) -> list[str]:
        """The names of the losses that ``_losses`` returns, in the order of the log."""
        weights = asdict(self.job.recipe.weights)
        return ["total", *(name for name, weight in weights.items() if weight)]

    def to_end(self, validate: Validate | None) -> Trained:
        """Run the remaining steps and write the checkpoints."""
        began = time.monotonic()
        self._resume()
        losses: dict[str, float] = {}
        log = self._log() if self.ranks.rank == 0 else None
        try:
            with stoppable("Stopping after this step, with a checkpoint.") as asked:
                for taken, stop in self._steps(log, asked):
                    losses = taken
                    ends = self.step == self.job.total
                    if validate is not None and (ends or self.step % self.job.per_epoch == 0):
                        self._validate(validate, log)
                    if stop and not ends:
                        self._stop(asked)
            self._save(LAST)
        finally:
            if log is not None:
                log.close()
        best = self.out / BEST
        if self.ranks.rank == 0 and (validate is None or not best.exists()):
            _copy(self.out / LAST, best)
        self.ranks.barrier()
        seconds = time.monotonic() - began
        return Trained(self.out / LAST, best, self.step, seconds, losses, self.metrics)

    def _stop(self, asked: Stoppable) -> None:
        """Write a checkpoint, wait for all processes, and raise ``Interrupted``."""
        self._save(LAST)
        self.ranks.barrier()
        # If another process received the signal and this one did not, it exits as if by SIGTERM.
        done = f"step {self.step:,} of {self.job.total:,} is in {self.out / LAST}"
        raise interrupted(asked.signum or signal.SIGTERM, done)

    def _steps(self, log: RunLog | None, asked: Stoppable) -> Iterator[tuple[dict[str, float], bool]]:
        """Run every remaining step, yielding its losses and whether any process received a stop signal.

        Checkpoints are written at their intervals.
        """
        saved = time.monotonic()
        while self.step < self.job.total:
            epoch, position = divmod(self.step, self.job.per_epoch)
            for batches in self._batches(epoch, position):
                rate = self._set_rate()
                # All processes must leave the loop after the same step: they exchange this with the losses.
                losses = self.ranks.mean({**self._take(batches), "asked": float(asked.signum > 0)})
                stop = losses.pop("asked") > 0
                self.step += 1
                if log is not None:
                    log.step(self.step, epoch, rate, losses)
                    if time.monotonic() - saved > self.config.save_seconds:
                        log.flush()
                        self._save(LAST)
                        saved = time.monotonic()
                yield losses, stop
                if self.step == self.job.total:
                    return

    def _batches(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        """This process's share of the batches of each step of ``epoch``, starting at step ``position``."""
        each = self.config.accumulate
        draws = self.job.sampler.epoch(epoch, start=position * each)
        parts = (draw.part(self.ranks.rank, self.ranks.size) for draw in draws)
        made = prefetch(self.job.maker, parts, self.job.threads)
        for _ in range(position, self.job.per_epoch):
            yield [finish(next(made), self.device) for _ in range(each)]

    def _take(self, batches: list[Batch]) -> dict[str, float]:
        """Run one optimiser step; the losses are means over the step's batches."""
        # Random draws depend on the step number only, so a resumed run needs no generator state.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for batch in batches:
            losses = self._losses(batch)
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not math.isfinite(values["total"]):
                raise not_a_number(self.step, values, batch.row_ids)
            (losses["total"] / len(batches)).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / len(batches)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ranks.mean_gradients(parameters)
        if self.config.clip_grad:
            nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.optimizer.step()
        return sums

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        recipe = self.job.recipe
        pairs = pairs_of(batch, self.ranks)
        with self.autocast():
            outputs = self.model(batch.images, **batch.texts(recipe.needs_partners, recipe.needs_opposites))
        # The maps are normalised and pooled in full precision: the 8 bits of bf16 are too few to locate a
        # peak.
        outputs = replace(outputs, logits=tuple(one.float() for one in outputs.logits))
        return step_losses(recipe, outputs, batch, step=self.step, calibration=self.calibration, pairs=pairs)

    def autocast(self) -> torch.autocast:
        """The context of the network: bf16 on a GPU, unless ``amp`` says otherwise."""
        half = self.config.amp == "on" or (self.config.amp == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def _set_rate(self) -> float:
        config = self.config
        factor = learning_rate(self.step, self.job.total, config.warmup or 0, config.power)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(self.optimizer.param_groups[-1]["lr"])

    def _validate(self, validate: Validate, log: RunLog | None) -> None:
        if log is not None:
            self.metrics = metrics = validate(self.model.eval())
            log.metrics(self.step, metrics.as_dict())
            for name, value in ((BEST, metrics.miou), (BEST_POINT, metrics.pointm)):
                if value > self.best.get(name, -1.0):
                    self.best[name] = value
                    self._save(name)
        self.ranks.barrier()

    def _log(self) -> RunLog:
        self.out.mkdir(parents=True, exist_ok=True)
        settings = {"train": self.config.as_dict(), "recipe": self.job.recipe.as_dict()}
        write_settings(self.out, settings | ({"lengthened": self.lengthened} if self.lengthened else {}))
        intro = self.job.intro(self.config, f"{self.ranks.size} x {self.device.type}")
        intro = f"{intro}\n{told_of_length(self.lengthened, self.config, self.job.total)}".rstrip()
        steps = {"start": self.step, "total": self.job.total, "per_epoch": self.job.per_epoch}
        boards = open_boards(self.config.log, self.out, self.step, self.config.as_dict())
        return RunLog(self.out, self.columns(), **steps, boards=boards, intro=intro, quiet=self.config.quiet)

    def _save(self, name: str) -> None:
        if self.ranks.rank:
            return
        state = {
            "config": self.config.as_dict(),
            "samples": self.job.fingerprint,
            "step": self.step,
            "best": self.best,
            "lengthened": self.lengthened,
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.out / name, self.model, self.job.recipe, self.job.tokenizer, {"training": state})

    def _resume(self) -> None:
        """Resume the run in ``out``, if there is one."""
        path, saved, self.saved = self.out / LAST, self.saved, None
        if saved is None:
            return
        state = saved.get("training", {})
        begun = state.get("config", {})
        changed = differences(begun, self.config, self.job.per_epoch)
        if not changed and state.get("samples") != self.job.fingerprint:
            changed = [self.changed_samples]
        if changed:
            raise PrepError(
                f"{path} belongs to a run with other settings: " + "; ".join(changed) + ".",
                "Choose another --output-dir, or use --restart to start from scratch there.",
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = int(state["step"]), dict(state["best"])
        self.lengthened = [list(part) for part in state.get("lengthened", [])]
        if (before := total_steps(begun, self.job.per_epoch)) < self.job.total:
            self.lengthened.append([self.step, before])


def _copy(source: Path, target: Path) -> None:
    """Copy a finished checkpoint atomically."""
    with source.open("rb") as whole, replacing(target) as file:
        shutil.copyfileobj(whole, file, 1 << 20)
