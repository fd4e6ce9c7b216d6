"""Trains a student on its teacher's masks; the loop, its checkpoints and its signals are the trainer's."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcnet import losses
from pcnet.config import STUDENT, ModelConfig
from pcnet.data.batch import Batch
from pcnet.data.collate import BatchMaker
from pcnet.data.images import Pixels
from pcnet.data.sampler import Draw, Sampler
from pcnet.data.table import SampleTable
from pcnet.data.target_masks import TargetMasks
from pcnet.model.checkpoint import begin_from, load_model, read_checkpoint
from pcnet.model.pcnet import PCNet
from pcnet.model.student import STRIDE, SUBCELLS, Student
from pcnet.recipes import STUDENT_RECIPE
from pcnet.training.setup import TrainConfig, TrainSetup, batch_threads, fingerprint, load_table
from pcnet.training.targets import Targets, teacher_targets
from pcnet.training.trainer import Run, Trained, Validate, run_to_end
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.files import replacing

TARGETS = "targets.npz"  # in the run folder: the teacher's choices, not repeated when a run resumes
FLOOR = 1e-6
# What numpy raises on a file that is no archive of arrays, or a damaged one.
READ_ERRORS = (
    AttributeError, EOFError, KeyError, MemoryError, OSError, OverflowError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """The settings of a student's training: those of a training run, and the ``teacher``'s checkpoint.

    ``encoder`` and ``size`` are the teacher's (:func:`student_config`), ``recipe`` is always ``student``; the
    settings of losses and weights have no effect.
    """

    recipe: str = STUDENT
    teacher: str = ""


def student_config(config: DistillConfig) -> DistillConfig:
    """``config`` with the encoder of the teacher, and its image size unless one is given.

    :raises PrepError: if the teacher is not a checkpoint, or is itself a student.
    """
    path = Path(config.teacher)
    payload = read_checkpoint(path)
    teacher = load_model(path)
    if teacher.config.comprehension == STUDENT:
        raise PrepError(f"{path} is a student itself.", "Set --from to a run of `pcnet train`.")
    told = payload.get("training", {}).get("config", {}).get("size")
    return replace(config, encoder=teacher.config.encoder, size=config.size or told)


def distill(config: DistillConfig, validate: Validate | None = None) -> Trained:
    """Train a student to the end, resuming as :func:`pcnet.training.trainer.train` does."""
    return run_to_end(Distillation, student_config(config), validate)


class Distillation(Run):
    """A run whose network is a student and whose losses compare its masks with the teacher's."""

    config: DistillConfig
    changed_samples = "the samples or the teacher: the store's rows or the teacher's weights have changed"

    def prepare(self) -> TrainSetup:
        """Read the store, let the teacher choose the masks, and prepare the run."""
        config: Any = self.config
        store = open_store(config.store)
        table = load_table(config, store)
        pixels = Pixels(Path(config.data), table.images, config.size, config.memory)
        teacher = load_model(config.teacher)
        key = _key(table, teacher)
        targets = self._targets(key, teacher, table, pixels)
        sampler = Sampler(
            table.image, table.target, config.batch_size, config.seed, refs=config.epoch == "refs"
        )
        per_epoch = sampler.batches_per_epoch // config.accumulate
        if per_epoch == 0 or teacher.tokenizer is None:
            raise PrepError(
                f"{len(table)} samples are fewer than {config.accumulate} batches of {config.batch_size}.",
                "Lower --accumulate.",
            )
        side = -(-config.size // STRIDE) * SUBCELLS
        masks = TargetMasks(store, table, targets.proposal, side)
        maker = _MaskMaker(BatchMaker(table, pixels, teacher.tokenizer, 0), masks, targets.weight)
        network = {**teacher.config.as_dict(), "comprehension": STUDENT, "stages": 1, "gain": 0.0}
        return TrainSetup(
            recipe=STUDENT_RECIPE,
            network=ModelConfig.from_dict(network),
            table=table,
            tokenizer=teacher.tokenizer,
            sampler=sampler,
            maker=maker,
            per_epoch=per_epoch,
            total=config.steps or config.epochs * per_epoch,
            threads=batch_threads(config.workers, pixels),
            fingerprint=key,
        )

    def network(self) -> PCNet:
        """The student, with the teacher's encoders and projections and a new decoder."""
        model = Student(self.job.network, self.job.recipe)
        model.tokenizer = self.job.tokenizer
        begin_from(model, Path(self.config.teacher))
        model.freeze(self.config.freeze)
        return model

    def columns(self) -> list[str]:
        """The losses in the log."""
        return ["total", "entropy", "dice"]

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        if batch.target is None or batch.weight is None or batch.partner_expression_ids is None:
            raise ValueError("The batch has no masks of the teacher.")
        texts = torch.stack([batch.expression_ids, batch.partner_expression_ids], 1)
        with self.autocast():
            logits = self.model(batch.images, texts)
        entropy, dice = losses.mask_loss(logits.float(), batch.target, batch.weight)
        return {"total": entropy + dice, "entropy": entropy, "dice": dice}

    def _targets(self, key: str, teacher: PCNet, table: SampleTable, pixels: Pixels) -> Targets:
        """The teacher's choices: those of the run folder if they are of the same teacher and samples."""
        path = self.out / TARGETS
        found = (
            None if self.saved is None else read_targets(path, key, np.diff(table.grid_bounds)[table.image])
        )
        if found is None:
            found = teacher_targets(teacher.to(self.device), table, pixels, self.device)
            if self.ranks.rank == 0:
                self.out.mkdir(parents=True, exist_ok=True)
                with replacing(path) as file:
                    np.savez(file, key=np.array(key), proposal=found.proposal, weight=found.weight)
        if not found.weight.any():
            raise PrepError(
                f"The teacher {getattr(self.config, 'teacher', '')} chooses no proposal of these samples.",
                "Train the teacher longer, or generate proposals for these images.",
            )
        return found


class _MaskMaker:
    """Batches with the teacher's masks of each image's expression and of its partner, another expression of
    the image: two masks for one pass of the image encoder. Where there is no partner, its weight is 0.

    The weights are divided by their mean, so that the losses of two runs compare.
    """

    def __init__(self, batches: BatchMaker, masks: TargetMasks, weight: NDArray[np.float32]) -> None:
        self._batches, self._masks = batches, masks
        self._weight = weight / max(float(weight.mean()), FLOOR)

    def __call__(self, draw: Draw) -> Batch:
        pairs = np.stack([draw.anchors, draw.partners], 1)
        weight = self._weight[pairs].astype(np.float32)
        weight[~draw.same_image, 1] = 0.0
        masks = self._masks.stack(pairs.ravel())
        return replace(
            self._batches(draw),
            target=torch.from_numpy(masks.reshape(*pairs.shape, *masks.shape[1:])),
            weight=torch.from_numpy(weight),
        )


def _key(table: SampleTable, teacher: PCNet) -> str:
    """SHA-256 (64 hex digits) of the samples and the teacher's weights."""
    digest = hashlib.sha256(fingerprint(table).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def read_targets(path: Path, key: str, masks: NDArray[np.int64]) -> Targets | None:
    """The choices in a file of this key; ``None`` if there is none, or it is of others or damaged.

    ``masks`` (N,) are the numbers of proposals that the samples can choose from. A run compresses nothing: an
    archive that does would take any amount of memory when it is read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return None
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            found = Targets(file["proposal"], file["weight"])
    except READ_ERRORS:
        return None
    proposal, weight = found.proposal, found.weight
    if proposal.shape != masks.shape or weight.shape != masks.shape:
        return None
    if proposal.dtype != np.int64 or weight.dtype != np.float32 or not np.isfinite(weight).all():
        return None
    return found if (proposal >= -1).all() and (proposal < masks).all() else None
