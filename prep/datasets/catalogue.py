"""Opens a dataset: the RefCOCO family in its standard tree, a JSONL file, or a plain folder of images."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from prep.datasets.jsonl import JsonlDataset
from prep.datasets.refer import RefDataset
from prep.errors import PrepError
from prep.records import Expression, ImageRef

# Dataset -> the splits' authors to look for when none is named, and the pattern of its refs file.
DATASETS: dict[str, tuple[tuple[str, ...], str]] = {
    "refcoco": (("unc", "google"), "refs({}).p"),
    "refcoco+": (("unc",), "refs({}).p"),
    "refcocog": (("umd", "google"), "refs({}).p"),
    "grefcoco": (("unc",), "grefs({}).json"),
    "refclef": (("unc", "berkeley"), "refs({}).p"),
}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


class Dataset(Protocol):
    """What every reader offers. Image paths are POSIX paths relative to ``root``."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def split_by(self) -> str:
        """Who split it (``unc``, ``umd``, ``google``, ``berkeley``; empty for the user's own data)."""

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""

    def splits(self) -> list[str]:
        """The names of the splits that have entries."""

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: every one); :class:`PrepError` for one that is not there."""

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images of ``splits``, each once, in order of first appearance."""

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of the annotation files read."""


def open_dataset(data: Path, name: str, split_by: str | None = None) -> RefDataset:
    """The dataset ``name`` of the tree ``data`` (see docs/datasets.md); only file names are looked at yet."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise PrepError(
            f"There is no dataset {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            f"Known: {', '.join(DATASETS)}. Your own expressions: --input FILE.jsonl",
        )
    authors, pattern = DATASETS[name]
    folder = data / "refer" / name
    if not folder.is_dir():
        raise _no_folder(data, name)
    for author in (split_by,) if split_by is not None else authors:
        refs = folder / pattern.format(author)
        if refs.is_file():
            return RefDataset(data, name, author, refs)
    wanted = " or ".join(pattern.format(author) for author in ((split_by,) if split_by else authors))
    there = sorted(path.name for path in folder.glob("*refs(*)*"))
    raise PrepError(
        f"{folder} has no {wanted}.",
        f"There is: {', '.join(there)} (choose with --split-by)."
        if there
        else f"Put the download of {name} there.",
    )


def _no_folder(data: Path, name: str) -> PrepError:
    """What to say where ``data/refer/name`` is missing, with a guess at what was meant."""
    if not data.is_dir():
        return PrepError(
            f"{data} is no folder, so there is no {data / 'refer' / name}.", "Name the tree with --data DIR."
        )
    for nearby, tree in (
        (data / name, data.parent),
        (data.parent.parent / "refer" / name, data.parent.parent),
    ):
        if nearby.is_dir() and (tree / "refer" / name).is_dir():
            return PrepError(f"{data / 'refer' / name} is missing.", f"Did you mean --data {tree}?")
    there = sorted(path.name for path in (data / "refer").glob("*") if path.is_dir())
    found = f"{data / 'refer'} has: {', '.join(there)}." if there else f"{data} has no refer/ folder."
    return PrepError(
        f"{data / 'refer' / name} is missing. {found}", "docs/datasets.md shows the tree and its sources."
    )


def open_jsonl(path: Path, image_root: Path | None = None) -> JsonlDataset:
    """The user's own expressions; images are looked for in ``image_root``, else in the folder of the file."""
    if not path.is_file():
        raise PrepError(
            f"{path} is no file.", 'It must hold a JSON object a line: {"sent": "the man on the left"}'
        )
    if image_root is not None and not image_root.is_dir():
        raise PrepError(f"The image root {image_root} is no folder.", "Name it with --image-root DIR.")
    return JsonlDataset(path, image_root if image_root is not None else path.parent)


class ImageFolder:
    """Every image file below ``root``, without expressions."""

    def __init__(self, root: Path) -> None:
        self.root, self.name, self.split_by = root, root.name, ""

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images in the order of their paths; hidden files and folders are left out."""
        if splits is not None:
            raise PrepError("A folder of images has no splits.", "Leave --split out, or name a --dataset.")
        return self._walk("")

    def inputs(self) -> dict[str, str]:
        """Nothing: no annotation file is read."""
        return {}

    def _walk(self, folder: str) -> Iterator[ImageRef]:
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise PrepError(f"{self.root / folder} cannot be listed: {error.strerror or error}.") from error
        for entry in entries:
            image = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            # A linked folder could lead back to itself; a linked file cannot.
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(f"{image}/")
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield ImageRef(image, None, str(self.root / image))


def open_image_folder(folder: Path) -> ImageFolder:
    """The images below ``folder``."""
    if not folder.is_dir():
        raise PrepError(f"{folder} is no folder.", "Name a folder of images with --images DIR.")
    return ImageFolder(folder)
