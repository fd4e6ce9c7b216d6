"""Opens a dataset: the RefCOCO family in its standard layout, a JSONL file, or a plain folder of images."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from prep.datasets.jsonl import JsonlDataset
from prep.datasets.refer import RefDataset
from prep.errors import PrepError
from prep.images import suffixes
from prep.records import Expression, ImageRef

# Dataset -> the split versions to try if none is given, and the pattern of its refs file.
DATASETS: dict[str, tuple[tuple[str, ...], str]] = {
    "refcoco": (("unc", "google"), "refs({}).p"),
    "refcoco+": (("unc",), "refs({}).p"),
    "refcocog": (("umd", "google"), "refs({}).p"),
    "grefcoco": (("unc",), "grefs({}).json"),
    "refclef": (("unc", "berkeley"), "refs({}).p"),
}


class Dataset(Protocol):
    """The interface of every reader. Image paths are POSIX paths relative to ``root``."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def split_by(self) -> str:
        """The split version (``unc``, ``umd``, ``google``, ``berkeley``; empty for the user's own data)."""

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""

    @property
    def place(self) -> Path:
        """The file or folder that is read."""

    @property
    def flags(self) -> str:
        """The options of a command that select this dataset, for messages."""

    def splits(self) -> list[str]:
        """The names of the splits that have entries."""

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: all); :class:`PrepError` for a split that does not exist."""

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images of ``splits``, each once, in order of first appearance."""

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of the annotation files read."""


def open_dataset(data: Path, name: str, split_by: str | None = None) -> RefDataset:
    """The dataset ``name`` in the tree ``data`` (see docs/datasets.md); only checks which files exist."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise PrepError(
            f"There is no dataset {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            f"Choose one of: {', '.join(DATASETS)}. For your own expressions, use --input FILE.jsonl.",
        )
    authors, pattern = DATASETS[name]
    folder = data / "refer" / name
    if not folder.is_dir():
        raise _no_folder(data, name)
    for author in (split_by,) if split_by is not None else authors:
        refs = folder / pattern.format(author)
        if refs.exists():
            return RefDataset(data, name, author, refs)
    wanted = " or ".join(pattern.format(author) for author in ((split_by,) if split_by else authors))
    there = sorted(path.name for path in folder.glob("*refs(*)*"))
    raise PrepError(
        f"{folder} has no {wanted}.",
        f"Choose one of these with --split-by: {', '.join(there)}."
        if there
        else f"Download the annotations of {name} and put them there.",
    )


def _no_folder(data: Path, name: str) -> PrepError:
    """The error for a missing ``data/refer/name``, with a suggestion if a similar path exists."""
    if not data.is_dir():
        return PrepError(
            f"{data} is not a folder, so there is no {data / 'refer' / name}.",
            "Give the data root with --data DIR.",
        )
    for nearby, tree in (
        (data / name, data.parent),
        (data.parent.parent / "refer" / name, data.parent.parent),
    ):
        if nearby.is_dir() and (tree / "refer" / name).is_dir():
            return PrepError(f"{data / 'refer' / name} is missing.", f"Did you mean --data {tree}?")
    there = sorted(path.name for path in (data / "refer").glob("*") if path.is_dir())
    found = f"{data / 'refer'} contains: {', '.join(there)}." if there else f"{data} has no refer/ folder."
    return PrepError(
        f"{data / 'refer' / name} is missing. {found}",
        "See docs/datasets.md for the layout and the download links.",
    )


def open_jsonl(path: Path, image_root: Path | None = None) -> JsonlDataset:
    """The user's own expressions; images are in ``image_root``, by default the folder of the file."""
    if not path.is_file():
        raise PrepError(
            f"{path} is not a file.",
            'Give a file with one JSON object per line, such as {"sent": "the man on the left"}.',
        )
    if image_root is not None and not image_root.is_dir():
        raise PrepError(f"The image root {image_root} is not a folder.", "Give it with --image-root DIR.")
    return JsonlDataset(path, image_root if image_root is not None else path.parent)


class ImageFolder:
    """All image files below ``root``, without expressions."""

    def __init__(self, root: Path) -> None:
        self.root, self.name, self.split_by = root, root.name or str(root), ""
        self.place = root
        self.left_out: Mapping[str, int] = {}  # what the last complete listing left out, and how often

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images in the order of their paths, without hidden files and folders; sets ``left_out``.

        Linked folders are followed, each once: a link into a folder that it is in would never end.
        """
        if splits is not None:
            raise PrepError("A folder of images has no splits.", "Omit --split, or select a --dataset.")
        return self._all()

    def inputs(self) -> dict[str, str]:
        """Empty: no annotation file is read."""
        return {}

    def _all(self) -> Iterator[ImageRef]:
        self._usable, self._refused, self._linked = suffixes(), Counter[str](), set[tuple[int, int]]()
        yield from self._walk("", (), linked=False)
        self.left_out = self._refused

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...], *, linked: bool) -> Iterator[ImageRef]:
        """The images of a folder; ``above`` identifies the folders that it is in."""
        try:
            stat = os.stat(self.root / folder)
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise PrepError(f"{self.root} cannot be listed: {error.strerror or error}.") from error
            self._refused[f"{folder} cannot be listed: {error.strerror or error}"] += 1
            return
        own = stat.st_dev, stat.st_ino
        if own in above or (linked and own in self._linked):
            self._refused["links to a folder that is listed under another name"] += 1
            return
        if linked:
            self._linked.add(own)
        for entry in entries:
            name = f"{folder}{entry.name}"
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                self._refused["hidden files and folders"] += 1
            elif _is_folder(entry):
                yield from self._walk(f"{name}/", (*above, own), linked=linked or entry.is_symlink())
            elif suffix in self._usable:
                yield _image_ref(self.root, name)
            else:
                self._refused[f"*{suffix}" if suffix else "files without a suffix"] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _image_ref(root: Path, name: str) -> ImageRef:
    """An image of a folder. A name that is not UTF-8 cannot be stored: its bytes are escaped."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        return ImageRef(shown, None, str(root / name), "the file name is not UTF-8 (rename the file)")
    return ImageRef(name, None, str(root / name))


def open_image_folder(folder: Path) -> ImageFolder:
    """The images below ``folder``."""
    if not folder.is_dir():
        raise PrepError(f"{folder} is not a folder.", "Give a folder of images with --images DIR.")
    return ImageFolder(folder)
