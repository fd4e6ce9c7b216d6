"""`pcnet-prep score`: scores how well each proposal matches each expression, with CLIP."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from prep.commands import options as shared
from prep.commands.inputs import gpu_count
from prep.commands.stage_run import check_recorded, emit_summaries, only_planned, run_options

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
    from prep.scores.job import run_scores, score_keys, score_settings
    from prep.scores.stage import ScoreSettings, ScoreStage
    from prep.stage import Resources

    devices = gpu_count(gpus, ray_address)
    workers = workers or max(1, devices)
    device = "cuda" if devices else "cpu"
    settings = ScoreSettings(model, weights, background, margin, template, device=device)
    store = open_store(out)
    stage = ScoreStage(settings, Resources(cpus=1, gpus=1 if devices else 0))
    recorded = score_settings(stage, store)
    check_recorded(context, recorded)
    if only_planned(
        context, "scores", recorded, lambda: score_keys(store, datasets=dataset, splits=split), workers
    ):
        return
    options = run_options(context)
    summary = run_scores(stage, store, data, datasets=dataset, workers=workers, **options)
    emit_summaries([summary], store, as_json)
