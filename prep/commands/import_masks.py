"""`pcnet-prep import`: imports masks made elsewhere as proposals."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prep.commands import options as shared
from prep.commands.inputs import open_image_sources, open_sources
from prep.commands.outcome import MaxFailed, check_limit, end_run
from prep.commands.stage_run import announce, check_recorded, emit_summaries, run_options

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.datasets.catalogue import Dataset
    from prep.engine.runner import Summary

Masks = Annotated[Path, typer.Argument(help="COCO results file, or folder of SA-1B or released mask files.")]
Layout = Annotated[Literal["coco", "sa1b", "official"], typer.Option(help="Format of the masks.")]
MinArea = Annotated[int, typer.Option(min=0, help="Drop masks smaller than this many pixels; 0: off.")]
MaxOverlap = Annotated[
    float, typer.Option(min=0, max=1, help="Drop masks whose IoU with a larger mask exceeds this; 0: off.")
]
MaxMasks = Annotated[int, typer.Option(min=0, help="Keep this many of the largest masks; 0: all.")]


def import_masks(
    context: typer.Context,
    masks: Masks,
    layout: Layout = "coco",
    data: shared.Data = shared.COCO,
    dataset: shared.Datasets = shared.REFCOCO,
    split_by: shared.SplitBy = None,
    split: shared.Splits = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    images: shared.ImageFolder = None,
    out: shared.Out = "prepared",
    replace: shared.Replace = False,
    keep_missing: shared.KeepMissing = False,
    max_failed: MaxFailed = "1%",
    min_area: MinArea = 0,
    max_overlap: MaxOverlap = 0.0,
    max_masks: MaxMasks = 0,
    from_manifest: shared.FromManifest = None,
    as_json: shared.Json = False,
) -> None:
    """Import masks made elsewhere as proposals.

    Reads the masks and the images; writes <store>/proposals.
    """
    from prep.cache.store import open_store
    from prep.proposals.import_masks import ImportStage
    from prep.proposals.job import run_proposals
    from prep.proposals.select import Selection
    from prep.stage import Resources

    check_limit(max_failed)
    selection = Selection(min_area=min_area, max_overlap=max_overlap, max_masks=max_masks)
    stage = ImportStage(layout, masks, selection, resources=Resources())
    check_recorded(context, stage.settings())
    sources = open_image_sources(images, data, dataset, split_by, input, image_root)
    options = run_options(context)
    refs = {ref.image: ref for source in sources for ref in source.images(options["splits"])}
    unused = stage.match(refs.values())
    said = f"{len(refs):,} images{f', {unused}' if unused else ''}"
    announce("proposals", f"import of {layout} masks in {masks} for {said}", sources, context, 1)
    store, stale = open_store(out, create=True), partial(stage.stale, refs=refs)
    summaries = run_proposals(stage, sources, store, count=sys.stderr.isatty(), stale=stale, **options)
    summaries[-1].extra["unused masks"] = unused
    if layout == "official" and images is None:
        for source in open_sources(data, dataset, split_by, input, image_root):
            summaries += _released_texts(masks, source, store, options)
    emit_summaries(summaries, store, as_json)
    end_run(summaries, max_failed)


def _released_texts(
    folder: Path, source: Dataset, store: Store, options: Mapping[str, Any]
) -> Iterator[Summary]:
    """Import the phrases and the candidate ranking of a released tree, if it has them."""
    from prep.released.imports import import_phrases
    from prep.released.scores import import_scores
    from prep.released.tree import FREESOLO, PHRASES_FOLDER, SAM, candidates_file

    kept = {name: options[name] for name in ("replace", "keep_missing", "arguments")}
    if (folder / PHRASES_FOLDER).is_dir():
        yield import_phrases(folder, source, store, splits=options["splits"], **kept)
    for variant in (SAM, FREESOLO):
        if (folder / candidates_file(source.split_by, variant)).is_file():
            yield import_scores(folder, source, store, variant=variant, **kept)
            return
