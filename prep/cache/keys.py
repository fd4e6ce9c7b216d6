"""Computes row identities and content keys, as hashes of content that do not depend on location."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring as quoted

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def canonical_json(value: object) -> str:
    """``value`` as JSON with sorted keys and no spaces, so that equal settings give equal text."""
    return _CANONICAL(value)


def fingerprint(settings: Mapping[str, object]) -> str:
    """SHA-256 (64 hex digits) of a mapping's canonical JSON."""
    return hashlib.sha256(canonical_json(settings).encode("utf-8", "surrogatepass")).hexdigest()


_ROW_ID = re.compile(r"[0-9a-f]{32}")


def is_row_id(text: str) -> bool:
    """Whether a text is as :func:`row_id` makes it, so that a file may have its name."""
    return bool(_ROW_ID.fullmatch(text))


def row_id(
    dataset: str,
    split_by: str,
    ref_id: int | None,
    sent_id: int | None,
    image: str | None,
    text: str,
    ordinal: int,
) -> str:
    """The identity of an expression (32 hex digits).

    ``ordinal`` numbers the entries of a dataset that are otherwise equal (0 for the first), so that data
    without ids has one identity per entry. The split is not included, so an expression keeps its identity if
    the data is split again.
    """
    # The canonical JSON of the list of these values, several times faster.
    ref, sent = "null" if ref_id is None else ref_id, "null" if sent_id is None else sent_id
    parts = (
        f"[{quoted(dataset)},{quoted(split_by)},{ref},{sent},"
        f"{'null' if image is None else quoted(image)},{quoted(text)},{ordinal}]"
    )
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def concept_id(image: str, phrase: str) -> str:
    """The identity of an image and a target noun phrase (32 hex digits), both as in the phrases table."""
    parts = canonical_json([image, phrase])
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@lru_cache(maxsize=16)  # several steps in a row ask for the same text
def normalise_text(text: str) -> str:
    """An expression as engines read it: NFC, control characters as spaces, white space collapsed,
    lower case.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    composed = unicodedata.normalize("NFC", text)
    printable = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") else c for c in composed)
    return " ".join(printable.lower().split())


def answer_key(settings_fingerprint: str, text: str) -> str:
    """The content key of an engine's response (64 hex digits), from the settings and the normalised text
    only.
    """
    joined = f"{settings_fingerprint}\n{normalise_text(text)}"
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def stat_key(image: str, size: int, mtime_ns: int, sha256: str | None) -> str:
    """The key under which a read file is recorded (32 hex digits): its name, size, modification time and
    hash.

    The hash is included, so an old entry never matches a row made from other bytes.
    """
    text = f"{image}\n{size}\n{mtime_ns}\n{sha256 or ''}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
