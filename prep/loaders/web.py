"""Writes a store as WebDataset tar files: each image with its masks and expressions, for streaming."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from prep.cache.keys import fingerprint
from prep.errors import PrepError
from prep.files import replacing, write_whole
from prep.inputs import read_plain
from prep.loaders.samples import Sample, Samples

if TYPE_CHECKING:
    from prep.cache.store import Store

INDEX = "index.json"
MAX_INDEX = 1 << 26
IMAGE = ("image", "image_id", "height", "width")  # the columns that a tar tells of an image
VERSION = 1  # part of every key: change it if what a tar holds changes


class _Entry(TypedDict):
    """What the index tells of a tar."""

    key: str
    images: int
    masks: int
    expressions: int
    left_out: dict[str, int]


@dataclass
class WebExport:
    """The result of :func:`to_webdataset`; ``left_out`` counts images by the reason why no tar has them."""

    folder: Path
    images: int = 0
    masks: int = 0
    expressions: int = 0
    written: int = 0
    unchanged: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def to_webdataset(
    store: Store,
    image_root: str | Path,
    folder: str | Path,
    *,
    splits: Collection[str] | None = None,
    images_per_tar: int = 1000,
) -> WebExport:
    """Write ``<folder>/000000.tar``, ... and ``index.json``: each image as two files of one key.

    ``<number>.<suffix>`` is the image file, byte for byte; ``<number>.json`` has ``image``, ``image_id``,
    ``height``, ``width``, ``masks`` (the fields of the store, and ``segmentation`` as COCO run lengths) and
    ``expressions``. A tar takes its name when it is whole, and one that holds the same rows and files already
    is kept: a repeated call resumes where it was stopped. Equal input gives equal bytes.

    Raises :class:`PrepError` if the folder holds tars that this function did not write there.
    """
    samples, done = Samples(store, image_root, splits), WebExport(Path(folder))
    if samples.left_out:
        done.left_out["images with an error in the store"] = samples.left_out
    done.folder.mkdir(parents=True, exist_ok=True)
    known = _known(done.folder)
    kept = {}
    for number, start in enumerate(range(0, len(samples), images_per_tar)):
        name, block = f"{number:06d}.tar", samples[start : start + images_per_tar]
        key = _key(block)
        entry = known.get(name)
        if entry is None or entry["key"] != key or entry["left_out"]:  # those may be readable now
            entry = _write(done.folder / name, block, start, key)
            done.written += 1
        else:
            done.unchanged += 1
        kept[name] = entry
        _count(done, entry)
        _save(done.folder, {**known, **kept})
    for name in known.keys() - kept.keys():
        (done.folder / name).unlink(missing_ok=True)
    _save(done.folder, kept)
    return done


def _known(folder: Path) -> dict[str, _Entry]:
    """The tars in the folder by name, as its index has them."""
    index = folder / INDEX
    tars = {path.name for path in folder.glob("*.tar")}
    try:
        known = json.loads(read_plain(index, MAX_INDEX)) if index.exists() else {}
        entries: dict[str, Any] = {name: {**entry, "key": str(entry["key"])} for name, entry in known.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PrepError(
            f"{index} is not the index of an export: {error!r}.", "Use another folder."
        ) from error
    if foreign := sorted(tars - entries.keys()):
        raise PrepError(f"{folder / foreign[0]} is not of this export.", "Use another folder.")
    return {name: entry for name, entry in entries.items() if name in tars}


def _key(block: list[Sample]) -> str:
    rows = [
        [sample.row["image_sha256"], sample.row["key"], sample.row["image"], sample.expressions]
        for sample in block
    ]
    return fingerprint({"version": VERSION, "rows": rows})


def _write(target: Path, block: list[Sample], start: int, key: str) -> _Entry:
    """Write one tar; what it holds, as the index tells it."""
    entry: _Entry = {"key": key, "images": 0, "masks": 0, "expressions": 0, "left_out": {}}
    with replacing(target) as file:
        for number, sample in enumerate(block, start):
            try:
                data = sample.bytes().data
            except PrepError as error:
                reason = error.message.replace(str(sample.path), "an image")
                entry["left_out"][reason] = entry["left_out"].get(reason, 0) + 1
                continue
            suffix = sample.path.suffix.lower().lstrip(".") or "jpg"
            _add(file, f"{number:09d}.{suffix}", data)
            _add(file, f"{number:09d}.json", json.dumps(_described(sample)).encode())
            entry["images"] += 1
            entry["masks"] += len(sample.masks)
            entry["expressions"] += len(sample.expressions)
        file.write(b"\0" * 1024)
    return entry


def _described(sample: Sample) -> dict[str, object]:
    row = {name: value for name, value in sample.row.items() if name in IMAGE}
    masks = sample.masks
    fields = [
        {"segmentation": rle, **{name: value for name, value in mask.items() if name != "counts"}}
        for rle, mask in zip(masks, sample.row["masks"], strict=True)
    ]
    return {**row, "masks": fields, "expressions": sample.expressions}


def _add(file: BinaryIO, name: str, data: bytes) -> None:
    """Append a member without the time, the owner or anything else that differs from run to run."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.write(data + b"\0" * (-len(data) % tarfile.BLOCKSIZE))


def _count(done: WebExport, entry: _Entry) -> None:
    done.images += entry["images"]
    done.masks += entry["masks"]
    done.expressions += entry["expressions"]
    for reason, number in entry["left_out"].items():
        done.left_out[reason] = done.left_out.get(reason, 0) + number


def _save(folder: Path, entries: dict[str, _Entry]) -> None:
    write_whole(folder / INDEX, json.dumps(entries, indent=1).encode())
