"""Writes a self-contained page about one or two training runs: curves, metrics, best and worst cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pcnet.report.beside import STAGES
from pcnet.report.compare import Case, agreements, extremes, join
from pcnet.report.runs import Evaluation, EvaluationSettings, RunFiles, read_run
from prep.cache.keys import is_row_id
from prep.cache.mask_rows import rows_of_images
from prep.errors import PrepError
from prep.images import UnreadableImage, image_size
from prep.inputs import below
from prep.pages.gallery import Column
from prep.pages.html import render, write
from prep.pages.store_data import Picture, flat, picture, picture_of, response_levels
from prep.records import ProposalRow


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """The settings of a report on one run folder, or two.

    ``data`` is the folder that image paths are relative to; without it there are no photos and no ground
    truth. ``store`` has the proposals (None: the one that the evaluation read, if it still exists). ``rows``
    and ``pictures`` limit the contents of the page; its metrics are over all rows.
    """

    runs: Sequence[Path]
    out: Path
    data: Path | None = None
    store: str | None = None
    rows: int = 50_000
    pictures: int = 200


def write_report(config: ReportConfig) -> dict[str, object]:
    """Write the page to ``config.out``; return its numbers of runs, evaluations, expressions, pictures and
    photos, and as ``evaluate`` the command that evaluates a run that has no evaluation.

    :raises PrepError: if a folder contains no run, or a file of a run cannot be read.
    """
    if config.data is not None and not config.data.is_dir():
        raise PrepError(
            f"{config.data} is not a folder.", "Set --data to the folder that image paths are relative to."
        )
    runs = [read_run(folder) for folder in config.runs]
    labels = list(dict.fromkeys(label for run in runs for label in run.evaluations))
    joined = [join(label, [run.evaluations.get(label) for run in runs]) for label in labels]
    cases = [case for of_label in joined for case in of_label]
    striking = list(_in_turn([extremes(of_label) for of_label in joined]))
    taken = _taken(cases, striking, config.rows)
    pictures = _pictures(striking, runs, config)
    samples = _samples(taken)
    shown = [(at, case) for at, case in enumerate(taken) if case.image in pictures]
    numbers = {image: str(at) for at, image in enumerate(samples["image"]["values"])}
    content = {
        "runs": [_run(run) for run in runs],
        "labels": labels,
        "agreements": [one.to_json() for one in agreements(cases)] if len(runs) == 2 else [],
        "cases": len(cases),
        "samples": samples,
        "pictures": {numbers[image]: drawn for image, drawn in pictures.items()},
        "maps": [_maps(run, shown) for run in runs],
        "truth": _truth(config.data, runs, shown),
    }
    page = render("pcnet.report", "page", title(config.runs), content, scripts=("curves.js",))
    write(page, config.out)
    return {
        "runs": len(runs),
        "evaluations": len(labels),
        "expressions": len(taken),
        "pictures": len(pictures),
        "photos": sum(1 for one in pictures.values() if one["thumbnail"]),
        "evaluate": next((run.evaluate for run in runs if run.evaluate), None),
    }


def title(runs: Sequence[Path]) -> str:
    """The page's title: the names of the folders, with their parents where two names are the same."""
    paths = [folder.resolve() for folder in runs]
    depth = 1 if len({path.name for path in paths}) == len(paths) else 2
    named = ["/".join(path.parts[-depth:]) for path in paths]
    return f"Run {named[0]}" if len(named) == 1 else f"Runs {' and '.join(named)}"


def _in_turn(orders: Sequence[Sequence[Case]]) -> Iterator[Case]:
    """The first of each order, then the second of each, and so on."""
    for place in range(max(map(len, orders), default=0)):
        yield from (order[place] for order in orders if place < len(order))


def _taken(cases: Sequence[Case], striking: Sequence[Case], limit: int) -> list[Case]:
    """The cases on the page: the extreme ones, and a uniform sample of the rest if there are too many."""
    if len(cases) <= limit:
        return list(cases)
    kept, share = {id(case) for case in striking}, limit / len(cases)
    # Row ids are hashes, so the smallest of them are a uniform and reproducible sample.
    return [case for case in cases if id(case) in kept or int(case.row_id[:12], 16) < share * 16**12]


def _run(run: RunFiles) -> dict[str, object]:
    return {
        "name": run.name,
        "steps": run.steps,
        "seconds": run.seconds,
        "evaluate": run.evaluate,
        "settings": list(flat(run.settings)),
        "losses": asdict(run.losses) if run.losses else None,
        "validation": asdict(run.validation) if run.validation else None,
        "evaluations": {label: one.figures for label, one in run.evaluations.items()},
    }


def _samples(cases: Sequence[Case]) -> dict[str, Any]:
    """The cases as columns, which are compact and fast to filter."""
    image, evaluation, kinds = Column(), Column(), Column()
    for case in cases:
        image.add(case.image)
        evaluation.add(case.evaluation)
    return {
        "text": [case.text for case in cases],
        "image": image.to_json(),
        "evaluation": evaluation.to_json(),
        "kinds": {
            "lists": [[kinds.code(kind) for kind in case.kinds] for case in cases],
            "values": kinds.values,
        },
        "scores": [[score.to_json() if score else None for score in case.scores] for case in cases],
    }


def _pictures(cases: Sequence[Case], runs: Sequence[RunFiles], config: ReportConfig) -> dict[str, Picture]:
    """The images of the first cases, with their proposals if a store has them, else only the photos."""
    wanted = list(dict.fromkeys(case.image for case in cases))[: config.pictures]
    found = {}
    for row in _proposals(set(wanted), runs, config.store):
        if row["status"] != "error":
            found[row["image"]] = picture_of(row, config.data)
    for image in wanted:
        size = _size(config.data, image) if image not in found else None
        if size is not None:
            found[image] = picture(image, *size, [], config.data)
    return {image: found[image] for image in wanted if image in found}


def _proposals(images: set[str], runs: Sequence[RunFiles], named: str | None) -> list[ProposalRow]:
    from prep.cache.store import open_store

    stores = (
        [named]
        if named
        else [_evaluated(one).get("store") for run in runs for one in run.evaluations.values()]
    )
    for uri in dict.fromkeys(uri for uri in stores if uri):
        try:
            reader = open_store(uri).stage("proposals").reader()
        except PrepError:
            if named:
                raise
            continue  # the store has moved: the page has no masks
        columns = ["image", "height", "width", "masks", "status"]
        return list(rows_of_images(reader, images, columns))
    return []


def _evaluated(evaluation: Evaluation) -> EvaluationSettings:
    return evaluation.figures.get("settings", {})


def _size(data: Path | None, image: str) -> tuple[int, int] | None:
    """(height, width) of an image file under ``data``; None if it cannot be opened."""
    if data is None or below(image) is None:
        return None
    try:
        return image_size(data / image)
    except UnreadableImage:
        return None


def _maps(run: RunFiles, shown: Sequence[tuple[int, Case]]) -> dict[str, dict[str, object]]:
    """Case index -> the maps of the run's stages and the threshold that turns the last into a mask."""
    found = {}
    for at, case in shown:
        evaluation = run.evaluations.get(case.evaluation)
        named = evaluation is not None and is_row_id(case.row_id)  # rows of others may name any path
        path = evaluation.folder / STAGES / f"{case.row_id}.npy" if evaluation and named else None
        if evaluation and path and path.is_file():
            found[str(at)] = {"levels": response_levels(path), "threshold": evaluation.threshold}
    return found


def _truth(data: Path | None, runs: Sequence[RunFiles], shown: Sequence[tuple[int, Case]]) -> dict[str, str]:
    """Case index -> its ground-truth mask as compressed RLE, for the datasets found in ``data``."""
    if data is None:
        return {}
    wanted = {case.row_id for _, case in shown}
    masks: dict[str, str] = {}
    told = [_evaluated(one) for run in runs for one in run.evaluations.values()]
    asked = {(one["dataset"], one["split_by"], one["split"]) for one in told if "dataset" in one}
    for name, split_by, split in sorted(asked, key=str):
        try:
            masks |= _true_masks(data, name, split_by or None, split, wanted)
        except PrepError:
            continue  # a folder of images without annotations is also valid
    return {str(at): masks[case.row_id] for at, case in shown if case.row_id in masks}


def _true_masks(
    data: Path, name: str, split_by: str | None, split: str | None, wanted: Set[str]
) -> dict[str, str]:
    """``row_id`` -> the ground-truth mask of the requested expressions of a split."""
    from pcnet.evaluation.dataset import encode
    from prep.datasets.catalogue import open_dataset
    from prep.datasets.truth import Truth

    dataset = open_dataset(data, name, split_by)
    truth = Truth(dataset)
    rows = (row for row in dataset.expressions([split] if split else None) if row.row_id in wanted)
    found = {row.row_id: truth.mask(row) for row in rows}
    return {row_id: encode(mask)["counts"] for row_id, mask in found.items() if mask is not None}
