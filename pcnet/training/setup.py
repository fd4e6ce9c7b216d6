"""Defines the settings of a training run and builds everything it needs before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pcnet.config import FREEZE, ModelConfig, Recipe
from pcnet.data.batch import Batch
from pcnet.data.collate import BatchMaker
from pcnet.data.images import Pixels
from pcnet.data.sampler import Draw, Sampler
from pcnet.data.table import SampleTable, Selection, load_samples
from pcnet.data.tokenizers import Tokenizer, WordTokenizer
from pcnet.model.checkpoint import begin_from
from pcnet.model.clip_weights import load_calibration_clip
from pcnet.model.pcnet import PCNet
from pcnet.recipes import model_config
from pcnet.recipes import recipe as named_recipe
from pcnet.training.calibration import Calibration
from pcnet.training.encoders import load_encoder, make_tokenizer, towers_of
from prep.cache.store import Store, open_store
from prep.devices import cpu_cores
from prep.display import without_secrets
from prep.errors import PrepError
from prep.inputs import read_lines
from prep.proposals.stale_images import check_images

# What an epoch is, in words; the values of ``TrainConfig.epoch``.
EPOCH_WORDS = {"refs": "one expression of each reference", "sentences": "every expression"}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; ``None`` means the default of the encoder, see :meth:`resolved`.

    ``store`` holds phrases and proposals; ``data`` is the folder that the store's image paths are relative
    to. ``input`` is the JSONL file whose rows are trained on, instead of those of ``dataset``; ``exclude``
    a file with images that are not trained on, one a line.
    ``batch_size`` is the total over all processes, and an optimiser step uses ``accumulate`` batches.
    ``epoch`` is ``sentences`` (an epoch is every expression) or ``refs`` (one expression per reference); the
    default is that of the run in ``out``, or of the recipe. ``steps`` sets the length of the run in optimiser
    steps instead of ``epochs``. ``weights`` overrides loss weights and ``settings`` other parts of the recipe
    by name. With ``limit``, only so many expressions are trained on, the first by ``row_id``. ``begin_from``
    is a checkpoint that initialises the weights (see
    :func:`pcnet.model.checkpoint.begin_from`). ``val_split`` is only logged: the caller provides the
    validation. ``log`` names where the values go besides the run folder (:mod:`pcnet.training.boards`).
    """

    store: str = "prepared"
    data: str = "coco"
    dataset: str = "refcoco"
    split: str = "train"
    split_by: str | None = None
    limit: int | None = None
    input: str | None = None
    exclude: str | None = None
    out: str = "runs/refcoco"
    encoder: str = "RN50"
    text_encoder: str | None = None
    vit_features: str = "tokens"
    freeze: str = "none"
    clip_weights: str = "openai"
    begin_from: str | None = None
    recipe: str = "paper"
    stages: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    size: int | None = None
    epochs: int = 15
    epoch: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    negatives: int = 1
    seed: int = 0
    lr: float | None = None
    backbone_lr: float | None = None
    lr_encoder: float | None = None
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
    log: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        allowed = {"epoch": (None, *EPOCH_WORDS), "amp": ("auto", "on", "off")}
        for name, values in allowed.items():
            if (given := getattr(self, name)) not in values:
                choices = ", ".join(str(value) for value in values)
                raise PrepError(f"The setting {name} is {given!r}.", f"Choose one of: {choices}.")
        for name in ("steps", "epochs", "accumulate", "limit"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, int) or given < 1):
                raise PrepError(f"The setting {name} is {given!r}.", "Give a whole number from 1.")

    def as_dict(self) -> dict[str, object]:
        """The settings as plain values, for the log and the checkpoint: without credentials of the store."""
        return {**asdict(self), "store": without_secrets(self.store)}

    def resolved(self, processes: int = 1) -> TrainConfig:
        """The same settings with every default resolved, for ``processes`` processes.

        CLIP encoders use the paper's 320 px, batch size 36 and AdamW at 5e-5, with a tenth of it for the
        encoder. ``tiny`` is trained from scratch at 64 px, so both groups use 2e-3, with warm-up and gradient
        clipping.
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
        if self.freeze not in FREEZE:
            raise PrepError(f"--freeze is {self.freeze!r}.", f"Choose one of: {', '.join(FREEZE)}.")
        if self.lr_encoder is not None:
            usual["backbone_lr"] = self.lr_encoder / (self.lr or usual["lr"])
        decided = replace(self, **{n: value for n, value in usual.items() if getattr(self, n) is None})
        if (decided.batch_size or 0) % processes:
            raise PrepError(
                f"A batch size of {decided.batch_size} cannot be divided among {processes} processes.",
                f"Set --batch-size to a multiple of {processes}.",
            )
        return decided


@dataclass(frozen=True)
class TrainSetup:
    """Everything that the steps of a run need besides the model; ``per_epoch`` and ``total`` are in optimiser
    steps.

    ``fingerprint`` (64 hex digits) covers the samples: their rows, phrases and masks.
    """

    recipe: Recipe
    network: ModelConfig
    table: SampleTable
    tokenizer: Tokenizer
    sampler: Sampler
    maker: Callable[[Draw], Batch]
    per_epoch: int
    total: int
    threads: int
    fingerprint: str

    def intro(self, config: TrainConfig, devices: str) -> str:
        """What is trained, on what, for how long and where to, in one line."""
        table, epoch = self.table, EPOCH_WORDS[config.epoch or "sentences"]
        skipped = "".join(f", {count:,} left out: {why}" for why, count in sorted(table.skipped.items()))
        return (
            f"training on {len(table):,} expressions and {len(table.images):,} images of {config.dataset} "
            f"{config.split}{skipped}; recipe {config.recipe}, {config.encoder}, "
            f"{self.network.stages} stages, {config.size} px, batch {config.batch_size}; "
            f"{self.total:,} steps, an epoch of {epoch} is {self.per_epoch:,}; {devices}; to {config.out}"
        )


def prepare(config: TrainConfig) -> TrainSetup:
    """Read the store and prepare the run; ``config`` is already resolved.

    :raises PrepError: if the store lacks data, or there are fewer samples than one step needs.
    """
    changes: dict[str, object] = dict(config.settings)
    if config.stages is not None:
        changes["stages"] = config.stages
    recipe = named_recipe(config.recipe, config.weights, **changes)
    table = load_table(config, open_store(config.store), recipe.needs_clip_scores)
    batch, size = config.batch_size or 1, config.size or 320
    towers = towers_of(config.encoder, config.text_encoder, config.vit_features, recipe, size)
    tokenizer = make_tokenizer(config.encoder, recipe, table, towers, config.text_encoder)
    words = tokenizer.vocabulary if isinstance(tokenizer, WordTokenizer) else 0
    network = model_config(recipe, config.encoder, words, towers, config.vit_features)
    sampler = Sampler(
        table.image, table.target, batch, config.seed, config.negatives, refs=config.epoch == "refs"
    )
    per_epoch = sampler.batches_per_epoch // config.accumulate
    if per_epoch == 0:
        raise PrepError(
            f"{len(table)} samples are fewer than one step needs ({config.accumulate} batches of {batch}).",
            "Lower --accumulate.",
        )
    pixels = Pixels(Path(config.data), table.images, size, config.memory)
    return TrainSetup(
        recipe=recipe,
        network=network,
        table=table,
        tokenizer=tokenizer,
        sampler=sampler,
        maker=BatchMaker(table, pixels, tokenizer, network.phrases_used, recipe.needs_opposites),
        per_epoch=per_epoch,
        total=config.steps or config.epochs * per_epoch,
        threads=batch_threads(config.workers, pixels),
        fingerprint=fingerprint(table),
    )


def load_table(config: TrainConfig, store: Store, with_scores: bool = False) -> SampleTable:
    """The samples of a run; PrepError if rows are missing, or an image is not the one of its proposals."""
    own = None if config.input is None else Path(config.input)
    exclude = frozenset(read_lines(Path(config.exclude)) if config.exclude else ())
    selection = Selection(config.dataset, config.split, config.split_by, own, exclude, config.limit)
    table = load_samples(store, selection, with_scores=with_scores)
    check_images(store.stage("proposals").reader(), Path(config.data), table.images)
    return table


def batch_threads(workers: int | None, pixels: Pixels) -> int:
    """The number of threads that build batches; 0 if the data is small and soon cached, as threads would then
    only add overhead.
    """
    if workers is not None:
        return workers
    return 0 if pixels.fits and pixels.size <= 128 else min(8, cpu_cores())


def build_model(config: TrainConfig, job: TrainSetup) -> PCNet:
    """The network before the first step, with the weights of ``begin_from``, else the encoder's own."""
    model = PCNet(job.network, job.recipe)
    model.tokenizer = job.tokenizer
    if config.begin_from is not None:
        begin_from(model, Path(config.begin_from))
    else:
        load_encoder(model.backbone, config.encoder, config.text_encoder, config.clip_weights)
    model.freeze(config.freeze)
    return model


def load_calibration(config: TrainConfig, recipe: Recipe, device: torch.device) -> Calibration | None:
    """The CLIP of the calibration losses, if ``recipe`` has any: always OpenAI's weights, or an untrained one
    if ``clip_weights`` is ``random``.
    """
    if not recipe.needs_clip:
        return None
    clip = load_calibration_clip("random" if config.clip_weights == "random" else "openai")
    return Calibration(clip.to(device))


def make_optimizer(model: PCNet, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with two groups: the encoder's learning rate is ``backbone_lr`` times that of the new layers."""
    backbone, new = model.parameter_groups()
    rate, share = config.lr or 0.0, config.backbone_lr if config.backbone_lr is not None else 1.0
    groups = [
        {"params": backbone, "lr": rate * share, "initial_lr": rate * share},
        {"params": new, "lr": rate, "initial_lr": rate},
    ]
    return torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)


def learning_rate(step: int, total: int, warmup: int, power: float) -> float:
    """The factor of the initial learning rate at ``step`` (from 0): linear warm-up, then (1 - step / total)
    ** power.
    """
    return min(1.0, (step + 1) / (warmup + 1)) * float((1.0 - step / total) ** power)


def fingerprint(table: SampleTable) -> str:
    """SHA-256 (64 hex digits) of the samples' identities, phrases and masks."""
    digest = hashlib.sha256()
    for row, phrases in zip(table.row_ids, table.phrases, strict=True):
        digest.update("\x1f".join([row, *phrases, ""]).encode("utf-8", "surrogatepass"))
    digest.update(table.grids.tobytes())
    return digest.hexdigest()
