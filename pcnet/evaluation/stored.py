"""Looks up what a store has for one image file and one text: the image's proposals, the text's phrases."""

from __future__ import annotations

from pathlib import Path

from prep.cache.keys import normalise_text
from prep.cache.store import Store
from prep.errors import MissingInputError, PrepError
from prep.images import UnreadableImage, read_bytes
from prep.records import Proposal


def stored_proposals(store: Store, image: str | Path) -> list[Proposal]:
    """The proposals of an image file in ``store``, found by the SHA-256 of its bytes, in the stored order.

    :raises PrepError: if the file cannot be read, or the store has no masks of it.
    """
    import pyarrow.compute as pc

    try:
        sha256 = read_bytes(image).sha256
    except UnreadableImage as error:
        raise PrepError(f"{image}: {str(error).rstrip('.')}.", "Give the path of a photo.") from error
    reader = store.stage("proposals").reader()
    if not reader.exists:
        raise MissingInputError(f"{store.files.uri} has no proposals.", "Run `pcnet-prep sam` first.")
    same = (pc.field("image_sha256") == sha256) & (pc.field("status") != "error")
    rows = reader.read(["masks"], filter=same).to_pylist()
    if not rows:
        raise PrepError(
            f"{store.files.uri} has no proposals of {image}.",
            "Omit --store to generate them, or run `pcnet-prep sam` on the folder of the image.",
        )
    return [Proposal(**mask) for mask in rows[0]["masks"]]


def stored_phrases(store: Store, text: str) -> tuple[str, ...] | None:
    """The phrases of ``text`` in ``store``, in whatever case it is written; ``None`` if it has none."""
    import pyarrow.compute as pc

    reader = store.stage("phrases").reader()
    if not reader.exists:
        return None
    lower = pc.utf8_lower(pc.field("expression"))
    same = (lower == normalise_text(text)) & (pc.field("status") == "ok")
    rows = reader.read(["phrases"], filter=same).to_pylist()
    return tuple(rows[0]["phrases"]) if rows else None
