"""`pcnet eval` and `predict`: a checkpoint scored over a split, or asked about one image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pcnet.commands.options import RecipeName, TrainedSize, TrainedStages
from prep.commands import options as shared
from prep.commands.inputs import gpu_count, open_sources
from prep.commands.output import emit
from prep.errors import PrepError

if TYPE_CHECKING:
    from pcnet.evaluation.evaluate import Report
    from pcnet.metrics import Metrics

Checkpoint = Annotated[
    Path, typer.Option(help="The checkpoint to score: a run's best.pt, or a released one.")
]
EvalDataset = Annotated[shared.DatasetName, typer.Option(help="Dataset to evaluate on.")]
EvalSplit = Annotated[str | None, typer.Option(help="Split to evaluate on. Default: val, or all of --input.")]
Recipe = Annotated[
    RecipeName | None,
    typer.Option(help="Read the checkpoint as this recipe's. Default: what it says of itself."),
]
Threshold = Annotated[
    float, typer.Option(help="A pixel belongs to the mask above this share of the response's maximum.")
]
Sentences = Annotated[
    Literal["all", "first"],
    typer.Option(help="Every sentence (the standard protocol) or the first of each reference."),
]
Refine = Annotated[
    bool, typer.Option(help="Also score the proposal under the peak, and the best proposal there is.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Expressions a forward pass.")]
FiguresFolder = Annotated[
    Path | None, typer.Option(help="Folder for the figures (JSON) and one row per expression (Parquet).")
]
SaveCam = Annotated[Path | None, typer.Option(help="Folder for the response maps.")]
SavePseudo = Annotated[Path | None, typer.Option(help="Folder for the masks as pseudo labels.")]
SaveStages = Annotated[Path | None, typer.Option(help="Folder for the raw maps of every stage.")]
Prms = Annotated[bool, typer.Option(help="Also choose one map per reference among those of its sentences.")]
AskedCheckpoint = Annotated[Path, typer.Option("--checkpoint", help="The checkpoint to ask.")]
ImageFile = Annotated[Path, typer.Option("--image", help="The image.")]
Text = Annotated[str, typer.Option(help="The referring expression.")]
GeneratorName = Annotated[str, typer.Option(help="Who proposes the masks to choose from, or none.")]
PredictionFolder = Annotated[Path, typer.Option(help="Folder for mask.png, stages.png and prediction.json.")]


def evaluate(
    checkpoint: Checkpoint,
    store: shared.Store = "prepared",
    data: shared.Data = shared.COCO,
    dataset: EvalDataset = shared.DatasetName.refcoco,
    split_by: shared.SplitBy = None,
    split: EvalSplit = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    recipe: Recipe = None,
    stages: TrainedStages = None,
    threshold: Threshold = 1e-9,
    sentences: Sentences = "all",
    refine: Refine = False,
    size: TrainedSize = None,
    batch_size: BatchSize = 32,
    out: FiguresFolder = None,
    save_cam: SaveCam = None,
    save_pseudo: SavePseudo = None,
    save_stages: SaveStages = None,
    prms: Prms = False,
    gpus: shared.Gpus = None,
    as_json: shared.Json = False,
) -> None:
    """Score a checkpoint: mIoU, oIoU and PointM over a split.

    Reads the store, the images and the ground truth; prints percentages.
    """
    from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint

    _check_is_there(checkpoint)
    folders: dict[str, Any] = {"save_cam": save_cam, "save_pseudo": save_pseudo, "save_stages": save_stages}
    report = evaluate_checkpoint(
        checkpoint,
        open_sources(data, [dataset], split_by, input, image_root)[0],
        store=store,
        split=split or ("val" if input is None else None),
        settings=EvalSettings(threshold, size, batch_size, prms=prms, **folders),
        sentences=sentences,
        refine=refine,
        recipe=recipe,
        stages=stages,
        device="auto" if gpu_count(gpus, None) else "cpu",
        out=out,
    )
    emit(report.as_dict(), _report_lines(report), as_json)


def predict(
    checkpoint: AskedCheckpoint,
    image: ImageFile,
    text: Text,
    generator: GeneratorName = "none",
    out: PredictionFolder = Path("prediction"),
    size: TrainedSize = None,
    stages: TrainedStages = None,
    as_json: shared.Json = False,
) -> None:
    """Ground one expression in one image: maps stage by stage, and the chosen mask."""
    from pcnet import load_model
    from pcnet.evaluation.evaluate import input_size
    from pcnet.evaluation.predict import as_dict, save
    from pcnet.evaluation.predict import predict as ground
    from prep.phrases import decompose
    from prep.proposals import propose

    _check_is_there(checkpoint)
    model = load_model(checkpoint, stages)
    masks = propose([image], generator)[0] if generator != "none" else []
    side = size or input_size(checkpoint, model)
    found = ground(model, image, text, decompose(text).phrases, masks, size=side)
    paths = save(found, image, out)
    lines = [f"phrases: {' | '.join(found.phrases)}", f"peak: x {found.peak[1]}, y {found.peak[0]}"]
    emit(as_dict(found), [*lines, *(f"{name}: {path}" for name, path in paths.items())], as_json)


def _check_is_there(checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise PrepError(f"There is no checkpoint {checkpoint}.", "`pcnet train` writes best.pt and last.pt.")


def _report_lines(report: Report) -> Iterator[str]:
    metrics = report.metrics
    yield _metrics_line(metrics)
    if metrics.proposal_miou is not None and metrics.oracle_miou is not None:
        yield f"by proposal: mIoU {metrics.proposal_miou:.2f}, of {metrics.oracle_miou:.2f} with the best one"
    if report.prms is not None:
        yield f"one map per reference: {_metrics_line(report.prms)}"
    for name, group in report.groups.items():
        yield f"  {name}: {_metrics_line(group)}"
    if report.no_target["n"]:
        yield "no target: n {n:,}, of them answered by an empty map {silent:,}".format(**report.no_target)
    for reason, count in report.skipped.items():
        yield f"left out: {count:,} x {reason}"


def _metrics_line(metrics: Metrics) -> str:
    """The three figures of the field, in per cent, and what they are over."""
    return f"mIoU {metrics.miou:.2f}  oIoU {metrics.oiou:.2f}  PointM {metrics.pointm:.2f}  n {metrics.n:,}"
