"""`pcnet-prep concepts`: finds the masks or boxes of target noun phrases, with SAM 3 or Grounding DINO."""

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
    from prep.concepts.stage import ConceptStage

DetectorName = Annotated[
    Literal["sam3", "grounding-dino"],
    typer.Option(help="sam3: masks and boxes; grounding-dino: boxes only."),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model. Default: hf:facebook/sam3 (gated), or hf:IDEA-Research/grounding-dino-tiny.",
        metavar="hf:ID|DIR",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep objects with a score above this. Default: 0.3 (sam3) or 0.25 (grounding-dino).",
    ),
]
PhrasesPerBatch = Annotated[
    int, typer.Option(min=1, help="Phrases of an image that are looked for at a time.")
]
DatasetNames = Annotated[list[str] | None, typer.Option(help="Only this dataset; repeat for several.")]


def concepts(
    context: typer.Context,
    detector: DetectorName = "sam3",
    model: Model = None,
    threshold: Threshold = None,
    phrases_per_batch: PhrasesPerBatch = 8,
    data: shared.StoreData = shared.COCO,
    dataset: DatasetNames = None,
    split: shared.Splits = None,
    out: shared.Out = "prepared",
    cache: shared.Cache = None,
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
    """Find what the target noun phrase of each expression names in its image.

    Reads the store's phrases and the images; writes <store>/concepts, one row for each image and phrase.
    """
    from prep.cache.store import open_store
    from prep.concepts.job import NO_IMAGE, read_targets, run_concepts

    check_limit(max_failed)
    devices = gpu_count(gpus, ray_address)
    workers = workers or max(1, devices)
    store, stage = open_store(out), _stage(context.params, devices)
    store.require_table("phrases", "pcnet-prep phrases")
    recorded = stage.settings()
    check_recorded(context, recorded)
    if only_planned(
        context, "concepts", recorded, lambda: read_targets(store, dataset, split).keys(), workers
    ):
        return
    told = _teller(context, stage.options.source, "GPU" if devices else "CPU", workers)
    summary = run_concepts(
        stage, store, data, datasets=dataset, workers=workers, tell=told, **run_options(context)
    )
    emit_summaries([summary], store, as_json)
    without = summary.extra["skipped"].total() - summary.extra["skipped"][NO_IMAGE]
    failed = summary.failed + summary.failed_before + without
    end(failed, summary.total + without, max_failed, "phrases have an error")


def _stage(params: shared.Params, devices: int) -> ConceptStage:
    from prep.concepts.detectors import DetectorSettings
    from prep.concepts.stage import ConceptStage
    from prep.stage import Resources

    given = {name: params[name] for name in ("detector", "model", "threshold", "phrases_per_batch")}
    settings = DetectorSettings(**given, device="cuda" if devices else "cpu")
    return ConceptStage(settings, Resources(cpus=1, gpus=1 if devices else 0))


def _teller(context: typer.Context, source: str, device: str, workers: int) -> Callable[[str], None]:
    """What prints the line with which a run begins."""
    named = f"concepts by {context.params['detector']} ({source}) on {device}"
    hands = f"{workers} workers" if workers > 1 else "1 worker"
    return lambda line: tell(f"{named}: {line}; {hands}; to {context.params['out']}/concepts")
