"""The mask of each reference that a model chose: the best-scored proposal, or an evaluation's masks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from prep.datasets.object_npy import load_object_npy
from prep.errors import PrepError
from prep.exports.output import Exported, digest
from prep.exports.references import Reference, by_image
from prep.exports.request import VERSION, Request, proposal_rows, score_rows
from prep.images import MAX_PIXELS
from prep.masks import rle


class Chosen:
    """The mask of a reference, at the image's size; ``key`` identifies it."""

    def __init__(self, key: str, height: int, width: int, counts: str | None) -> None:
        self.key, self.height, self.width, self._counts = key, height, width, counts

    def mask(self) -> npt.NDArray[np.bool_]:
        """The pixels of the mask, bool (H, W), all False if none was chosen."""
        if self._counts is None:
            return np.zeros((self.height, self.width), bool)
        return rle.decode_counts(self._counts, self.height, self.width)


def chosen_masks(
    request: Request, found: list[Reference], done: Exported
) -> Iterator[tuple[Reference, Chosen]]:
    """The chosen mask of each reference, image by image; references without one are counted."""
    if request.masks in (None, "best"):
        return _best(request, found, done)
    return _evaluated(Path(str(request.masks)), found, done)


def _best(request: Request, found: list[Reference], done: Exported) -> Iterator[tuple[Reference, Chosen]]:
    """The proposal with the highest mean score over the reference's expressions, the first of equal ones.

    An image without a mask gives an empty one, which the readers of these files ignore in training.
    """
    scores, waiting = score_rows(request), by_image(found)
    for row in proposal_rows(request, waiting.keys()):
        members = waiting.pop(row["image"])
        if row["error"] or not row["height"]:
            done.leave_out(f"references of an image without masks: {row['error']}", len(members))
            continue
        for reference in members:
            vectors = []
            for sentence in reference.sentences:
                key, values = scores.get(sentence.row.row_id, (row["key"], None))
                if values is None:
                    continue
                if key != row["key"] or len(values) != len(row["masks"]):
                    raise PrepError(
                        f"{row['image']}: the scores belong to other proposals than the store's.",
                        f"Run: pcnet-prep score --store {shlex.quote(request.store.uri)}",
                    )
                vectors.append(values)
            if not vectors and row["masks"]:
                done.leave_out("references without scores (run pcnet-prep score)")
                continue
            at = int(np.argmax(np.mean(vectors, axis=0))) if row["masks"] else -1
            done.note("references of an image without proposals: their mask is empty", at < 0)
            counts = row["masks"][at]["counts"] if at >= 0 else None
            yield (
                reference,
                Chosen(
                    digest(VERSION, counts, row["height"], row["width"]), row["height"], row["width"], counts
                ),
            )
    done.leave_out("references of an image without proposals in the store", sum(map(len, waiting.values())))


def _evaluated(folder: Path, found: list[Reference], done: Exported) -> Iterator[tuple[Reference, Chosen]]:
    """The pixels in at least half of the masks of a reference's expressions, of which each has a file
    ``<image stem>_<ref>_<sentence>.npy``.
    """
    if not folder.is_dir():
        raise PrepError(
            f"--masks {folder} is neither truth, best nor a folder.",
            "Give the folder that an evaluation wrote with --save-pseudo.",
        )
    for reference in found:
        stem = PurePosixPath(reference.image).stem
        refs = {sentence.row.ref_id for sentence in reference.sentences}
        names = (
            [f"{stem}_{sentence.row.row_id}_0.npy" for sentence in reference.sentences]
            if refs == {None}
            else [f"{stem}_{reference.ref_id}_{at}.npy" for at in range(len(reference.sentences))]
        )
        saved = [mask for name in names if (mask := _saved(folder / name)) is not None]
        if not saved or len({mask.shape for mask in saved}) > 1:
            done.leave_out(f"references without masks of one size in {folder}")
            continue
        height, width = saved[0].shape
        votes = np.stack(saved).sum(axis=0)
        counts = rle.counts_of(np.asarray(2 * votes >= len(saved)))
        yield reference, Chosen(digest(VERSION, counts, height, width), height, width, counts)


def _saved(path: Path) -> npt.NDArray[np.bool_] | None:
    """A saved mask; None if there is no such file or it is not a mask of at most the pixels of an image."""
    try:
        if not path.is_file() or os.path.getsize(path) > MAX_PIXELS + 1024:
            return None
        array = load_object_npy(path)
    except (OSError, PrepError):
        return None
    is_mask = isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "bu"
    return array != 0 if is_mask else None
