"""`pcnet train`: trains PCNet stage by stage on the phrases and proposals of a store."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pcnet.commands.options import RecipeName
from prep.commands import options as shared
from prep.commands.inputs import gpu_count, open_sources
from prep.commands.output import emit
from prep.engine.progress import duration
from prep.errors import PrepError

if TYPE_CHECKING:
    from pcnet.training.trainer import TrainConfig, Trained, Validate

TrainDataset = Annotated[str, typer.Option(help="Dataset to train on, as named in the store.")]
TrainSplit = Annotated[str, typer.Option(help="Split to train on.")]
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="Do not train on the images in this file, one a line: see `pcnet-prep audit`.", metavar="FILE"
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option("--output-dir", "--out", "-o", help="Run folder. Default: runs/<dataset>."),
]
Encoder = Annotated[
    str,
    typer.Option(
        help="RN50 or RN101 (CLIP), tiny (small, trained from scratch), a model of open_clip such as "
        "ViT-B-16-SigLIP2, or hf:<ID or folder> (transformers)."
    ),
]
TextEncoder = Annotated[
    str | None, typer.Option(help="Text encoder for an hf: image encoder that has none: hf:<ID or folder>.")
]
VitFeatures = Annotated[
    Literal["tokens", "values"],
    typer.Option(help="Image features of a vision transformer: its last block's tokens, or their values."),
]
Freeze = Annotated[
    Literal["none", "image", "text", "all"], typer.Option(help="Encoders that are not trained.")
]
EncoderRate = Annotated[
    float | None,
    typer.Option("--lr-encoder", help="Learning rate of the encoders. Default: a tenth of --lr."),
]
ClipWeights = Annotated[
    str, typer.Option(help="Weights of the encoders: an open_clip tag, a local file, or random.")
]
BeginFrom = Annotated[
    Path | None, typer.Option(help="Checkpoint to initialise the weights from (fine-tuning).")
]
Recipe = Annotated[RecipeName, typer.Option(help="The paper's losses, the released code's, or ours.")]
Stages = Annotated[
    int | None, typer.Option(min=1, max=4, help="Number of stages, one phrase each. Default: the recipe's.")
]
Weight = Annotated[
    list[str] | None, typer.Option(help="Set a loss weight, such as --weight iad=0.5; repeat for several.")
]
Size = Annotated[
    int | None, typer.Option(min=16, max=4096, help="Image side in pixels. Default: the encoder's.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs.")]
Epoch = Annotated[
    Literal["refs", "sentences"] | None,
    typer.Option(
        help="An epoch: one expression per reference, or each. Default: sentences for plus, else refs."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of --epochs.")]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Batch size over all GPUs. Default: 36.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per optimiser step (gradient accumulation).")]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", "--learning-rate", help="Initial learning rate. Default: the encoder's."),
]
Seed = Annotated[int, typer.Option(help="Random seed of the initial weights and the order of the samples.")]
ValSplit = Annotated[
    str | None,
    typer.Option(help="Select best.pt on this split, with its ground truth. Default: best.pt is last.pt."),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Also send losses and metrics there; repeat for several. Default: tensorboard.",
        metavar="[tensorboard|wandb|mlflow]",
    ),
]
Restart = Annotated[bool, typer.Option(help="Start over if --out contains a run.")]


def train(
    context: typer.Context,
    store: shared.Store = "prepared",
    data: shared.StoreData = shared.COCO,
    dataset: TrainDataset = "refcoco",
    split_by: shared.SplitBy = None,
    split: TrainSplit = "train",
    limit: shared.Limit = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    exclude: Exclude = None,
    out: RunFolder = None,
    encoder: Encoder = "RN50",
    text_encoder: TextEncoder = None,
    vit_features: VitFeatures = "tokens",
    freeze: Freeze = "none",
    clip_weights: ClipWeights = "openai",
    begin_from: BeginFrom = None,
    recipe: Recipe = "paper",
    stages: Stages = None,
    weight: Weight = None,
    size: Size = None,
    epochs: Epochs = 15,
    epoch: Epoch = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = 1,
    lr: LearningRate = None,
    lr_encoder: EncoderRate = None,
    seed: Seed = 0,
    val_split: ValSplit = None,
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    restart: Restart = False,
    log: Log = None,
    as_json: shared.Json = False,
) -> None:
    """Train PCNet stage by stage on the phrases and proposals of a store.

    Reads the store and the images, but no ground truth (except for --val-split); writes to --output-dir.
    """
    _train(context.params)


def device_of_process(gpus: int | None) -> str:
    """The device that this process trains on, ``auto`` or ``cpu``, for the number of GPUs that is asked for.

    With several, the same command is run in one process per GPU, and this one ends with their exit code.
    """
    from pcnet.training.launch import is_launched, relaunch
    from prep.engine.child import stop_with_parent

    devices = gpu_count(gpus, None)
    if devices > 1 and not is_launched():
        raise typer.Exit(relaunch(devices))
    stop_with_parent()
    return "auto" if devices else "cpu"


def _train(params: shared.Params) -> None:
    from pcnet.training.launch import is_lead
    from pcnet.training.trainer import train as run

    config = _config(params, device_of_process(params["gpus"]))
    trained = run(config, validator_of(config, params))
    if is_lead():
        result = {"last": trained.last, "best": trained.best, "steps": trained.steps}
        emit(result, _lines(trained, config), params["as_json"])


def _config(params: shared.Params, device: str) -> TrainConfig:
    """The settings of the run, from the command's flags."""
    from dataclasses import fields

    from pcnet.training.trainer import TrainConfig

    dataset, data = source_of(params)
    begin_from = params["begin_from"]
    by_name = {field.name: params[field.name] for field in fields(TrainConfig) if field.name in params}
    computed = {
        "dataset": dataset,
        "input": None if params["input"] is None else str(params["input"]),
        "data": data,
        "exclude": None if params["exclude"] is None else str(params["exclude"]),
        "out": str(params["out"] or Path("runs") / dataset),
        "begin_from": None if begin_from is None else str(begin_from),
        "weights": _weights(params["weight"] or []),
        "device": device,
        "quiet": params["as_json"],
        "log": tuple(params["log"] or TrainConfig.log),
    }
    return TrainConfig(**{**by_name, **computed})


def source_of(params: shared.Params) -> tuple[str, str]:
    """The dataset's name and the folder of its images, from the flags."""
    if params["input"] is None:
        return params["dataset"], str(params["data"])
    own = Path(params["input"])
    return own.stem, str(params["image_root"] or own.parent)


def _weights(pairs: Sequence[str]) -> dict[str, float]:
    """Parse ``name=number`` pairs into a mapping."""
    weights = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            raise PrepError(
                f"--weight {pair} is not NAME=NUMBER.", "Use, for example: --weight iad=0.5"
            ) from None
    return weights


def validator_of(config: TrainConfig, params: shared.Params) -> Validate | None:
    """With --val-split, the function that evaluates the model on that split; it reads ground truth."""
    if config.val_split is None:
        return None
    from pcnet.evaluation.evaluate import validator

    own, image_root = (
        None if params[name] is None else Path(params[name]) for name in ("input", "image_root")
    )
    names = [config.dataset] if own is None else []
    source = open_sources(Path(config.data), names, config.split_by, own, image_root)[0]
    return validator(source, store=config.store, split=config.val_split, size=config.resolved().size)


def _lines(trained: Trained, config: TrainConfig) -> Iterator[str]:
    yield f"{trained.steps:,} steps in {duration(trained.seconds)}: {trained.best}"
    yield from result_lines(trained, config)


def result_lines(trained: Trained, config: TrainConfig) -> Iterator[str]:
    """The last validation of a run, if it had any, and what to type next.

    Training does not look whether the user's own lines have masks, so it does not send them to `pcnet eval`.
    """
    if trained.metrics is not None:
        last = trained.metrics
        figures = f"mIoU {last.miou:.2f}  oIoU {last.oiou:.2f}  PointM {last.pointm:.2f}  n {last.n:,}"
        yield f"{config.val_split}: {figures}"
    elif config.val_split is not None:
        yield f"Nothing was trained, so nothing was validated on {config.val_split}: best.pt is as it was."
    else:
        yield "best.pt is last.pt: selecting a better checkpoint needs ground truth (--val-split)."
    given = ["--data", config.data, "--dataset", config.dataset]
    if config.input is not None:
        from prep.datasets.catalogue import open_jsonl

        given = ["--input", config.input, "--image-root", config.data]
        first = next(open_jsonl(Path(config.input), Path(config.data)).expressions())
        photo = str(Path(config.data) / (first.image or ""))
        yield f"Next: {shlex.join(['pcnet', 'predict', str(trained.best), photo, first.text])}"
        yield 'If the lines have a "mask":'
    command = ["pcnet", "eval", "--checkpoint", str(trained.best), "--store", config.store, *given]
    yield f"{'Next: ' if config.input is None else ''}{shlex.join(command)}"
