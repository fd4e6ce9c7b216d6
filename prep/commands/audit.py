"""`pcnet-prep audit`: what training and held-out splits share, and which expressions look broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prep.commands import options as shared
from prep.commands.inputs import open_sources
from prep.commands.output import emit
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.audit.overlap import Shared, Twin
    from prep.datasets.catalogue import Dataset
    from prep.records import Expression

AuditDatasets = Annotated[
    list[shared.DatasetName] | None,
    typer.Option("--dataset", help="Dataset to audit; repeat for several. Default: all in --data."),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="Write the held-out images of all audited datasets to this file, for `pcnet train --exclude`.",
        metavar="FILE",
    ),
]
SHOWN = 3  # examples of each kind


def audit(
    data: shared.Data = shared.COCO,
    dataset: AuditDatasets = None,
    split_by: shared.SplitBy = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    exclude: Exclude = None,
    as_json: shared.Json = False,
) -> None:
    """Find images and expressions that a split is trained on and another one holds out, and broken texts.

    Reads the annotations only. Held out is every split other than train.
    """
    from prep.audit.overlap import shared as shared_by
    from prep.audit.texts import broken

    sources = _sources(data, dataset, split_by, input, image_root)
    rows = list(chain.from_iterable(source.expressions() for source in sources))
    found, texts = shared_by(rows), broken(rows)
    unwritten = None if exclude is None else _write(exclude, found)
    value = {
        "datasets": [f"{source.name} {source.split_by}".strip() for source in sources],
        "expressions": len(rows),
        "overlaps": found.overlaps,
        "same_image": found.same_image,
        "other_image": found.other_image,
        "texts": {
            kind: [{"row_id": row.row_id, "text": row.text} for row in own] for kind, own in texts.items()
        },
        "held_out_images": len(found.held_out),
    }
    emit(value, _lines(value, found, texts, exclude, unwritten), as_json)


def _sources(
    data: Path,
    names: Sequence[shared.DatasetName] | None,
    split_by: str | None,
    input: Path | None,
    image_root: Path | None,
) -> list[Dataset]:
    """The datasets named, or every version of every dataset of the data root; and the user's own lines."""
    from prep.datasets.catalogue import DATASETS, open_dataset

    sources: list[Dataset] = [] if input is None else open_sources(data, [], None, input, image_root)
    wanted = [] if names is None else [name.value for name in names]
    for name, (authors, pattern) in DATASETS.items():
        if (names is None and input is not None) or (wanted and name not in wanted):
            continue
        there = [one for one in authors if (data / "refer" / name / pattern.format(one)).is_file()]
        if wanted and (split_by or not there):  # if it is missing, the error says so
            sources.append(open_dataset(data, name, split_by))
        else:
            sources += [open_dataset(data, name, one) for one in there if split_by in (None, one)]
    if not sources:
        raise PrepError(
            f"There is no dataset in {data / 'refer'}.",
            "Give the data root with --data, or --input FILE.jsonl.",
        )
    return sources


def _write(path: Path, found: Shared) -> int:
    """Write the held-out images, one per line; returns how many names hold a line end and are left out."""
    from prep.files import write_whole

    names = sorted(found.held_out)
    lines = [name for name in names if len(name.splitlines()) == 1]
    try:
        write_whole(path, "".join(f"{name}\n" for name in lines).encode())
    except OSError as error:
        raise PrepError(f"{path} could not be written: {error.strerror or error}.") from error
    return len(names) - len(lines)


def _lines(
    value: Mapping[str, Any],
    found: Shared,
    texts: Mapping[str, Sequence[Expression]],
    exclude: Path | None,
    unwritten: int | None,
) -> Iterator[str]:
    yield f"{', '.join(value['datasets'])}: {value['expressions']:,} expressions"
    yield (
        "images that are trained on and held out:"
        if found.overlaps
        else "no image is trained on and held out"
    )
    for one in found.overlaps:
        yield f"  {one.images:,} of {one.of:,} images of {one.train} train are in {one.held_out}"
    yield from _twin_lines(
        "expressions of one image, trained on and held out, that are almost equal", found.same_image
    )
    yield from _twin_lines(
        "long expressions of two images, trained on and held out, that are equal", found.other_image
    )
    joined = {kind: own for kind, own in texts.items() if kind.startswith("joined: ")}
    for kind, own in texts.items():
        if kind not in joined:
            yield f"{kind}: {len(own):,}, for example {'; '.join(row.text for row in own[:SHOWN])}"
    if joined:
        examples = "; ".join(
            f"{own[0].text} ({kind.partition(': ')[2]})" for kind, own in [*joined.items()][:SHOWN]
        )
        yield f"joined: words that may be two: {len(joined):,}, for example {examples}"
    if exclude is not None:
        yield f"{len(found.held_out) - (unwritten or 0):,} held-out images written to {exclude}"
        if unwritten:
            yield f"  left out, as their names have line ends: {unwritten:,}"


def _twin_lines(what: str, twins: Sequence[Twin]) -> Iterator[str]:
    if twins:
        yield f"{what}: {len(twins):,}"
        for one in twins[:SHOWN]:
            yield f"  {one.train} train: {one.train_text}; {one.held_out}: {one.held_out_text}"
