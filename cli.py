"""The only door of both programs: parses their flags, calls a room, sets the exit code."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prep.engine.progress import duration
from prep.errors import PrepError
from prep.hints import memory_error, remedy_of, told

if TYPE_CHECKING:
    from pcnet.metrics import Metrics
    from prep.datasets.catalogue import Dataset
    from prep.engine.runner import Summary
    from prep.phrases.job import AnswerStage
    from prep.proposals.job import Images

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,  # plain help and usage errors: a few lines, no boxes
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 110},
}
prep_app = typer.Typer(
    help="Prepare weakly supervised referring segmentation: phrases, proposals, and the store they live in.",
    **_SETTINGS,
)
pcnet_app = typer.Typer(help="Train and evaluate PCNet on prepared phrases and proposals.", **_SETTINGS)


class DatasetName(str, Enum):
    """The datasets whose trees are read as they are published. Typer takes no list of literals."""

    refcoco = "refcoco"
    refcoco_plus = "refcoco+"
    refcocog = "refcocog"
    grefcoco = "grefcoco"
    refclef = "refclef"


RecipeName = Literal["paper", "released", "plus"]

# The options that several commands share; each command names its own defaults.
Data = Annotated[
    Path, typer.Option("--data", help="Data root in the standard layout (refer/<dataset>/, train2014/).")
]
Datasets = Annotated[
    list[DatasetName], typer.Option("--dataset", help="Dataset to read; give it again for several.")
]
SplitBy = Annotated[
    str | None,
    typer.Option("--split-by", help="Whose split: unc, umd, google, berkeley. Default: the standard one."),
]
Splits = Annotated[
    list[str] | None, typer.Option("--split", help="Only this split; give it again for several.")
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help="Your own expressions as JSONL, in place of --data and --dataset.",
        metavar="FILE.jsonl",
    ),
]
ImageRoot = Annotated[
    Path | None, typer.Option("--image-root", help="Folder that the images of --input are relative to.")
]
ImageFolder = Annotated[
    Path | None,
    typer.Option("--images", help="A plain folder of images, in place of a dataset.", metavar="DIR"),
]
Out = Annotated[
    str, typer.Option("--out", help="The store: a folder, or an object store such as s3://bucket/prepared.")
]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache", help="Answers already given, by content, shared between stores. Default: in --out."
    ),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Begin this stage anew: its rows in the store go, whatever made them."),
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=0, help="GPUs to use. Default: all visible ones, else the CPU.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Workers. Default: one, or one a GPU.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Run on this Ray cluster (auto, or ray://host:port).",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", help="Print what is left to do and what it would take, and run nothing."),
]


def _as_recorded(context: typer.Context, path: Path | None) -> Path | None:
    """Make a recorded run's flags the defaults of this one; eager, so that it comes before they are read."""
    if path is not None:
        from prep.commands.replay import recorded_flags

        context.default_map = recorded_flags(path, context.info_name or "")
    return path


FromManifest = Annotated[
    Path | None,
    typer.Option(
        "--from-manifest",
        help="Repeat the last run of this _manifest.json; further flags (--out) override its own.",
        metavar="FILE",
        callback=_as_recorded,
        is_eager=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Store = Annotated[str, typer.Option("--store", help="The store that pcnet-prep filled.")]


def _print_version(program: str, wanted: bool) -> None:
    if wanted:
        print(f"{program} {version('pcnet-prep')}")
        raise typer.Exit


def _prep_version(wanted: bool) -> None:
    _print_version("pcnet-prep", wanted)


def _pcnet_version(wanted: bool) -> None:
    _print_version("pcnet", wanted)


_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@prep_app.callback()
def _prep_callback(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_prep_version, is_eager=True)
    ] = False,
    debug: _Debug = False,
) -> None:
    """Prepare weakly supervised referring segmentation: phrases, proposals, and the store they live in."""


@pcnet_app.callback()
def _pcnet_callback(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_pcnet_version, is_eager=True)
    ] = False,
    debug: _Debug = False,
) -> None:
    """Train and evaluate PCNet on prepared phrases and proposals."""


@prep_app.command()
def phrases(
    llm: Annotated[
        str,
        typer.Option(
            help="Who decomposes: mistral-7b, any Hugging Face id or model folder (vLLM), openai:URL#MODEL, "
            "or rules (no model)."
        ),
    ] = "mistral-7b",
    data: Data = Path("coco"),
    dataset: Datasets = [DatasetName.refcoco],  # noqa: B006 - typer copies it
    split_by: SplitBy = None,
    split: Splits = None,
    input: Input = None,
    image_root: ImageRoot = None,
    out: Out = "prepared",
    cache: Cache = None,
    replace: Replace = False,
    prompt: Annotated[Path | None, typer.Option(help="Your own prompt file in place of ours.")] = None,
    revision: Annotated[
        str, typer.Option(help="Branch, tag or commit of the model on Hugging Face.")
    ] = "main",
    quantization: Annotated[
        str | None, typer.Option(help="Quantise the model as it is loaded (fp8).")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="The model's number type: auto, bfloat16, float16, float32.")
    ] = "auto",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that one model is spread over.")] = 1,
    max_model_len: Annotated[
        int, typer.Option(min=0, help="Tokens of prompt and answer; 0: as many as the prompt needs.")
    ] = 0,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Expressions in a batch. Default: by the device.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a step of the engine. Default: by the device.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight to an openai: endpoint.")] = 32,
    gpu_memory: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Share of a GPU's memory vLLM may take.")
    ] = 0.9,
    batch_invariant: Annotated[
        bool, typer.Option(help="Make an answer independent of the batch it is in (slower; enters the key).")
    ] = False,
    keep_raw: Annotated[bool, typer.Option(help="Keep the model's raw answers in the rows.")] = False,
    gpus: Gpus = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    plan: PlanOnly = False,
    from_manifest: FromManifest = None,
    as_json: Json = False,
) -> None:
    """Break every referring expression into short phrases about its target.

    Reads the dataset's texts, never its images; writes <out>/phrases.
    """
    from prep.cache.store import open_store
    from prep.phrases.models import resolve
    from prep.phrases.prompt import load_prompt
    from prep.phrases.run import phrase_settings, run_phrases

    arguments = _arguments("phrases", locals())
    words = load_prompt(prompt)
    who = resolve(llm, revision)
    sources = _sources(data, dataset, split_by, input, image_root)
    devices = 0 if who.kind != "vllm" else _gpus(gpus, ray_address)
    stage: AnswerStage | None = None
    if who.kind == "vllm":
        from prep.phrases.engines.vllm import VllmStage
        from prep.phrases.engines.vllm_boot import VllmOptions
        from prep.stage import Resources

        options = VllmOptions(
            tensor_parallel=tensor_parallel,
            quantization=quantization,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            gpu_memory_utilization=gpu_memory,
            batch_invariant=batch_invariant,
        )
        resources = Resources(cpus=1, gpus=tensor_parallel if devices else 0)
        stage = VllmStage(who, words, options=options, resources=resources)
    elif who.kind == "openai":
        from prep.phrases.engines.openai import OpenAIStage

        stage = OpenAIStage(who, words, concurrency=concurrency)
    settings = phrase_settings(stage)
    workers = workers or max(1, devices // tensor_parallel)
    _check_recorded(from_manifest, settings)
    if plan:
        keys = (text.row_id for source in sources for text in source.expressions(split))
        _print_plan(out, "phrases", settings, keys, workers, replace, as_json)
        return
    summaries = run_phrases(
        stage,
        sources,
        open_store(out, create=True),
        splits=split,
        cache=cache,
        replace=replace,
        keep_raw=keep_raw,
        workers=workers,
        ray_address=ray_address,
        arguments=arguments,
        count=sys.stderr.isatty(),
    )
    _report(summaries, as_json)


@prep_app.command()
def sam(
    generator: Annotated[
        str,
        typer.Option(
            help="sam (segment-anything), segments (no weights), or hf:<id or folder> (transformers)."
        ),
    ] = "sam",
    model: Annotated[Literal["vit_h", "vit_l", "vit_b"], typer.Option(help="SAM's backbone.")] = "vit_h",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="SAM's weights. Default: the usual name in ., checkpoints/ and the torch hub cache."
        ),
    ] = None,
    preset: Annotated[
        Literal["pcnet", "sam"], typer.Option(help="Settings to start from: PCNet's paper or SAM's defaults.")
    ] = "pcnet",
    fidelity: Annotated[
        Literal["exact", "fast"],
        typer.Option(help="The official masks bit for bit, or a bf16 encoder that reports how it differs."),
    ] = "exact",
    data: Data = Path("coco"),
    dataset: Datasets = [DatasetName.refcoco],  # noqa: B006 - typer copies it
    split_by: SplitBy = None,
    split: Splits = None,
    input: Input = None,
    image_root: ImageRoot = None,
    images: ImageFolder = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Narrow the proposals of this store instead: no model.", metavar="STORE"),
    ] = None,
    out: Out = "prepared",
    cache: Cache = None,
    replace: Replace = False,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Points along one side of the grid.")
    ] = None,
    points_per_batch: Annotated[int | None, typer.Option(min=1, help="Points decoded together.")] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(help="Keep masks of a higher predicted IoU.")
    ] = None,
    stability_score_thresh: Annotated[
        float | None, typer.Option(help="Keep masks at least this stable.")
    ] = None,
    stability_score_offset: Annotated[
        float | None, typer.Option(help="Shift of the threshold for stability.")
    ] = None,
    box_nms_thresh: Annotated[
        float | None, typer.Option(help="Box IoU above which the worse mask is dropped.")
    ] = None,
    crop_n_layers: Annotated[
        int | None, typer.Option(min=0, help="Layers of image crops to run as well.")
    ] = None,
    crop_nms_thresh: Annotated[
        float | None, typer.Option(help="Box IoU for duplicates between crops.")
    ] = None,
    crop_overlap_ratio: Annotated[
        float | None, typer.Option(help="Overlap of crops, a share of the image.")
    ] = None,
    crop_n_points_downscale_factor: Annotated[
        int | None, typer.Option(min=1, help="Divides the points per side in each crop layer.")
    ] = None,
    min_mask_region_area: Annotated[
        int | None, typer.Option(min=0, help="Remove islands and holes smaller than this many pixels.")
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(min=0, help="Drop masks of fewer pixels; 0: off. Default: the preset's.")
    ] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Drop masks with a higher IoU with a larger one; 0: off."),
    ] = None,
    max_masks: Annotated[
        int | None, typer.Option(min=0, help="Keep this many of the largest masks; 0: off.")
    ] = None,
    gpus: Gpus = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    plan: PlanOnly = False,
    from_manifest: FromManifest = None,
    as_json: Json = False,
) -> None:
    """Propose masks for every image (the proposals stage).

    Reads the images; writes <out>/proposals.
    """
    from prep.cache.store import open_store
    from prep.devices import cpu_cores
    from prep.proposals import generators, hf
    from prep.proposals.job import run_proposals
    from prep.proposals.reselect import run_narrow
    from prep.proposals.sam import settings as sam_settings
    from prep.proposals.select import PAPER, Selection
    from prep.proposals.stage import ProposalStage
    from prep.stage import Resources

    arguments = _arguments("sam", locals())
    # Before torch is loaded; the generator takes this number to every worker.
    os.environ.setdefault("OMP_NUM_THREADS", str(min(sam_settings.THREADS, cpu_cores())))
    usual = Selection() if preset == "sam" else PAPER
    selection = Selection(
        min_area=usual.min_area if min_area is None else min_area,
        max_overlap=usual.max_overlap if max_overlap is None else max_overlap,
        max_masks=usual.max_masks if max_masks is None else max_masks,
    )
    if source is not None:
        if plan:
            raise PrepError(
                "--plan has nothing to plan with --from: no model runs.", "Leave one of them out."
            )
        narrowed = run_narrow(
            open_store(source), open_store(out, create=True), selection, replace=replace, arguments=arguments
        )
        _report([narrowed], as_json)
        return
    sources = _image_sources(images, data, dataset, split_by, input, image_root)
    devices = _gpus(gpus, ray_address) if generator != "segments" else 0
    official = {
        name: value
        for name, value in {
            "points_per_side": points_per_side,
            "points_per_batch": points_per_batch,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
            "stability_score_offset": stability_score_offset,
            "box_nms_thresh": box_nms_thresh,
            "crop_n_layers": crop_n_layers,
            "crop_nms_thresh": crop_nms_thresh,
            "crop_overlap_ratio": crop_overlap_ratio,
            "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
            "min_mask_region_area": min_mask_region_area,
        }.items()
        if value is not None
    }
    if generator == "sam":
        settings = sam_settings.preset(
            preset,
            **official,
            model=model,
            checkpoint=checkpoint,
            fidelity=fidelity,
            device="cuda" if devices else "cpu",
        )
        maker = generators.build("sam", vars(settings))
    elif official and generator == "segments":
        raise PrepError(
            f"--generator segments has no option --{next(iter(official)).replace('_', '-')}.", "Leave it out."
        )
    elif generator.startswith("hf:"):
        maker = generators.build(generator, hf.options(preset, official, "cuda" if devices else "cpu"))
    else:
        maker = generators.build(generator, official)
    stage = ProposalStage(maker, selection, resources=Resources(cpus=1, gpus=1 if devices else 0))
    workers = workers or max(1, devices)
    _check_recorded(from_manifest, stage.settings())
    if plan:
        keys = (ref.image for source in sources for ref in source.images(split))
        _print_plan(out, "proposals", stage.settings(), keys, workers, replace, as_json)
        return
    summaries = run_proposals(
        stage,
        sources,
        open_store(out, create=True),
        splits=split,
        cache=cache,
        replace=replace,
        unit_size=_unit_size(generator, devices),
        workers=workers,
        ray_address=ray_address,
        arguments=arguments,
        count=sys.stderr.isatty(),
    )
    _report(summaries, as_json)


@prep_app.command(name="import")
def import_masks(
    masks: Annotated[
        Path, typer.Argument(help="COCO results file, or folder of SA-1B or released mask files.")
    ],
    layout: Annotated[
        Literal["coco", "sa1b", "official"], typer.Option(help="How the masks are stored.")
    ] = "coco",
    data: Data = Path("coco"),
    dataset: Datasets = [DatasetName.refcoco],  # noqa: B006 - typer copies it
    split_by: SplitBy = None,
    split: Splits = None,
    input: Input = None,
    image_root: ImageRoot = None,
    images: ImageFolder = None,
    out: Out = "prepared",
    replace: Replace = False,
    min_area: Annotated[int, typer.Option(min=0, help="Drop masks of fewer pixels; 0: off.")] = 0,
    max_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Drop masks with a higher IoU with a larger one; 0: off.")
    ] = 0.0,
    max_masks: Annotated[int, typer.Option(min=0, help="Keep this many of the largest; 0: all.")] = 0,
    from_manifest: FromManifest = None,
    as_json: Json = False,
) -> None:
    """Bring in masks that were made elsewhere, in place of the proposals stage.

    Reads the masks and the images; writes <out>/proposals.
    """
    from prep.cache.store import open_store
    from prep.proposals.import_masks import ImportStage
    from prep.proposals.job import run_proposals
    from prep.proposals.select import Selection
    from prep.stage import Resources

    arguments = _arguments("import", locals())
    selection = Selection(min_area=min_area, max_overlap=max_overlap, max_masks=max_masks)
    stage = ImportStage(layout, masks, selection, resources=Resources())
    _check_recorded(from_manifest, stage.settings())
    summaries = run_proposals(
        stage,
        _image_sources(images, data, dataset, split_by, input, image_root),
        open_store(out, create=True),
        splits=split,
        replace=replace,
        arguments=arguments,
        count=sys.stderr.isatty(),
    )
    if layout == "official" and images is None:
        for source in _sources(data, dataset, split_by, input, image_root):
            summaries += _official_texts(masks, source, out, split, replace)
    _report(summaries, as_json)


def _official_texts(
    folder: Path, source: Dataset, out: str, splits: list[str] | None, replace: bool
) -> list[Summary]:
    """The phrases and the candidates' ranking of a released tree, where it has them."""
    from prep.cache.store import open_store
    from prep.released.imports import import_phrases, import_scores
    from prep.released.tree import PHRASES_FOLDER, candidates_file

    store, summaries = open_store(out), []
    if (folder / PHRASES_FOLDER).is_dir():
        summaries.append(import_phrases(folder, source, store, splits=splits, replace=replace))
    if (folder / candidates_file(source.split_by)).is_file():
        rows = import_scores(folder, source, store, replace=replace)
        print(f"scores: {rows:,} rows", file=sys.stderr)
    return summaries


@prep_app.command()
def export(
    to: Annotated[Path, typer.Argument(help="Data root to write into: files go to <to>/refer/<dataset>/.")],
    store: Store = "prepared",
    data: Data = Path("coco"),
    dataset: Datasets = [DatasetName.refcoco],  # noqa: B006 - typer copies it
    split_by: SplitBy = None,
    split: Splits = None,
    side: Annotated[
        int | None, typer.Option(min=32, help="Longer side of the masks in pixels. Default: the image's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a store as the tree that the released PCNet code reads.

    Reads the store and the annotations; writes phrases (JSON), masks (.npy) and candidates.
    """
    from dataclasses import asdict

    from prep.cache.store import open_store
    from prep.released.export import export_official

    done = [
        export_official(open_store(store), source, to, splits=split, side=side)
        for source in _sources(data, dataset, split_by, None, None)
    ]
    if as_json:
        print(json.dumps([{**asdict(one), "folder": str(one.folder)} for one in done]))
        return
    for one in done:
        counts = f"{one.refs:,} references, {one.sentences:,} sentences, {one.images:,} images"
        print(f"{one.folder}: {counts}; candidates ranked by {one.ranked_by}")
        for reason, count in one.notes.items():
            print(f"  {count:,} x {reason}")


@prep_app.command()
def score(
    model: Annotated[str, typer.Option(help="CLIP by its open_clip name, or a local folder.")] = "ViT-B-32",
    weights: Annotated[str, typer.Option(help="Weights: a tag of open_clip's, or a local file.")] = "openai",
    background: Annotated[
        Literal["mean", "blur", "keep"],
        typer.Option(help="Around a mask in its crop: the mean colour, the image blurred, the image."),
    ] = "mean",
    margin: Annotated[
        float, typer.Option(min=0, help="Room around a mask's box, a share of its side.")
    ] = 0.1,
    template: Annotated[str, typer.Option(help="The text, with {} for the expression.")] = "{}",
    data: Annotated[
        Path, typer.Option("--data", help="Folder that the store's image paths are relative to.")
    ] = Path("coco"),
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset's expressions.")] = None,
    split: Splits = None,
    out: Out = "prepared",
    replace: Replace = False,
    gpus: Gpus = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    plan: PlanOnly = False,
    from_manifest: FromManifest = None,
    as_json: Json = False,
) -> None:
    """Score each proposal's agreement with each expression by CLIP.

    Reads the store and the images; writes <out>/scores.
    """
    from prep.cache.store import open_store
    from prep.scores.job import run_scores, score_keys, score_settings
    from prep.scores.stage import ScoreSettings, ScoreStage
    from prep.stage import Resources

    arguments = _arguments("score", locals())
    devices = _gpus(gpus, ray_address)
    settings = ScoreSettings(
        model=model,
        weights=weights,
        background=background,
        margin=margin,
        template=template,
        device="cuda" if devices else "cpu",
    )
    store = open_store(out)
    stage = ScoreStage(settings, Resources(cpus=1, gpus=1 if devices else 0))
    workers = workers or max(1, devices)
    _check_recorded(from_manifest, score_settings(stage, store))
    if plan:
        keys = score_keys(store, datasets=dataset, splits=split)
        _print_plan(out, "scores", score_settings(stage, store), keys, workers, replace, as_json)
        return
    summary = run_scores(
        stage,
        store,
        data,
        datasets=dataset,
        splits=split,
        replace=replace,
        workers=workers,
        ray_address=ray_address,
        arguments=arguments,
    )
    _report([summary], as_json)


StoreArgument = Annotated[str, typer.Argument(help="The store: a folder or an object store's URI.")]


@prep_app.command()
def status(store: StoreArgument = "prepared", as_json: Json = False) -> None:
    """Say what a store holds: rows, errors, settings, runs."""
    from dataclasses import asdict

    from prep.cache.maintain import status as look
    from prep.cache.store import open_store

    found = look(open_store(store))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(found.uri)
    for stage in found.stages:
        if stage.holder:
            print(
                "{}: being written by pid {pid} on {host} since {started}".format(stage.stage, **stage.holder)
            )
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(stage.statuses.items()))
        print(
            f"{stage.stage}: {stage.rows:,} rows ({counts or 'no status'}) in {stage.shards:,} shards, "
            f"{stage.bytes / 2**20:,.1f} MiB; begun {stage.created}"
        )
        for name, value in stage.settings.items():
            print(f"  {name}: {json.dumps(value, ensure_ascii=False)}")
        for run in stage.runs[-3:]:
            print(f"  run {run['at']}: {run['rows']:,} rows, {run['rate']:,.1f}/s, {run['failed']:,} failed")
            for line in _report_lines(stage.stage, run.get("report", {})):
                print(f"    {line}")
    for cache in found.caches:
        print(f"{cache.name}: {cache.shards:,} shards, {cache.bytes / 2**20:,.1f} MiB")


@prep_app.command()
def verify(
    store: StoreArgument = "prepared",
    repair: Annotated[
        bool, typer.Option(help="Cut out what is damaged and make just those rows again.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the images: hash each one again and compare.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every byte and row of a store against its manifest."""
    from dataclasses import asdict
    from itertools import chain

    from prep.cache import maintain
    from prep.cache.row_checks import CHECKS
    from prep.cache.store import open_store
    from prep.cache.verify import verify as check
    from prep.proposals.stale_images import image_faults

    opened, checks = open_store(store), dict(CHECKS)
    if data is not None:
        decodes, unchanged = CHECKS["proposals"], image_faults(data)
        checks["proposals"] = lambda rows: chain(decodes(rows), unchanged(rows))
    found = check(opened, checks)
    if as_json and not repair:
        print(json.dumps(asdict(found)))
        raise typer.Exit(0 if found.ok else 1)
    for stage in found.stages:
        print(
            f"{stage.stage}: {stage.rows:,} rows, {stage.shards:,} shards, {len(stage.problems):,} problems"
        )
        for problem in stage.problems[:50]:
            print(f"  {problem}")
    if found.ok or not repair:
        raise typer.Exit(0 if found.ok else 1)
    for report in maintain.repair(opened, checks):
        print(f"{report.stage}: {report.lost_rows:,} rows to make again")
        for arguments in report.commands:
            _repeat(arguments)
    raise typer.Exit(0 if check(opened, checks).ok else 1)


@prep_app.command()
def compact(store: StoreArgument = "prepared", as_json: Json = False) -> None:
    """Rewrite many small shards into few; no row or answer changes."""
    from dataclasses import asdict

    from prep.cache.compact import compact as rewrite
    from prep.cache.store import open_store

    reports = rewrite(open_store(store))
    if as_json:
        print(json.dumps([asdict(report) for report in reports]))
        return
    for report in reports:
        print(
            f"{report.stage}: {report.shards_before:,} -> {report.shards_after:,} shards, "
            f"{report.bytes_before / 2**20:,.1f} -> {report.bytes_after / 2**20:,.1f} MiB; "
            f"{len(report.removed):,} stray files removed"
        )


@prep_app.command(name="run", context_settings={"ignore_unknown_options": True})
def run_configuration(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration: a section per command.", metavar="FILE")],
    flags: Annotated[
        list[str] | None,
        typer.Argument(
            help="Flags of the commands, in place of the file's: --gpus 4, or --sam.model vit_b for one.",
            metavar="--FLAG VALUE",
        ),
    ] = None,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Run phrases, sam and score as a file says, and print the command to train with.

    Every flag of every command is checked before the first one runs. With --json a line per command.
    """
    from prep.commands.recipe_file import command_line, read_configuration
    from prep.errors import NotYet

    stages = typer.main.get_command(prep_app).commands  # type: ignore[attr-defined]
    train = typer.main.get_command(pcnet_app).commands["train"]  # type: ignore[attr-defined]
    commands = {**{name: stages[name] for name in ("phrases", "sam", "score")}, "train": train}
    steps = []
    for section in read_configuration(config, flags or [], commands):
        name, program = section.command, "pcnet" if section.command == "train" else "pcnet-prep"
        values = {**section.flags, "plan": plan, "as_json": as_json}
        try:
            parsed = commands[name].make_context(name, [], parent=context.parent, default_map=values)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            told = f"{config}: {name}: {error.format_message()}"
            raise PrepError(told, f"See: {program} {name} --help") from error
        steps.append((parsed, command_line(section, commands[name], program)))
    for parsed, line in steps:
        if as_json and parsed.info_name == "train":
            print(json.dumps({"train": line}))
            continue
        print(f"$ {line}", file=sys.stderr if as_json else sys.stdout, flush=True)
        if parsed.info_name == "train":
            continue
        try:
            with parsed:
                parsed.command.invoke(parsed)
        except NotYet as error:
            if not plan:
                raise
            print(json.dumps({"not yet": str(error)}) if as_json else f"not yet: {error}")


@prep_app.command()
def doctor(
    data: Data = Path("coco"),
    out: Out = "prepared",
    load: Annotated[
        bool,
        typer.Option("--load", help="Also import torch, vLLM, SAM and CLIP to see that they load (slow)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine can do, what it lacks, and what to type next.

    Looks at hardware, packages, weights, the dataset tree and the store; changes and downloads nothing.
    """
    from dataclasses import asdict

    from prep.machine.doctor import examine
    from prep.machine.screen import next_steps, screen

    findings = examine(data, out, load)
    steps = next_steps(findings, data, out)
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "next": steps}))
        return
    print(screen(findings, steps))


@prep_app.command()
def report(
    store: StoreArgument = "prepared",
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the images, to draw the masks over them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Folder that `pcnet eval --out` wrote: shows predictions beside truth."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one page about a store: what was run, counts, failures, and a gallery to search."""
    from prep.pages.store import ReportConfig, write_report

    held = write_report(ReportConfig(store=store, out=out, data=data, evaluation=evaluation))
    if as_json:
        print(json.dumps({"page": str(out), **held}))
        return
    texts = f"{held['expressions']:,} of {held['of']:,} expressions"
    print(f"{out}: {texts}, {held['pictures']:,} images with their masks")


@prep_app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo: data, store, run and index.html.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(min=2, help="Synthetic scenes to make.")] = 3000,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps to train.")] = 1000,
    seed: Annotated[int, typer.Option(help="Decides the scenes and the training.")] = 0,
    shown: Annotated[int, typer.Option(min=1, help="Samples on the page.")] = 12,
    as_json: Json = False,
) -> None:
    """Run the whole chain on synthetic data: no GPU, no download.

    Makes a small referring dataset in the RefCOCO layout, runs the public commands on it and writes a page
    with pictures.
    """
    from prep.demo.run import DemoConfig
    from prep.demo.run import demo as run

    def say(line: str) -> None:
        # At once, so that lines stay in order with those of the programs that are run.
        print(line, flush=True, file=sys.stderr if as_json else sys.stdout)

    made = run(DemoConfig(out=out, images=images, steps=steps, seed=seed, shown=shown), say=say)
    if as_json:
        print(json.dumps({"page": str(made.page), "metrics": made.metrics, "figures": made.figures}))


@pcnet_app.command()
def train(
    store: Store = "prepared",
    data: Annotated[
        Path, typer.Option("--data", help="Folder that the store's image paths are relative to.")
    ] = Path("coco"),
    dataset: Annotated[
        str, typer.Option(help="Dataset to train on, as the store's rows name it.")
    ] = "refcoco",
    split_by: SplitBy = None,
    split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    input: Input = None,
    image_root: ImageRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<dataset>.")] = None,
    encoder: Annotated[
        Literal["RN50", "RN101", "tiny"],
        typer.Option(help="CLIP's encoders, or tiny: a small one from scratch."),
    ] = "RN50",
    clip_weights: Annotated[
        str, typer.Option(help="CLIP's weights: open_clip's name for them, a local file, or random.")
    ] = "openai",
    begin_from: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights training begins with (fine-tuning).")
    ] = None,
    recipe: Annotated[
        RecipeName, typer.Option(help="The paper's losses, the released code's, or ours.")
    ] = "paper",
    stages: Annotated[
        int | None, typer.Option(min=1, max=4, help="Stages, one phrase each. Default: the recipe's.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="Set a loss weight, as in --weight iad=0.5; may be given again.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Image side in pixels. Default: the encoder's.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the split.")] = 15,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length in optimiser steps, in place of --epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Expressions a step, over all GPUs. Default: 36.")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    lr: Annotated[float | None, typer.Option(help="First learning rate. Default: the encoder's.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the initial weights and the order of the samples.")] = 0,
    val_split: Annotated[
        str | None,
        typer.Option(help="Choose best.pt on this split; reads its ground truth. Default: best = last."),
    ] = None,
    gpus: Gpus = None,
    restart: Annotated[bool, typer.Option(help="Begin anew where --out holds a run.")] = False,
    as_json: Json = False,
) -> None:
    """Train PCNet stage by stage on a store's phrases and proposals.

    Reads the store and the images, no ground truth (but for --val-split); writes the run to --out.
    """
    from pcnet.training.launch import is_launched, is_lead, relaunch
    from pcnet.training.trainer import TrainConfig
    from pcnet.training.trainer import train as run

    if input is not None:
        dataset, data = input.stem, image_root or input.parent
    devices = _gpus(gpus, None)
    if devices > 1 and not is_launched():
        raise typer.Exit(relaunch(devices))  # this very command, once a GPU
    config = TrainConfig(
        store=store,
        data=str(data),
        dataset=dataset,
        split=split,
        split_by=split_by,
        out=str(out or Path("runs") / dataset),
        encoder=encoder,
        clip_weights=clip_weights,
        begin_from=None if begin_from is None else str(begin_from),
        recipe=recipe,
        stages=stages,
        weights=_weights(weight or []),
        size=size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        seed=seed,
        val_split=val_split,
        device="auto" if devices else "cpu",
        restart=restart,
        quiet=as_json,
    )
    validate = None
    if val_split is not None:
        from pcnet.evaluation.evaluate import validator

        source = _sources(data, [dataset] if input is None else [], split_by, input, image_root)[0]
        validate = validator(source, store=store, split=val_split, size=config.resolved().size)
    trained = run(config, validate)
    if not is_lead():
        return
    if as_json:
        print(json.dumps({"last": str(trained.last), "best": str(trained.best), "steps": trained.steps}))
        return
    print(f"{trained.steps:,} steps in {duration(trained.seconds)}: {trained.best}")
    if validate is None:
        print("best.pt is last.pt: choosing a better one needs ground truth (--val-split).")


@pcnet_app.command(name="eval")
def evaluate(
    checkpoint: Annotated[
        Path, typer.Option(help="The checkpoint to score: a run's best.pt, or a released one.")
    ],
    store: Store = "prepared",
    data: Data = Path("coco"),
    dataset: Annotated[DatasetName, typer.Option(help="Dataset to evaluate on.")] = DatasetName.refcoco,
    split_by: SplitBy = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on. Default: val, or all of --input.")
    ] = None,
    input: Input = None,
    image_root: ImageRoot = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(help="Read the checkpoint as this recipe's. Default: what it says of itself."),
    ] = None,
    stages: Annotated[
        int | None, typer.Option(min=1, max=4, help="Stages to run. Default: the checkpoint's.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A pixel belongs to the mask above this share of the response's maximum.")
    ] = 1e-9,
    sentences: Annotated[
        Literal["all", "first"],
        typer.Option(help="Every sentence (the standard protocol) or the first of each reference."),
    ] = "all",
    refine: Annotated[
        bool, typer.Option(help="Also score the proposal under the peak, and the best proposal there is.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Image side in pixels. Default: as trained.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Expressions a forward pass.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures (JSON) and one row per expression (Parquet).")
    ] = None,
    save_cam: Annotated[Path | None, typer.Option(help="Folder for the response maps.")] = None,
    save_pseudo: Annotated[Path | None, typer.Option(help="Folder for the masks as pseudo labels.")] = None,
    save_stages: Annotated[Path | None, typer.Option(help="Folder for the raw maps of every stage.")] = None,
    prms: Annotated[
        bool, typer.Option(help="Also choose one map per reference among those of its sentences.")
    ] = False,
    gpus: Gpus = None,
    as_json: Json = False,
) -> None:
    """Score a checkpoint: mIoU, oIoU and PointM over a split.

    Reads the store, the images and the ground truth; prints percentages.
    """
    from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint

    if not checkpoint.is_file():
        raise PrepError(f"There is no checkpoint {checkpoint}.", "`pcnet train` writes best.pt and last.pt.")
    report = evaluate_checkpoint(
        checkpoint,
        _sources(data, [dataset], split_by, input, image_root)[0],
        store=store,
        split=split or ("val" if input is None else None),
        settings=EvalSettings(
            threshold=threshold,
            size=size,
            batch_size=batch_size,
            save_cam=save_cam,
            save_pseudo=save_pseudo,
            save_stages=save_stages,
            prms=prms,
        ),
        sentences=sentences,
        refine=refine,
        recipe=recipe,
        stages=stages,
        device="auto" if _gpus(gpus, None) else "cpu",
        out=out,
    )
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    figures = report.metrics
    print(_figures(figures))
    if figures.proposal_miou is not None and figures.oracle_miou is not None:
        print(
            f"by proposal: mIoU {figures.proposal_miou:.2f}, of {figures.oracle_miou:.2f} with the best one"
        )
    if report.prms is not None:
        print(f"one map per reference: {_figures(report.prms)}")
    for name, group in report.groups.items():
        print(f"  {name}: {_figures(group)}")
    if report.no_target["n"]:
        print("no target: n {n:,}, of them answered by an empty map {silent:,}".format(**report.no_target))
    for reason, count in report.skipped.items():
        print(f"left out: {count:,} x {reason}")


@pcnet_app.command()
def predict(
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint to ask.")],
    image: Annotated[Path, typer.Option(help="The image.")],
    text: Annotated[str, typer.Option(help="The referring expression.")],
    generator: Annotated[str, typer.Option(help="Who proposes the masks to choose from, or none.")] = "none",
    out: Annotated[Path, typer.Option(help="Folder for mask.png, stages.png and prediction.json.")] = Path(
        "prediction"
    ),
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Image side in pixels. Default: as trained.")
    ] = None,
    stages: Annotated[
        int | None, typer.Option(min=1, max=4, help="Stages to run. Default: the checkpoint's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ground one expression in one image: maps stage by stage, and the chosen mask."""
    from pcnet import load_model
    from pcnet.evaluation.evaluate import input_size
    from pcnet.evaluation.predict import as_dict, save
    from pcnet.evaluation.predict import predict as ground
    from prep.phrases import decompose
    from prep.proposals import propose

    if not checkpoint.is_file():
        raise PrepError(f"There is no checkpoint {checkpoint}.", "`pcnet train` writes best.pt and last.pt.")
    model = load_model(checkpoint, stages)
    masks = propose([image], generator)[0] if generator != "none" else []
    side = size or input_size(checkpoint, model)
    found = ground(model, image, text, decompose(text).phrases, masks, size=side)
    paths = save(found, image, out)
    if as_json:
        print(json.dumps(as_dict(found)))
        return
    print(f"phrases: {' | '.join(found.phrases)}")
    print(f"peak: x {found.peak[1]}, y {found.peak[0]}")
    for name, path in paths.items():
        print(f"{name}: {path}")


@pcnet_app.command(name="report")
def report_run(
    run: Annotated[Path, typer.Argument(help="Folder of a run, with its evaluations below it.")],
    other: Annotated[
        Path | None, typer.Argument(help="Another run, to be shown beside the first.", metavar="[RUN2]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data root: shows the images and their true masks.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", help="Store of the proposals. Default: the one that was evaluated with."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: RUN/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Write one page about a training run, or two side by side.

    Reads losses.csv and what `pcnet eval --out` wrote below RUN: curves, figures, best and worst cases.
    """
    from pcnet.report.page import ReportConfig, write_report

    page = out or run / "report.html"
    held = write_report(
        ReportConfig(runs=[run, *([other] if other else [])], out=page, data=data, store=store)
    )
    if as_json:
        print(json.dumps({"page": str(page), **held}))
        return
    print(
        f"{page}: {held['evaluations']:,} evaluations, {held['expressions']:,} expressions, "
        f"{held['pictures']:,} pictures"
    )


def _figures(metrics: Metrics) -> str:
    """The three figures of the field, in per cent, and what they are over."""
    return f"mIoU {metrics.miou:.2f}  oIoU {metrics.oiou:.2f}  PointM {metrics.pointm:.2f}  n {metrics.n:,}"


def _sources(
    data: Path,
    datasets: Sequence[str],
    split_by: str | None,
    input: Path | None,
    image_root: Path | None,
) -> list[Dataset]:
    """What --data and --dataset, or --input and --image-root, name."""
    from prep.datasets.catalogue import open_dataset, open_jsonl

    if input is not None:
        return [open_jsonl(input, image_root)]
    names = [name.value if isinstance(name, Enum) else name for name in datasets]
    return [open_dataset(data, name, split_by) for name in names]


def _image_sources(
    folder: Path | None,
    data: Path,
    datasets: Sequence[str],
    split_by: str | None,
    input: Path | None,
    image_root: Path | None,
) -> Sequence[Images]:
    """What --images names, or else a dataset's images."""
    if folder is None:
        return _sources(data, datasets, split_by, input, image_root)
    from prep.datasets.catalogue import open_image_folder

    return [open_image_folder(folder)]


def _gpus(asked: int | None, ray_address: str | None) -> int:
    """How many GPUs to use; on a Ray cluster the driver's own do not count, so they must be asked for."""
    from prep.devices import visible_gpus

    if ray_address is not None or asked == 0:
        return asked or 0
    visible = visible_gpus()
    if asked is not None and asked > visible:
        raise PrepError(
            f"--gpus {asked}: this machine shows {visible} NVIDIA GPUs (nvidia-smi, CUDA_VISIBLE_DEVICES).",
            "Give --gpus 0 to run on the CPU, or --ray-address to use a cluster that has GPUs.",
        )
    return visible if asked is None else asked


def _unit_size(generator: str, gpus: int) -> int:
    """Images between two commits: enough to fill a GPU's batch, few enough that a kill costs seconds."""
    if generator == "segments":
        return 16
    return 8 if gpus else 1


def _weights(pairs: Sequence[str]) -> dict[str, float]:
    """``name=number`` pairs as a mapping."""
    weights = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            raise PrepError(
                f"--weight {pair} is not NAME=NUMBER.", "Write, for example, --weight iad=0.5"
            ) from None
    return weights


def _arguments(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """A command and its flags as plain JSON values, for the manifest."""

    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    # locals() also holds what the command has imported, and flags that were not given.
    flags = {
        n: v for n, v in values.items() if isinstance(v, str | int | float | list | Path) and v is not False
    }
    if flags.get("ray_address") == os.environ.get("RAY_ADDRESS"):
        flags.pop("ray_address", None)  # a place of this job, not a part of the run
    left_out = ("replace", "as_json", "plan", "from_manifest")
    return {"command": command, **{n: plain(v) for n, v in flags.items() if n not in left_out}}


def _check_recorded(path: Path | None, settings: dict[str, Any]) -> None:
    """With --from-manifest: stop where the rows would not be those of the recorded run."""
    if path is not None:
        from prep.commands.replay import check_settings

        check_settings(path, settings)


def _repeat(arguments: dict[str, Any]) -> None:
    """Run a command of ours again with the flags that a manifest keeps of it."""
    name = arguments["command"]
    command = typer.main.get_command(prep_app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, [], default_map=arguments) as context:
        command.invoke(context)


def _print_plan(
    out: str,
    stage: str,
    settings: dict[str, Any],
    keys: Iterable[str],
    workers: int,
    replace: bool,
    as_json: bool,
) -> None:
    """Say what is left to do of a stage, and what it would take."""
    from dataclasses import asdict

    from prep.cache.files import open_files
    from prep.cache.store import Store
    from prep.engine.plan import describe, plan_run

    made = plan_run(Store(open_files(out)), stage, settings, keys, workers, replace=replace)
    print(json.dumps({"stage": stage, **asdict(made)}) if as_json else "\n".join(describe(made, stage)))


def _report(summaries: Sequence[Summary], as_json: bool) -> None:
    """Say how a run went: rows done, reused, failed and why, the rate, and where the results are."""
    if as_json:
        from dataclasses import asdict

        print(json.dumps([asdict(summary) for summary in summaries]))
        return
    for summary in summaries:
        print(
            f"{summary.stage}: {summary.total:,} rows = {summary.done:,} done + {summary.reused:,} reused; "
            f"{summary.failed:,} with an error; {duration(summary.seconds)}, {summary.rate:,.1f}/s"
        )
        for reason, count in sorted(summary.reasons.items(), key=lambda pair: -pair[1]):
            print(f"  {count:,} x {reason}")
        for line in _details(summary):
            print(f"  {line}")
    if summaries:
        print(f"in {summaries[0].where}")


def _details(summary: Summary) -> list[str]:
    """What a stage has to say beside its counts."""
    rest = {name: value for name, value in summary.extra.items() if name != "report" and value}
    told = _report_lines(summary.stage, summary.extra.get("report", {}))
    return [*told, *(f"{name}: {value}" for name, value in rest.items())]


def _report_lines(stage: str, report: dict[str, Any]) -> list[str]:
    """What a run of a stage reports, in words."""
    from prep.phrases import report as phrases
    from prep.proposals.sam import fidelity as proposals

    lines = proposals.lines if stage == "proposals" else phrases.lines
    return lines(report)


def _run(app: typer.Typer) -> None:
    """Run a program; every error ends in a few lines on standard error and a non-zero exit code."""
    debug = "--debug" in sys.argv[1:]
    # Waiting threads of torch spin by default; where another process wants the core, that costs more
    # than ten times what sleeping does. Read when torch is loaded, so it stands before any of that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not debug:  # a thread of a library (TensorBoard's writer, say) would print its traceback
        threading.excepthook = lambda failed: print(f"{failed.exc_value}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except PrepError as error:
        if debug:
            raise
        print(told(error), file=sys.stderr)
        code = getattr(error, "exit_code", 1)
    except typer.Abort:
        code = 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if debug:
            raise
        if hasattr(
            error, "format_message"
        ):  # a usage error: click's own class, which typer may carry a copy of
            shows_help = type(error).__name__ == "NoArgsIsHelpError"  # the program's name alone
            print(f"{'' if shows_help else 'error: '}{error.format_message()}", file=sys.stderr)
            context = getattr(error, "ctx", None)
            if context is not None and not shows_help:
                print(f"see: {context.command_path} --help", file=sys.stderr)
            code = 2
        elif (exhausted := memory_error(error)) is not None:
            print(told(exhausted), file=sys.stderr)
            code = 1
        elif isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            print(told(PrepError(f"{error.strerror or error}{where}", remedy_of(error))), file=sys.stderr)
            code = 1
        else:
            remedy = "This is a fault of the program: run it again with --debug before the command's name."
            print(told(PrepError(f"{type(error).__name__}: {error}", remedy)), file=sys.stderr)
            code = 70
    sys.exit(code if isinstance(code, int) else 0)


def prep_main() -> None:
    """Entry point of ``pcnet-prep``."""
    _run(prep_app)


def pcnet_main() -> None:
    """Entry point of ``pcnet``."""
    _run(pcnet_app)
