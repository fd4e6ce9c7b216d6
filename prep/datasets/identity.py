"""Assigns identities to the expressions of a dataset, independently of the format they were read from."""

from __future__ import annotations

import html.entities
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from prep.cache.keys import normalise_text, row_id
from prep.datasets.ordinals import Ordinals
from prep.errors import PrepError
from prep.records import Expression, ImageRef, in_splits

# Rows are numbered in batches: large enough for numpy to be efficient, small enough to stream.
BATCH = 4096
SPLIT_ORDER = ("train", "val", "test", "testA", "testB", "testC")


class Draft(NamedTuple):
    """An expression before its identity is computed; ``place`` lets its reader find it again."""

    dataset: str
    split_by: str
    split: str
    ref_id: int | None
    sent_id: int | None
    image_id: int | None
    image: str | None
    text: str
    problem: str = ""
    place: int = -1


def clean_text(value: str) -> str:
    """``value`` as text that any Parquet reader accepts: lone surrogates and NUL become U+FFFD."""
    if value.isascii() and "\0" not in value:
        return value
    return re.sub("[\ud800-\udfff\0]", "\ufffd", value)


# The tags that web pages wrap around words, not any `<...>`.
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|font|h[1-6]|i|img|li|ol|p|s|small|span|strong|sub|sup|table|td|tr|u|ul)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def expression_text(value: str) -> str:
    """The text of an expression as a reader sees it: HTML entities are decoded, tags become spaces.

    CLIP's tokenizer decodes entities too, twice, as some tools encode them twice.
    """
    for _ in range(2):
        if "&" in value:
            value = _ENTITY.sub(lambda found: _character(found[0]), value)
    return clean_text(_TAG.sub(" ", value).strip() if _TAG.search(value) else value)


def _character(entity: str) -> str:
    """What an entity stands for; the entity itself if that is not a character."""
    name = entity[1:]
    found = html.unescape(entity) if name.startswith("#") else html.entities.html5.get(name, "\ufffd")
    return entity if found in ("", "\ufffd") else found


def text_problem(text: str) -> str:
    """Why ``text`` cannot be an expression, or an empty string."""
    return "" if normalise_text(text.replace("\ufffd", " ")) else "the expression is empty"


def identify(drafts: Iterable[Draft]) -> Iterator[tuple[Draft, str]]:
    """Each draft with its ``row_id``; drafts that differ only in the split are numbered in order."""
    ordinals, stream = Ordinals(), iter(drafts)
    while batch := list(islice(stream, BATCH)):
        ids = [_row_id(draft, 0) for draft in batch]
        for draft, first, ordinal in zip(
            batch, ids, ordinals.assign([int(each[:16], 16) for each in ids]), strict=True
        ):
            yield draft, _row_id(draft, ordinal) if ordinal else first


def _row_id(draft: Draft, ordinal: int) -> str:
    return row_id(
        draft.dataset, draft.split_by, draft.ref_id, draft.sent_id, draft.image, draft.text, ordinal
    )


def expressions(drafts: Iterable[Draft], splits: Collection[str] | None) -> Iterator[Expression]:
    """The expressions of ``splits`` (None: all); correct row IDs require ``drafts`` of the whole dataset."""
    for draft, identity in identify(drafts):
        if splits is None or in_splits(draft.split, splits):
            yield Expression(identity, *draft[:9])


def images(pairs: Iterable[tuple[str, int | None]], path_of: Callable[[str], str]) -> Iterator[ImageRef]:
    """Each image of ``(image, image_id)`` pairs once, in order of first appearance."""
    ordinals, stream = Ordinals(), iter(pairs)
    while batch := list(islice(stream, BATCH)):
        again = ordinals.assign([_hash(image) for image, _ in batch])
        for (image, image_id), seen in zip(batch, again, strict=True):
            if not seen:
                yield ImageRef(image, image_id, path_of(image))


def _hash(text: str) -> int:
    return int(row_id("", "", None, None, text, "", 0)[:16], 16)


def ordered(splits: Iterable[str]) -> list[str]:
    """Split names in the usual order: train, val, the test sets, then any other."""
    known = {name: at for at, name in enumerate(SPLIT_ORDER)}
    return sorted(set(splits), key=lambda name: (known.get(name, len(known)), name))


def check_splits(wanted: Collection[str] | None, there: Collection[str], where: str) -> None:
    """Reject a split without rows."""
    for name in wanted or ():
        if not any(in_splits(split, (name,)) for split in there):
            raise PrepError(
                f"There is no split {name!r} in {where}.",
                f"Choose one of its splits: {', '.join(ordered(there)) or 'none, it has no rows'}.",
            )
