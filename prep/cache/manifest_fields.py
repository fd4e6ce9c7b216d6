"""Checks that the JSON of a manifest holds what this program writes there, before anything reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict, cast

from prep.cache.keys import canonical_json

Kind = tuple[str, Callable[[object], bool]]

MOST = 1 << 53  # what JSON's readers agree on, and far beyond any count of rows or bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")

TEXT: Kind = "text", lambda value: isinstance(value, str)
OBJECT: Kind = "an object", lambda value: isinstance(value, dict)
TEXTS: Kind = (
    "an object of texts",
    lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
)
LIST: Kind = "a list", lambda value: isinstance(value, list)
FLAG: Kind = "true or false", lambda value: isinstance(value, bool)
COUNT: Kind = "a count", lambda value: type(value) is int and 0 <= value < MOST
NUMBER: Kind = (
    "a number",
    lambda value: (type(value) is int or type(value) is float) and math.isfinite(value) and 0 <= value < MOST,
)
DIGEST: Kind = "a SHA-256", lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value))


class ShardEntry(TypedDict):
    """A shard as the manifest lists it."""

    name: str
    sha256: str
    rows: int
    bytes: int


class SourceEntry(TypedDict):
    """A source of rows as the manifest lists it (:class:`prep.cache.sources.Origin`)."""

    place: str
    root: str
    inputs: dict[str, str]
    keeps_missing: bool


class FinishedEntry(TypedDict):
    """A selection whose rows a run has finished; version 0.1.0 does not record ``failed``."""

    selection: dict[str, object]
    rows: int
    failed: NotRequired[int]
    at: NotRequired[str]


class RunEntry(TypedDict, total=False):
    """A run as the manifest lists it; ``arguments`` and ``report`` are what commands and stages record."""

    rows: int
    failed: int
    reused: int
    first_rows: int
    workers: int
    seconds: float
    first_seconds: float
    rate: float
    at: str
    arguments: dict[str, object]
    report: dict[str, object]


class LedgerEntry(TypedDict):
    """The JSON of an entry of the ledger: the shards that one commit added, and the names of the removed."""

    generation: str
    shards: list[ShardEntry]
    removed: list[str]


class ManifestEntry(TypedDict):
    """The JSON of a manifest."""

    stage: str
    settings: dict[str, object]
    generation: str
    created: str
    versions: dict[str, str]
    inputs: dict[str, str]
    shards: list[ShardEntry]
    finished: dict[str, FinishedEntry]
    runs: list[RunEntry]
    sources: NotRequired[dict[str, SourceEntry]]
    folded: int


MANIFEST_FIELDS = {
    "stage": TEXT,
    "settings": OBJECT,
    "generation": TEXT,
    "created": TEXT,
    "versions": TEXTS,
    "inputs": TEXTS,
    "shards": LIST,
    "finished": OBJECT,
    "runs": LIST,
    "folded": COUNT,
}
SHARD_FIELDS = {"name": TEXT, "sha256": DIGEST, "rows": COUNT, "bytes": COUNT}
SOURCE_FIELDS = {"place": TEXT, "root": TEXT, "inputs": TEXTS, "keeps_missing": FLAG}
FINISHED_FIELDS = {"selection": OBJECT, "rows": COUNT}
# Of a run, any of them may be missing.
RUN_FIELDS = {
    **dict.fromkeys(("rows", "failed", "reused", "first_rows", "workers"), COUNT),
    **dict.fromkeys(("seconds", "first_seconds", "rate"), NUMBER),
    "at": TEXT,
    "arguments": OBJECT,
    "report": OBJECT,
}


def checked_json(value: object) -> ManifestEntry:
    """A manifest's JSON. Raises ValueError or KeyError, with the name of the field, unless it is one of ours;
    the shards are checked where they are read.

    What commands and stages record themselves (``settings``, ``arguments``, ``report``) may be any object.
    """
    check_fields(value, MANIFEST_FIELDS, "the manifest")
    checked = cast("ManifestEntry", value)
    for name, entry in checked["finished"].items():
        check_fields(entry, FINISHED_FIELDS, f"finished {name[:16]}")
        check_fields({"failed": entry.get("failed", 0)}, {"failed": COUNT}, f"finished {name[:16]}")
    for number, run in enumerate(checked["runs"]):
        given = RUN_FIELDS.keys() & (run if isinstance(run, dict) else ())
        check_fields(run, {name: RUN_FIELDS[name] for name in sorted(given)}, f"run {number}")
    for name, source in checked.get("sources", {}).items():
        check_fields(source, SOURCE_FIELDS, f"the source {name}")
    canonical_json(checked["settings"])  # NaN has no place in what is hashed
    others = {name: part for name, part in checked.items() if name != "shards"}
    json.dumps(others, ensure_ascii=False).encode()  # a lone surrogate is a ValueError: nothing can show it
    return checked


def check_fields(entry: object, fields: Mapping[str, Kind], where: str) -> None:
    """Raise ValueError or KeyError unless ``entry`` is an object that has these fields, each of its kind."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not an object")
    for name, (told, holds) in fields.items():
        if not holds(entry[name]):
            raise ValueError(f"{name} of {where} is not {told}")
