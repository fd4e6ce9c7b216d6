"""What a run trains and on what: its settings, and everything that is built from them before the first
step.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcnet.config import ModelConfig, Recipe
from pcnet.data.collate import BatchMaker
from pcnet.data.images import Pixels
from pcnet.data.sampler import Sampler
from pcnet.data.table import SampleTable, Selection, load_samples
from pcnet.data.tokenizers import ClipTokenizer, Tokenizer, WordTokenizer
from pcnet.model.checkpoint import begin_from
from pcnet.model.clip_weights import load_calibration_clip, load_clip_weights
from pcnet.model.encoders import ClipEncoder
from pcnet.model.pcnet import PCNet
from pcnet.recipes import model_config
from pcnet.recipes import recipe as named_recipe
from pcnet.training.calibration import Calibration
from prep.cache.store import open_store
from prep.devices import cpu_cores
from prep.errors import PrepError

# Settings that may differ when a run goes on: they change neither what is learned nor from what.
FREE = frozenset(
    [
        "store",
        "data",
        "out",
        "workers",
        "threads",
        "memory",
        "save_seconds",
        "device",
        "val_split",
        "restart",
        "quiet",
        "clip_weights",
    ]
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. ``None`` stands for the usual value of the encoder, see :meth:`resolved`.

    ``store`` holds phrases and proposals; ``data`` is the folder that the store's image paths are relative
    to. ``batch_size`` is that of all processes together, and an optimiser step takes ``accumulate`` of them.
    ``steps`` sets the length of the run in optimiser steps in place of ``epochs``. ``weights`` overrides loss
    weights and ``settings`` other parts of the recipe by name. ``begin_from`` is a checkpoint whose weights
    the run begins with (see :func:`pcnet.model.checkpoint.begin_from`). ``val_split`` is only told to the
    log: who validates, and on what, is the caller's to decide.
    """

    store: str = "prepared"
    data: str = "coco"
    dataset: str = "refcoco"
    split: str = "train"
    split_by: str | None = None
    out: str = "runs/refcoco"
    encoder: str = "RN50"
    clip_weights: str = "openai"
    begin_from: str | None = None
    recipe: str = "paper"
    stages: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    epochs: int = 15
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    negatives: int = 1
    seed: int = 0
    lr: float | None = None
    backbone_lr: float | None = None
    weight_decay: float = 1e-2
    power: float = 0.9
    warmup: int | None = None
    clip_grad: float | None = None
    amp: str = "auto"
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    memory: int = 2 << 30
    save_seconds: float = 120.0
    val_split: str | None = None
    restart: bool = False
    quiet: bool = False

    def resolved(self, processes: int = 1) -> TrainConfig:
        """The same run with every open setting decided, for so many processes.

        CLIP encoders: the paper's 320 px, batch 36, AdamW at 5e-5, a tenth of it for the encoder. ``tiny``
        starts from scratch on 64 px, so both groups learn at 2e-3, after a warm-up and with clipped
        gradients.
        """
        tiny = self.encoder == "tiny"
        usual: dict[str, Any] = {
            "size": 64 if tiny else 320,
            "batch_size": 32 if tiny else 36,
            "lr": 2e-3 if tiny else 5e-5,
            "warmup": 100 if tiny else 0,
            "clip_grad": 5.0 if tiny else 0.0,
            "backbone_lr": 1.0 if tiny else 0.1,
        }
        usual["batch_size"] = -(-usual["batch_size"] // processes) * processes
        decided = replace(self, **{n: value for n, value in usual.items() if getattr(self, n) is None})
        if (decided.batch_size or 0) % processes:
            raise PrepError(
                f"a batch of {decided.batch_size} cannot be shared by {processes} processes",
                f"give a --batch-size that is a multiple of {processes}",
            )
        return decided


@dataclass(frozen=True)
class Job:
    """What the steps of a run need beside the model; ``per_epoch`` and ``total`` count optimiser steps.

    ``fingerprint`` (64 hex digits) is that of the samples: their rows, phrases and masks.
    """

    recipe: Recipe
    network: ModelConfig
    table: SampleTable
    tokenizer: Tokenizer
    sampler: Sampler
    maker: BatchMaker
    per_epoch: int
    total: int
    threads: int
    fingerprint: str


def prepare(config: TrainConfig) -> Job:
    """Read the store and lay out the run; ``config`` is resolved.

    :raises PrepError: where the store lacks something, or the data are fewer than one step takes.
    """
    changes: dict[str, Any] = dict(config.settings)
    if config.stages is not None:
        changes["stages"] = config.stages
    recipe = named_recipe(config.recipe, config.weights, **changes)
    selection = Selection(config.dataset, config.split, config.split_by)
    table = load_samples(open_store(config.store), selection, with_scores=recipe.needs_clip_scores)
    tokenizer = make_tokenizer(config.encoder, recipe, table)
    words = tokenizer.vocabulary if isinstance(tokenizer, WordTokenizer) else 0
    network = model_config(recipe, config.encoder, words)
    batch, size = config.batch_size or 1, config.size or 320
    sampler = Sampler(table.image, table.target, batch, config.seed, config.negatives)
    per_epoch = sampler.batches_per_epoch // config.accumulate
    if per_epoch == 0:
        raise PrepError(
            f"{len(table)} samples are fewer than a step takes ({config.accumulate} batches of {batch})",
            "lower --accumulate",
        )
    pixels = Pixels(Path(config.data), table.images, size, config.memory)
    return Job(
        recipe=recipe,
        network=network,
        table=table,
        tokenizer=tokenizer,
        sampler=sampler,
        maker=BatchMaker(table, pixels, tokenizer, network.phrases_used, recipe.needs_opposites),
        per_epoch=per_epoch,
        total=config.steps or config.epochs * per_epoch,
        threads=_threads(config.workers, pixels),
        fingerprint=fingerprint(table),
    )


def _threads(workers: int | None, pixels: Pixels) -> int:
    """How many threads make batches; none where everything small is soon in memory and they would only get in
    the way.
    """
    if workers is not None:
        return workers
    return 0 if pixels.fits and pixels.size <= 128 else min(8, cpu_cores())


def make_tokenizer(encoder: str, recipe: Recipe, table: SampleTable) -> Tokenizer:
    """CLIP's tokenizer; for ``tiny`` that of the words in the training texts."""
    if encoder != "tiny":
        return ClipTokenizer(released=recipe.released_tokens)
    texts = set(table.expressions).union(*table.phrases)
    return WordTokenizer.from_texts(sorted(texts))


def build_model(config: TrainConfig, job: Job) -> PCNet:
    """The network at the first step: with the weights of ``begin_from``, else CLIP encoders with CLIP's (none
    where ``clip_weights`` is ``random``).
    """
    model = PCNet(job.network, job.recipe)
    model.tokenizer = job.tokenizer
    if config.begin_from is not None:
        begin_from(model, Path(config.begin_from))
    elif isinstance(model.backbone, ClipEncoder) and config.clip_weights != "random":
        load_clip_weights(model.backbone, config.encoder, config.clip_weights)
    return model


def load_calibration(config: TrainConfig, recipe: Recipe, device: torch.device) -> Calibration | None:
    """The CLIP that the calibration losses ask, where ``recipe`` has them; OpenAI's, whichever file the
    encoder's weights come from, or an untrained one where those are ``random``.
    """
    if not recipe.needs_clip:
        return None
    clip: nn.Module = load_calibration_clip("random" if config.clip_weights == "random" else "openai")
    return Calibration(clip.to(device))


def make_optimizer(model: PCNet, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over two groups: the encoder at ``backbone_lr`` times the rate of the new layers."""
    backbone, new = model.parameter_groups()
    rate, share = config.lr or 0.0, config.backbone_lr if config.backbone_lr is not None else 1.0
    groups = [
        {"params": backbone, "lr": rate * share, "initial_lr": rate * share},
        {"params": new, "lr": rate, "initial_lr": rate},
    ]
    return torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)


def fingerprint(table: SampleTable) -> str:
    """SHA-256 (64 hex digits) of the samples' identities, phrases and masks."""
    digest = hashlib.sha256()
    for row, phrases in zip(table.row_ids, table.phrases, strict=True):
        digest.update("\x1f".join([row, *phrases, ""]).encode("utf-8", "surrogatepass"))
    digest.update(table.grids.tobytes())
    return digest.hexdigest()


def differences(begun: dict[str, Any], asked: TrainConfig) -> list[str]:
    """``name: begun, asked`` for every setting that matters and is not as the run was begun."""
    now = asdict(asked)
    return [
        f"{name}: begun with {begun.get(name)!r}, asked for {now[name]!r}"
        for name in now
        if name not in FREE and begun.get(name) != now[name]
    ]
