"""`pcnet-prep export`: writes a store in the files that other methods and tools read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prep.commands import options as shared
from prep.commands.inputs import open_sources
from prep.commands.outcome import MaxFailed, check_limit, end
from prep.commands.output import emit
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.datasets.catalogue import Dataset
    from prep.exports.output import Exported
    from prep.released.export import Exported as Released


class LayoutName(StrEnum):
    """The layouts: ``official`` is the released PCNet code's; the others are in ``prep.exports.layouts``."""

    official = "official"
    coco = "coco"
    refer = "refer"
    reclip = "reclip"
    simrec = "simrec"
    pseudo_png = "pseudo-png"
    triplets = "triplets"
    labelstudio = "labelstudio"
    cvat = "cvat"
    croissant = "croissant"


ExportRoot = Annotated[Path, typer.Argument(help="Folder to write to; it is made if it does not exist.")]
Layout = Annotated[LayoutName, typer.Option("--layout", help="Which files: see docs/exports.md.")]
Masks = Annotated[
    str | None,
    typer.Option(
        help="Masks of references (simrec, pseudo-png): truth, best (the best-scored proposal), or the "
        "folder of --save-pseudo of pcnet eval. Default: truth for simrec, best for pseudo-png.",
        metavar="truth|best|DIR",
    ),
]
Side = Annotated[
    int | None,
    typer.Option(min=32, help="Longer side of the masks in pixels (official). Default: that of the image."),
]


def export(
    context: typer.Context,
    to: ExportRoot,
    layout: Layout = LayoutName.official,
    store: shared.Store = "prepared",
    data: shared.Data = shared.COCO,
    dataset: shared.Datasets = shared.REFCOCO,
    split_by: shared.SplitBy = None,
    split: shared.Splits = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    masks: Masks = None,
    side: Side = None,
    max_failed: MaxFailed = "1%",
    as_json: shared.Json = False,
) -> None:
    """Export a store in the files that other methods and tools read.

    Reads the store and the annotations. A repeated command writes only what is missing or has changed.
    """
    from prep.cache.store import open_store

    check_limit(max_failed)
    opened = open_store(store)
    if layout is LayoutName.official:
        sources = open_sources(data, dataset, split_by, input, image_root)
        _released(opened, sources, to, split, side, masks, max_failed, as_json)
        return
    if side is not None:
        raise PrepError("--side is for the layout official.", "Omit it: other layouts have the image's size.")
    done = _exported(context, opened)
    emit(done, _lines(done), as_json)
    missing = sum(one.missing for one in done)
    total = missing + sum(one.held for one in done)
    end(missing, total, max_failed, "items were left out: docs/exports.md explains the reasons")


def _exported(context: typer.Context, store: Store) -> list[Exported]:
    """Export each dataset, or the whole store where no dataset is named and none is needed."""
    from prep.exports.layouts import LAYOUTS
    from prep.exports.layouts import export as write
    from prep.exports.request import Request

    params = context.params
    layout = params["layout"].value
    named = [one for one in ("dataset", "input", "split", "split_by") if shared.was_typed(context, one)]
    sources: Sequence[Dataset | None] = [None]
    if LAYOUTS[layout].dataset or named:
        sources = open_sources(
            *(params[one] for one in ("data", "dataset", "split_by", "input", "image_root"))
        )
    splits = tuple(params["split"] or ()) or None
    return [
        write(Request(layout, store, params["to"], source, splits, params["masks"])) for source in sources
    ]


def _lines(done: Sequence[Exported]) -> Iterator[str]:
    for one in done:
        counts = ", ".join(f"{count:,} {what}" for what, count in one.counts.items())
        files = f"{one.written:,} files written, {one.unchanged:,} unchanged"
        yield f"{one.folder} ({one.layout}): {counts}; {files}" + (
            f", {one.removed:,} removed" if one.removed else ""
        )
        for reason, count in sorted(one.left_out.items(), key=lambda pair: -pair[1]):
            yield f"  left out: {reason}: {count:,}"
        for reason, count in one.notes.items():
            yield f"  {reason}: {count:,}"


def _released(
    store: Store,
    sources: Sequence[Dataset],
    to: Path,
    splits: list[str] | None,
    side: int | None,
    masks: str | None,
    max_failed: str,
    as_json: bool,
) -> None:
    """The layout of the released code."""
    from prep.released.export import export_official

    if masks is not None:
        raise PrepError("--masks is not for the layout official.", "Omit it, or choose another --layout.")
    done = [export_official(store, source, to, splits=splits, side=side) for source in sources]
    emit(done, _released_lines(done), as_json)
    told = "sentences were written without phrases or masks of their own"
    end(sum(one.failed for one in done), sum(one.sentences for one in done), max_failed, told)


def _released_lines(done: Sequence[Released]) -> Iterator[str]:
    for one in done:
        counts = f"{one.refs:,} references, {one.sentences:,} expressions, {one.images:,} images"
        yield f"{one.folder}: {counts}; candidates ranked by {one.ranked_by}"
        for reason, count in one.notes.items():
            yield f"  {reason}: {count:,}"
