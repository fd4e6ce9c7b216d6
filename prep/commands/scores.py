"""`pcnet-prep score`: scores how well each proposal matches each expression, with CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prep.commands import options as shared
from prep.commands.inputs import gpu_count
from prep.commands.outcome import MaxFailed, check_limit, end
from prep.commands.stage_run import check_recorded, emit_summaries, only_planned, run_options
from prep.display import tell

if TYPE_CHECKING:
    from prep.scores.stage import ScoreStage

ClipModel = Annotated[str, typer.Option(help="CLIP model: an open_clip name or a local folder.")]
Weights = Annotated[str, typer.Option(help="Weights: an open_clip tag or a local file.")]
Background = Annotated[
    Literal["mean", "blur", "keep"],
    typer.Option(
        help="Pixels around the mask in its crop: the mean colour, the blurred image, or the image."
    ),
]
Margin = Annotated[
    float, typer.Option(min=0, help="Margin around the mask's box, as a fraction of its side.")
]
Template = Annotated[str, typer.Option(help="Text template, with {} for the expression.")]
DatasetNames = Annotated[list[str] | None, typer.Option(help="Only this dataset; repeat for several.")]


def score(
    context: typer.Context,
    model: ClipModel = "ViT-B-32",
    weights: Weights = "openai",
    background: Background = "mean",
    margin: Margin = 0.1,
    template: Template = "{}",
    data: shared.StoreData = shared.COCO,
    dataset: DatasetNames = None,
    split: shared.Splits = None,
    out: shared.Out = "prepared",
    replace: shared.Replace = False,
    keep_missing: shared.KeepMissing = False,
    max_failed: MaxFailed = "1%",
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    workers: shared.Workers = None,
    ray_address: shared.RayAddress = None,
    plan: shared.PlanOnly = False,
    from_manifest: shared.FromManifest = None,
    as_json: shared.Json = False,
) -> None:
    """Score how well each proposal matches each expression, with CLIP.

    Reads the store and the images; writes <store>/scores.
    """
    from prep.cache.store import open_store
    from prep.scores.job import NO_IMAGE, run_scores, score_keys, score_settings

    check_limit(max_failed)
    devices = gpu_count(gpus, ray_address)
    workers = workers or max(1, devices)
    store, stage = open_store(out), _stage(context.params, devices)
    recorded = score_settings(stage, store)
    check_recorded(context, recorded)
    if only_planned(
        context, "scores", recorded, lambda: score_keys(store, datasets=dataset, splits=split), workers
    ):
        return
    tell = _teller(context, "GPU" if devices else "CPU", workers)
    summary = run_scores(
        stage, store, data, datasets=dataset, workers=workers, tell=tell, **run_options(context)
    )
    emit_summaries([summary], store, as_json)
    unscored = summary.extra["skipped"].total() - summary.extra["skipped"][NO_IMAGE]
    end(unscored, summary.total + unscored, max_failed, "expressions have no scores")


def _stage(params: shared.Params, devices: int) -> ScoreStage:
    from prep.scores.stage import ScoreSettings, ScoreStage
    from prep.stage import Resources

    names = ("model", "weights", "background", "margin", "template")
    given = {name: params[name] for name in names}
    settings = ScoreSettings(**given, device="cuda" if devices else "cpu")
    return ScoreStage(settings, Resources(cpus=1, gpus=1 if devices else 0))


def _teller(context: typer.Context, device: str, workers: int) -> Callable[[str], None]:
    """What prints the line with which a run begins."""
    model, weights, out = (context.params[name] for name in ("model", "weights", "out"))
    named = f"scores by {model}{f' ({weights})' if weights else ''} on {device}"
    hands = f"{workers} workers" if workers > 1 else "1 worker"
    return lambda line: tell(f"{named}: {line}; {hands}; to {out}/scores")
