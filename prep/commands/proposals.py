"""`pcnet-prep sam`: generates masks for every image, or re-filters the masks of another store."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prep.commands import options as shared
from prep.commands.inputs import gpu_count, open_image_sources
from prep.commands.outcome import MaxFailed, check_limit, end_run
from prep.commands.stage_run import (
    announce,
    check_recorded,
    emit_summaries,
    only_planned,
    recorded_arguments,
    run_options,
)
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.proposals.generators import Generator
    from prep.proposals.select import Selection
    from prep.proposals.stage import ProposalStage

# The options that the reference generator also has, under the same names.
OFFICIAL = (
    "points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh",
    "stability_score_offset", "box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio",
    "crop_n_points_downscale_factor", "min_mask_region_area",
)  # fmt: skip
# Those that only SAM 2's has.
OFFICIAL_2 = ("mask_threshold", "use_m2m", "multimask_output")
SELECTION = ("min_area", "max_overlap", "max_masks")

GeneratorName = Annotated[
    str,
    typer.Option(help="sam, sam2, freesolo, segments (no weights) or hf:<ID or folder> (transformers)."),
]
Backbone = Annotated[
    Literal[
        "vit_h", "vit_l", "vit_b", "sam2.1_hiera_l", "sam2.1_hiera_b+", "sam2.1_hiera_s", "sam2.1_hiera_t"
    ]
    | None,
    typer.Option(help="Model of sam (default vit_h) or of sam2 (default sam2.1_hiera_l)."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        help="The weights. Default: the usual file name in ., checkpoints/ and the torch hub cache."
    ),
]
Preset = Annotated[
    Literal["pcnet", "sam"], typer.Option(help="Default settings: those of PCNet's paper or of SAM.")
]
Fidelity = Annotated[
    Literal["exact", "fast"],
    typer.Option(
        help="exact: the reference masks bit for bit; fast: a bf16 encoder that reports its deviations."
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", help="Re-filter existing proposals of this store instead; no model is run.", metavar="STORE"
    ),
]
PointsPerSide = Annotated[int | None, typer.Option(min=1, help="Points per side of the grid.")]
PointsPerBatch = Annotated[int | None, typer.Option(min=1, help="Points decoded per batch.")]
PredIouThresh = Annotated[float | None, typer.Option(help="Keep masks with a predicted IoU above this.")]
StabilityScoreThresh = Annotated[
    float | None, typer.Option(help="Keep masks with at least this stability score.")
]
StabilityScoreOffset = Annotated[float | None, typer.Option(help="Threshold shift in the stability score.")]
BoxNmsThresh = Annotated[float | None, typer.Option(help="Box IoU threshold of non-maximum suppression.")]
CropNLayers = Annotated[int | None, typer.Option(min=0, help="Number of additional crop layers.")]
CropNmsThresh = Annotated[float | None, typer.Option(help="Box IoU threshold of suppression across crops.")]
CropOverlapRatio = Annotated[float | None, typer.Option(help="Overlap of crops, as a fraction of the image.")]
CropNPointsDownscaleFactor = Annotated[
    int | None, typer.Option(min=1, help="Factor that reduces the points per side in each crop layer.")
]
MinMaskRegionArea = Annotated[
    int | None, typer.Option(min=0, help="Remove islands and holes smaller than this many pixels.")
]
MaskThreshold = Annotated[
    float | None, typer.Option(help="Logit above which a pixel is in a mask (sam2 only).")
]
UseM2m = Annotated[
    bool | None, typer.Option(help="Refine each mask by a second prediction from its logits (sam2 only).")
]
MultimaskOutput = Annotated[
    bool | None, typer.Option(help="Three masks per point instead of one (sam2 only; default: on).")
]
FreeSolo = Annotated[
    list[str] | None,
    typer.Option(
        help="A test setting of --generator freesolo, such as score_thr=0.2; repeatable.",
        metavar="NAME=VALUE",
    ),
]
MinArea = Annotated[
    int | None,
    typer.Option(min=0, help="Drop masks smaller than this many pixels; 0: off. Default: the preset's."),
]
MaxOverlap = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Drop masks whose IoU with a larger mask exceeds this; 0: off."),
]
MaxMasks = Annotated[int | None, typer.Option(min=0, help="Keep this many of the largest masks; 0: all.")]


def sam(
    context: typer.Context,
    generator: GeneratorName = "sam",
    model: Backbone = None,
    checkpoint: Checkpoint = None,
    preset: Preset = "pcnet",
    fidelity: Fidelity = "exact",
    data: shared.Data = shared.COCO,
    dataset: shared.Datasets = shared.REFCOCO,
    split_by: shared.SplitBy = None,
    split: shared.Splits = None,
    limit: shared.Limit = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    images: shared.ImageFolder = None,
    source: From = None,
    out: shared.Out = "prepared",
    cache: shared.Cache = None,
    replace: shared.Replace = False,
    keep_missing: shared.KeepMissing = False,
    max_failed: MaxFailed = "1%",
    points_per_side: PointsPerSide = None,
    points_per_batch: PointsPerBatch = None,
    pred_iou_thresh: PredIouThresh = None,
    stability_score_thresh: StabilityScoreThresh = None,
    stability_score_offset: StabilityScoreOffset = None,
    box_nms_thresh: BoxNmsThresh = None,
    crop_n_layers: CropNLayers = None,
    crop_nms_thresh: CropNmsThresh = None,
    crop_overlap_ratio: CropOverlapRatio = None,
    crop_n_points_downscale_factor: CropNPointsDownscaleFactor = None,
    min_mask_region_area: MinMaskRegionArea = None,
    mask_threshold: MaskThreshold = None, use_m2m: UseM2m = None, multimask_output: MultimaskOutput = None,
    freesolo: FreeSolo = None,
    min_area: MinArea = None, max_overlap: MaxOverlap = None, max_masks: MaxMasks = None,
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    workers: shared.Workers = None,
    ray_address: shared.RayAddress = None,
    plan: shared.PlanOnly = False,
    from_manifest: shared.FromManifest = None,
    as_json: shared.Json = False,
) -> None:  # fmt: skip
    """Generate mask proposals for every image.

    Reads the images; writes <store>/proposals.
    """
    _limit_threads()
    _run(context) if source is None else _reselect(context, source)


def _limit_threads() -> None:
    """Limit torch's threads before torch is loaded; the generator passes this number to every worker."""
    from prep.devices import cpu_cores
    from prep.proposals.sam.settings import THREADS

    os.environ.setdefault("OMP_NUM_THREADS", str(min(THREADS, cpu_cores())))


def _selection(params: shared.Params) -> Selection:
    """The preset's mask filter, with the changes given by the flags."""
    from prep.proposals.select import PAPER, Selection

    usual = Selection() if params["preset"] == "sam" else PAPER
    return dataclasses.replace(
        usual, **{name: params[name] for name in SELECTION if params[name] is not None}
    )


def _reselect(context: typer.Context, source: str) -> None:
    """Re-filter the proposals of the store ``source`` into --store."""
    from prep.cache.store import open_store
    from prep.proposals.reselect import run_narrow

    params = context.params
    for name in ("plan", "limit"):
        if params[name]:
            raise PrepError(
                f"--{name} has no effect with --from, which runs no model.", "Remove one of them."
            )
    check_limit(params["max_failed"])
    store = open_store(params["out"], create=True)
    summary = run_narrow(
        open_store(source),
        store,
        _selection(params),
        replace=params["replace"],
        arguments=recorded_arguments(context),
    )
    emit_summaries([summary], store, params["as_json"])
    end_run([summary], params["max_failed"])


def _stage(params: shared.Params, devices: int) -> ProposalStage:
    """The stage of the chosen generator, with its options and the mask filter."""
    from prep.proposals.stage import ProposalStage
    from prep.stage import Resources

    names = (*OFFICIAL, *OFFICIAL_2)
    official = {name: params[name] for name in names if params[name] is not None}
    generator = _generator(params, official, "cuda" if devices else "cpu")
    return ProposalStage(generator, _selection(params), resources=Resources(cpus=1, gpus=1 if devices else 0))


def _generator(params: shared.Params, official: shared.Params, device: str) -> Generator:
    """The named generator, with the given options of the reference generator."""
    from prep.proposals import generators, hf
    from prep.proposals.freesolo import flags
    from prep.proposals.sam import settings as sam_settings
    from prep.proposals.sam2 import settings as sam2_settings

    name = params["generator"]
    if name == "freesolo":
        return generators.build(name, flags.options(params, official, device))
    if params["freesolo"]:
        raise PrepError(f"--generator {name} has no option --freesolo.", "Remove it.")
    unknown = list(official) if name == "segments" else [key for key in official if key in OFFICIAL_2]
    if unknown and name != "sam2":
        option = unknown[0].replace("_", "-")
        raise PrepError(f"--generator {name} has no option --{option}.", "Remove it.")
    if name in ("sam", "sam2"):
        preset = (sam_settings if name == "sam" else sam2_settings).preset
        own = {key: params[key] for key in ("model", "checkpoint", "fidelity") if params[key] is not None}
        return generators.build(name, vars(preset(params["preset"], **official, **own, device=device)))
    if name.startswith("hf:"):
        return generators.build(name, hf.options(params["preset"], official, device))
    return generators.build(name, official)


def _run(context: typer.Context) -> None:
    """Run the stage, or print its plan."""
    from prep.cache.store import open_store
    from prep.engine.sources import First
    from prep.proposals.job import run_proposals

    params, options = context.params, run_options(context)
    named = ("images", "data", "dataset", "split_by", "input", "image_root")
    sources = open_image_sources(*(params[name] for name in named))
    devices = gpu_count(params["gpus"], params["ray_address"]) if params["generator"] != "segments" else 0
    stage = _stage(params, devices)
    check_limit(params["max_failed"])
    workers = params["workers"] or max(1, devices)
    check_recorded(context, stage.settings())

    def keys() -> Iterator[str]:
        found = (ref.image for source in sources for ref in source.images(options["splits"]))
        return First(options["limit"]).of(found)

    if only_planned(context, "proposals", stage.settings(), keys, workers):
        return
    maker = f"{params['generator']} on {'GPU' if devices else 'CPU'}"
    announce("proposals", maker, sources, context, workers)
    for source in sources:
        source.images(options["splits"])  # a wrong split is refused before the store is touched
    store = open_store(params["out"], create=True)
    summaries = run_proposals(
        stage,
        sources,
        store,
        unit_size=_unit_size(params["generator"], devices),
        workers=workers,
        count=sys.stderr.isatty(),
        **options,
    )
    emit_summaries(summaries, store, params["as_json"])
    end_run(summaries, params["max_failed"])


def _unit_size(generator: str, gpus: int) -> int:
    """Images per commit: enough to fill a GPU's batch, few enough that a kill loses only seconds."""
    if generator == "segments":
        return 16
    return 8 if gpus else 1
