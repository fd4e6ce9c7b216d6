"""Writes a store as the tree that the released PCNet code reads: phrases, masks and ranked proposals."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prep.cache.mask_rows import rows_of_images
from prep.engine.progress import progress
from prep.errors import PrepError
from prep.records import Expression, ProposalRow
from prep.released.google import google_ids
from prep.released.tree import (
    CANDIDATES,
    MASKS,
    PHRASES,
    PHRASES_FOLDER,
    SAM,
    UMD_TO_GOOGLE,
    candidates_file,
    masks_folder,
    repeated,
    save_array,
    save_object,
    variant_of,
    write_whole,
)

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.datasets.catalogue import Dataset

COLUMNS = ["image", "height", "width", "masks", "key", "status", "generator"]


@dataclass
class Exported:
    """The result of an export, and what the released tree cannot represent.

    ``ranked_by`` is ``scores`` or, if the store has none, ``area``. ``notes`` counts, by reason, what was
    filled in or left out. ``failed`` counts the sentences of which the phrases or the image have an error.
    """

    folder: Path
    refs: int = 0
    sentences: int = 0
    images: int = 0
    ranked_by: str = "area"
    failed: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, reason: str, number: int = 1) -> None:
        """Add ``number`` to the count of ``reason``."""
        if number:
            self.notes[reason] = self.notes.get(reason, 0) + number


def export_official(
    store: Store,
    dataset: Dataset,
    out: Path,
    *,
    splits: Collection[str] | None = None,
    side: int | None = None,
) -> Exported:
    """Write ``dataset``'s phrases, masks and candidates from ``store`` below ``out/refer/<dataset>``.

    Masks are uint8 arrays (40, H, W) of the image's size, zero padded; ``side`` limits their longer side in
    pixels (the released loader resizes them to 32 x 32 for training, and a photo's full array takes 12 MB).
    Files are written atomically. Raises PrepError if phrases or proposals of a reference are missing.
    """
    done = Exported(out / "refer" / dataset.name)
    references = _references(dataset, splits)
    phrases = _phrases(store, dataset, references)
    (done.folder / PHRASES_FOLDER).mkdir(parents=True, exist_ok=True)
    names = _json_names(dataset, references, done)
    for ref_id, sentences in references.items():
        text = json.dumps(_sentences(sentences, phrases, done), ensure_ascii=False)
        for name in names[ref_id]:
            write_whole(done.folder / PHRASES_FOLDER / f"{name}.json", text.encode("utf-8"))
    done.refs, done.sentences = len(references), sum(map(len, references.values()))
    unreadable = _masks_and_candidates(store, dataset, references, side, done)
    every = [one for sentences in references.values() for one in sentences]
    done.failed = sum(not phrases[one.row_id] or one.image in unreadable for one in every)
    return done


def _references(dataset: Dataset, splits: Collection[str] | None) -> dict[int, list[Expression]]:
    """ref_id -> its sentences, in the dataset's order."""
    found: dict[int, list[Expression]] = {}
    for ref_id, sentences in groupby(dataset.expressions(splits), key=lambda one: one.ref_id):
        if ref_id is None:
            raise PrepError(
                f"{dataset.name} has references without ref_id.",
                "Add ref_id to the data: the released tree is keyed by it.",
            )
        found.setdefault(ref_id, []).extend(sentences)
    return found


def _phrases(store: Store, dataset: Dataset, references: dict[int, list[Expression]]) -> dict[str, list[str]]:
    """row_id -> the phrases of one dataset; rows with an error have none. PrepError for one without a row."""
    import pyarrow.compute as pc

    chosen = (pc.field("dataset") == dataset.name) & (pc.field("split_by") == dataset.split_by)
    reader = store.require_table("phrases", "pcnet-prep phrases")
    table = reader.read(["row_id", "phrases"], chosen)
    found = dict(zip(table["row_id"].to_pylist(), table["phrases"].to_pylist(), strict=True))
    for sentence in (one for sentences in references.values() for one in sentences):
        if sentence.row_id not in found:
            raise PrepError(
                f"Ref {sentence.ref_id}: sentence {sentence.sent_id} has no phrases in the store.",
                f"Run: pcnet-prep phrases {dataset.flags} --store {shlex.quote(store.uri)}",
            )
    return found


def _sentences(
    sentences: list[Expression], phrases: dict[str, list[str]], done: Exported
) -> dict[str, list[str]]:
    """sent_id -> five phrases, in the order of the sentences: the released class ignores the keys."""
    filled: dict[str, list[str]] = {}
    for number, sentence in enumerate(sentences):
        own = phrases[sentence.row_id]
        if not own:
            done.note("sentences whose phrases failed: the sentence itself is written")
        own = (own or [sentence.text or "object"])[:PHRASES]
        name = str(sentence.sent_id)
        if sentence.sent_id is None or name in filled:
            name = f"{sentence.ref_id}_{number}"
        filled[name] = repeated(own)
    return filled


def _json_names(
    dataset: Dataset, references: dict[int, list[Expression]], done: Exported
) -> dict[int, tuple[int, ...]]:
    """ref_id -> the names of its phrase files; for RefCOCOg's umd split the map to google's ids is written.

    Quirk: the released class opens the file of the umd id, then uses the contents of the one of the mapped
    google id. Both must exist; if an id is another reference's google id, the file is that reference's.
    """
    if (dataset.name, dataset.split_by) != ("refcocog", "umd"):
        return {ref_id: (ref_id,) for ref_id in references}
    google = google_ids(dataset, references)
    if not google:
        google = {ref_id: ref_id for ref_id in references}
        done.note("refs(google).p is not in the tree: phrase files have umd ids, and the map is the identity")
    free, used = count(max([*google.values(), *references], default=0) + 1), set[int]()
    mapped: dict[int, int] = {}
    for ref_id in references:
        twin = google.get(ref_id)
        mapped[ref_id] = next(free) if twin is None or twin in used else twin
        used.add(mapped[ref_id])
    alone = sum(ref_id not in google for ref_id in references)
    done.note("umd references without a match in refs(google).p: they have new ids above all others", alone)
    save_object(done.folder / UMD_TO_GOOGLE, mapped)
    return {ref_id: (name, *(() if ref_id in used else (ref_id,))) for ref_id, name in mapped.items()}


def _masks_and_candidates(
    store: Store, dataset: Dataset, references: dict[int, list[Expression]], side: int | None, done: Exported
) -> set[str]:
    """Write them; returns the images that could not be read."""
    unreadable = set()
    wanted: dict[str, list[int]] = {}
    for ref_id, sentences in references.items():
        if sentences[0].image is None:
            done.note("references without an image: they have no candidates")
        else:
            wanted.setdefault(sentences[0].image, []).append(ref_id)
    scores = _scores(store, dataset)
    done.ranked_by = "scores" if scores else "area"
    candidates: dict[int, dict[str, object]] = {}
    variant, reader = SAM, store.require_table("proposals", "pcnet-prep sam")
    with progress("masks", len(wanted)) as bar:
        for row in rows_of_images(reader, set(wanted), COLUMNS):
            stem = PurePosixPath(row["image"]).stem
            if row["status"] == "error":
                unreadable.add(row["image"])
                done.note("images that could not be read: their masks are empty")
            kept = _kept(row, done)
            variant = variant_of(row["generator"])
            folder = done.folder / masks_folder(variant)
            folder.mkdir(parents=True, exist_ok=True)
            save_array(folder / f"{stem}.npy", _array(row, kept, side))
            for ref_id in wanted.pop(row["image"]):
                ranks = [
                    _ranking(row, kept, sentence, scores, store.uri, done) for sentence in references[ref_id]
                ]
                candidates[ref_id] = _candidate(f"{stem}.npy", ranks, len(kept))
            done.images += 1
            bar.update(done.images)
    if wanted:
        raise PrepError(
            f"{len(wanted)} images have no proposals in the store, for example {min(wanted)}.",
            f"Run: pcnet-prep sam {dataset.flags} --store {shlex.quote(store.uri)}",
        )
    ranked = done.folder / candidates_file(dataset.split_by, variant)
    ranked.parent.mkdir(parents=True, exist_ok=True)
    save_object(ranked, candidates)
    return unreadable


def _scores(store: Store, dataset: Dataset) -> dict[str, tuple[str, list[float]]]:
    """row_id -> (key of the scored proposals, one score for each); empty if there are no scores."""
    reader = store.stage("scores").reader()
    if not reader.exists:
        return {}
    table = reader.read(["row_id", "proposals_key", "scores"])
    values = (table[name].to_pylist() for name in ("row_id", "proposals_key", "scores"))
    return {row: (key, score) for row, key, score in zip(*values, strict=True)}


def _kept(row: ProposalRow, done: Exported) -> list[int]:
    """Which of the row's masks are among the 40, in the store's order: the largest if there are more."""
    areas = [mask["area"] for mask in row["masks"]]
    done.note("masks beyond the 40 largest of an image: left out", max(0, len(areas) - MASKS))
    return sorted(sorted(range(len(areas)), key=lambda at: (-areas[at], at))[:MASKS])


def _array(row: ProposalRow, kept: list[int], side: int | None) -> npt.NDArray[np.uint8]:
    """(40, H, W) uint8; for an image that could not be read, H = W = 1 and all is zero."""
    from prep.masks import rle

    height, width = row["height"] or 1, row["width"] or 1
    shrink = min(1.0, side / max(height, width)) if side else 1.0
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    picked = np.ix_(np.arange(rows) * height // rows, np.arange(columns) * width // columns)
    array = np.zeros((MASKS, rows, columns), np.uint8)
    for at, index in enumerate(kept):
        array[at] = rle.decode_counts(row["masks"][index]["counts"], height, width)[picked]
    return array


def _candidate(file: str, ranks: list[npt.NDArray[np.float32]], real: int) -> dict[str, object]:
    """The entry of one reference, from a ranking of 40 for each sentence, of which the first ``real`` are
    masks.
    """
    entry: dict[str, object] = {"sam_mask_path": file, "clip_score": ranks}
    for size in CANDIDATES:
        chosen = []
        for rank in ranks:
            vector = np.zeros(MASKS, np.int64)
            vector[np.argsort(-rank, kind="stable")[: min(size, real)]] = 1
            chosen.append(vector)
        entry[f"candidate_{size}"] = chosen
    return entry


def _ranking(
    row: ProposalRow,
    kept: list[int],
    sentence: Expression,
    scores: dict[str, tuple[str, list[float]]],
    store: str,
    done: Exported,
) -> npt.NDArray[np.float32]:
    """(40,) scores, higher is better; padding is below every mask."""
    if sentence.row_id in scores:
        key, values = scores[sentence.row_id]
        if key != row["key"] or len(values) != len(row["masks"]):
            problem = f"{row['image']}: the scores belong to other proposals than the store's."
            raise PrepError(problem, f"Run: pcnet-prep score --store {shlex.quote(store)}")
    else:
        done.note("sentences without scores: their masks are ranked by area", 1 if scores else 0)
        pixels = (row["height"] or 1) * (row["width"] or 1)
        values = [mask["area"] / pixels for mask in row["masks"]]
    lowest = min([0.0, *values])
    # Twice the lowest: in float32, a large number minus 1 is the same number.
    rank = np.full(MASKS, lowest - max(1.0, -lowest), np.float32)
    rank[: len(kept)] = [values[at] for at in kept]
    return rank
