"""Examines a data root: which datasets and split versions it has, and whether each is whole."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from prep.datasets.catalogue import DATASETS, open_dataset
from prep.datasets.expected_counts import ALL, OFFICIAL, Found, check
from prep.datasets.refer import RefDataset
from prep.datasets.releases import IMAGES, RELEASES, SAIAPR, check_files
from prep.errors import PrepError
from prep.machine.finding import Finding

# The number of differences from the expected counts to show.
SHOWN = 3


def trees(data: Path) -> Iterable[Finding]:
    """Every dataset under ``data``: its counts, its files, and where to get what is missing."""
    there = 0
    for name, (authors, pattern) in DATASETS.items():
        folder = data / "refer" / name
        files = {author: folder / pattern.format(author) for author in authors}
        present = {author: path for author, path in files.items() if path.is_file()}
        there += len(present)
        for author in present:
            yield from _version(data, name, author)
        yield from _unknown_versions(folder, name, set(files.values()))
        if folder.is_dir() and not present:
            text = f"{folder} has none of {', '.join(path.name for path in files.values())}"
            yield Finding("data", name, False, text, download(data, name))
    if not there:
        text = f"no dataset in {data.absolute() / 'refer'}"
        yield Finding(
            "data",
            "datasets",
            False,
            text,
            "Give the data root with --data; docs/datasets.md shows its layout. RefCOCO's annotations: "
            f"{download(data, 'refcoco')}",
        )


def download(data: Path, name: str) -> str:
    """The command that gets a dataset's annotations, or where they are."""
    release = RELEASES[name]
    if not release.archive.endswith(".zip"):
        return f"Get {release.archive} from {release.url}"
    folder = data / "refer"
    to, where = shlex.quote(str(folder / release.archive)), shlex.quote(str(folder))
    return f"mkdir -p {where} && curl -L -o {to} '{release.url}' && unzip -d {where} {to}"


def _version(data: Path, name: str, author: str) -> Iterable[Finding]:
    """The findings about one split version of a dataset."""
    title = f"{name} {author}"
    try:
        dataset = open_dataset(data, name, author)
        found = check(dataset)
        files = check_files(data, name, [dataset.refs_file, dataset.instances_file])
    except PrepError as error:
        yield Finding("data", title, False, error.message, error.remedy or download(data, name))
        return
    told = ", ".join(
        f"{count:,} {what}" for what, count in zip(found.counts._fields, found.counts, strict=True)
    )
    text = f"{verdict(found)}: {told}"
    yield Finding("data", title, found.complete, text, _remedy(data, found), tuple(found.missing))
    remedy = download(data, name) if files.ok is False else ""
    yield Finding("data", f"{name} files", files.ok, f"{_splits(dataset)}; {files.text}", remedy)


def _splits(dataset: RefDataset) -> str:
    return f"split by {dataset.split_by}: {', '.join(dataset.splits())}"


def _remedy(data: Path, found: Found) -> str:
    if not found.missing:
        return download(data, found.name) if found.known and found.problems else ""
    url = SAIAPR if found.name == "refclef" else IMAGES
    to = shlex.quote(str(data / url.rpartition("/")[2]))
    return f"curl -L -o {to} '{url}' && unzip -n -d {shlex.quote(str(data))} {to}"


def _unknown_versions(folder: Path, name: str, known: set[Path]) -> Iterable[Finding]:
    """Findings about refs files of a split version that was not released."""
    for path in sorted(folder.glob("*refs(*)*")):
        version = re.search(r"refs\((.*)\)", path.name)
        if path not in known and version:
            text = f"{path.name} is of no released split version"
            remedy = f"It is read with --split-by {shlex.quote(version[1])}; no counts are known for it."
            yield Finding("data", f"{name} {version[1]}", None, text, remedy)


def verdict(found: Found) -> str:
    """The problems of a dataset in one line."""
    if found.complete:
        return "complete"
    problems = list(found.problems)
    for (name, author), table in OFFICIAL.items():
        total = table.get(ALL)
        same = total is not None and total.sentences == found.counts.sentences
        if name == found.name and author != found.split_by and same:
            problems.insert(0, f"these are the {found.counts.sentences:,} expressions of {name} {author}")
    more = len(problems) - SHOWN
    told = problems[:SHOWN] + ([f"and {more} more differences"] if more > 0 else [])
    return "; ".join(told if found.known else ["no expected counts are known", *told])
