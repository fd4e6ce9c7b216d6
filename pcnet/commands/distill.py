"""`pcnet distill`: trains a student on the masks that a trained model chooses for the training split."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcnet.commands import train as options
from prep.commands import options as shared
from prep.commands.output import emit
from prep.engine.progress import duration
from prep.errors import PrepError

if TYPE_CHECKING:
    from pcnet.training.distill import DistillConfig
    from pcnet.training.trainer import Trained

Teacher = Annotated[
    Path, typer.Option("--from", help="The teacher: a run folder of pcnet train, or one of its checkpoints.")
]
StudentFolder = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        "--out",
        "-o",
        help="Run folder of the student. Default: the teacher's, with -student.",
    ),
]
StudentSize = Annotated[
    int | None, typer.Option(min=16, max=4096, help="Image side in pixels. Default: the teacher's.")
]


def distill(
    context: typer.Context,
    teacher: Teacher,
    store: shared.Store = "prepared",
    data: shared.StoreData = shared.COCO,
    dataset: options.TrainDataset = "refcoco",
    split_by: shared.SplitBy = None,
    split: options.TrainSplit = "train",
    limit: shared.Limit = None,
    exclude: options.Exclude = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    out: StudentFolder = None,
    size: StudentSize = None,
    epochs: options.Epochs = 15,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    seed: options.Seed = 0,
    val_split: options.ValSplit = None,
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    restart: options.Restart = False,
    log: options.Log = None,
    as_json: shared.Json = False,
) -> None:
    """Train a student on a teacher's own masks: an image and an expression to a mask, in one pass.

    Reads the store and the images, but no ground truth (except for --val-split); writes to --output-dir.
    """
    from pcnet.training.distill import distill as run
    from pcnet.training.launch import is_lead

    config = _config(context.params, options.device_of_process(gpus))
    trained = run(config, options.validator_of(config, context.params))
    if is_lead():
        result = {"last": trained.last, "best": trained.best, "steps": trained.steps}
        emit(result, _lines(trained, config), as_json)


def _config(params: shared.Params, device: str) -> DistillConfig:
    """The settings of the run, from the command's flags and the teacher's checkpoint."""
    from pcnet.training.distill import DistillConfig, student_config

    teacher = params["teacher"]
    run = teacher if teacher.is_dir() else teacher.parent
    path = teacher / "best.pt" if teacher.is_dir() else teacher
    if not path.is_file():
        raise PrepError(
            f"There is no checkpoint {path}.", "Set --from to the output folder of `pcnet train`."
        )
    dataset, data = options.source_of(params)
    named = ("store", "split", "split_by", "limit", "size", "epochs", "steps", "batch_size", "lr", "seed")
    return student_config(
        DistillConfig(
            teacher=str(path),
            dataset=dataset,
            data=data,
            exclude=None if params["exclude"] is None else str(params["exclude"]),
            input=None if params["input"] is None else str(params["input"]),
            out=str(params["out"] or run.with_name(f"{run.name}-student")),
            device=device,
            quiet=params["as_json"],
            val_split=params["val_split"],
            restart=params["restart"],
            log=tuple(params["log"] or DistillConfig.log),
            **{name: params[name] for name in named},
        )
    )


def _lines(trained: Trained, config: DistillConfig) -> Iterator[str]:
    yield f"{trained.steps:,} steps in {duration(trained.seconds)}: {trained.best}"
    yield from options.result_lines(trained, config)
    yield f"One image: {shlex.join(['pcnet', 'predict', str(trained.best), 'FILE', 'TEXT'])}"
