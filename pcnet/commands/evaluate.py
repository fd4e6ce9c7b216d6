"""`pcnet eval`: evaluates a checkpoint on a split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pcnet.commands import masks as kinds
from pcnet.commands.options import RecipeName, TrainedSize, TrainedStages, check_is_there
from prep.commands import options as shared
from prep.commands.inputs import gpu_count, open_sources
from prep.commands.outcome import MaxFailed, check_limit, end
from prep.commands.output import emit
from prep.display import tell

if TYPE_CHECKING:
    from pcnet.evaluation.evaluate import Report
    from pcnet.metrics import Metrics

Checkpoint = Annotated[Path, typer.Option(help="Checkpoint to evaluate: a run's best.pt, or a released one.")]
EvalDataset = Annotated[shared.DatasetName, typer.Option(help="Dataset to evaluate on.")]
EvalSplit = Annotated[str | None, typer.Option(help="Split to evaluate on. Default: val, or all of --input.")]
Recipe = Annotated[
    RecipeName | None,
    typer.Option(help="Load the checkpoint as this recipe's. Default: the recipe that it records."),
]
Threshold = Annotated[
    float, typer.Option(help="Mask threshold, as a fraction of the response map's maximum.")
]
Protocol = Annotated[
    Literal["standard", "released"],
    typer.Option(
        help="How maps become masks, and which targets and expressions count: see docs/training.md."
    ),
]
Sentences = Annotated[
    Literal["all", "first"] | None,
    typer.Option(help="Every expression or only the first of each reference. Default: all; released: first."),
]
Refine = Annotated[bool, typer.Option(help="Add --mask proposal.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Batch size.")]
FiguresFolder = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        "--out",
        "-o",
        help="Folder for the metrics (JSON) and one row per expression (Parquet).",
    ),
]
SaveCam = Annotated[Path | None, typer.Option(help="Folder for the response maps.")]
SavePseudo = Annotated[Path | None, typer.Option(help="Folder for the predicted masks, as pseudo labels.")]
SaveStages = Annotated[Path | None, typer.Option(help="Folder for the raw response maps of every stage.")]
Prms = Annotated[bool, typer.Option(help="Also choose one map per reference from those of its expressions.")]


def evaluate(
    context: typer.Context,
    checkpoint: Checkpoint,
    store: shared.Store = "prepared",
    data: shared.Data = shared.COCO,
    dataset: EvalDataset = shared.DatasetName.refcoco,
    split_by: shared.SplitBy = None,
    split: EvalSplit = None,
    limit: shared.Limit = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    recipe: Recipe = None,
    stages: TrainedStages = None,
    threshold: Threshold = 1e-9,
    protocol: Protocol = "standard",
    sentences: Sentences = None,
    mask: kinds.MaskKinds = None,
    refine: Refine = False,
    sam: kinds.SamModel = "vit_h",
    sam_checkpoint: kinds.SamCheckpoint = None,
    single_mask: kinds.SingleMask = False,
    oracle: kinds.Oracle = False,
    cache: kinds.EmbeddingsFolder = None,
    size: TrainedSize = None,
    batch_size: BatchSize = 32,
    out: FiguresFolder = None,
    save_cam: SaveCam = None,
    save_pseudo: SavePseudo = None,
    save_stages: SaveStages = None,
    prms: Prms = False,
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    max_failed: MaxFailed = "1%",
    as_json: shared.Json = False,
) -> None:
    """Evaluate a checkpoint on a split: mIoU, oIoU and precision of its masks, and PointM.

    Reads the store, the images and the ground truth; prints percentages.
    """
    from pcnet.data.table import OVER_LIMIT
    from prep.datasets.truth import NO_MASK
    from prep.engine.child import stop_with_parent

    check_is_there(checkpoint)
    check_limit(max_failed)
    stop_with_parent()
    report = _evaluated(context.params)
    emit(report.as_dict(), _report_lines(report), as_json)
    failed = sum(count for reason, count in report.skipped.items() if reason not in (NO_MASK, OVER_LIMIT))
    end(failed, len(report.rows) + failed, max_failed, "expressions could not be evaluated")


def _evaluated(params: shared.Params) -> Report:
    """The evaluation that the command's ``params`` ask for."""
    from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint

    wanted = kinds.kinds_of(params["mask"] or [], params["refine"])
    device = "auto" if gpu_count(params["gpus"], None) else "cpu"
    named = ("threshold", "size", "batch_size", "prms", "protocol", "save_cam", "save_pseudo", "save_stages")
    settings = EvalSettings(masks=wanted, **{name: params[name] for name in named})
    sources = open_sources(
        params["data"], [params["dataset"]], params["split_by"], params["input"], params["image_root"]
    )
    prompter = kinds.prompter_of(
        wanted, params["sam"], params["sam_checkpoint"], params["single_mask"], device, params["cache"]
    )
    return evaluate_checkpoint(
        params["checkpoint"],
        sources[0],
        split=params["split"] or ("val" if params["input"] is None else None),
        settings=settings,
        prompter=prompter,
        device=device,
        tell=lambda line: tell(f"{line}; model {params['checkpoint']}"),
        **{
            name: params[name]
            for name in ("store", "sentences", "limit", "oracle", "recipe", "stages", "out")
        },
    )


def _report_lines(report: Report) -> Iterator[str]:
    metrics = report.metrics
    counted = {"all": "every expression", "first": "the first expression of each reference"}[report.sentences]
    yield f"protocol {report.protocol}: {counted}, masks of maps above {report.threshold:g} of the maximum"
    yield _metrics_line(metrics)
    yield from kinds.table_lines(report.masks)
    if report.prms is not None:
        yield f"one map per reference: {_metrics_line(report.prms)}"
    for name, group in report.groups.items():
        yield f"  {name}: {_metrics_line(group)}"
    if report.no_target["n"]:
        yield "no target: n {n:,}, predicted empty {silent:,}".format(**report.no_target)
    for reason, count in report.skipped.items():
        yield f"skipped: {count:,} ({reason})"


def _metrics_line(metrics: Metrics) -> str:
    """The three standard metrics in percent, and the number of expressions."""
    return f"mIoU {metrics.miou:.2f}  oIoU {metrics.oiou:.2f}  PointM {metrics.pointm:.2f}  n {metrics.n:,}"
