"""Checks that the JSON of a manifest holds what this program writes there, before anything reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from prep.cache.keys import canonical_json

Kind = tuple[str, Callable[[Any], bool]]

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
    lambda value: type(value) in (int, float) and math.isfinite(value) and 0 <= value < MOST,
)
DIGEST: Kind = "a SHA-256", lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value))

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


def check_manifest(value: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError, with the name of the field, unless a manifest's JSON is one of ours.

    What commands and stages record themselves (``settings``, ``arguments``, ``report``) may be any object.
    """
    check_fields(value, MANIFEST_FIELDS, "the manifest")
    for name, entry in value["finished"].items():
        check_fields(entry, FINISHED_FIELDS, f"finished {name[:16]}")
        check_fields({"failed": entry.get("failed", 0)}, {"failed": COUNT}, f"finished {name[:16]}")
    for number, run in enumerate(value["runs"]):
        given = RUN_FIELDS.keys() & (run if isinstance(run, dict) else ())
        check_fields(run, {name: RUN_FIELDS[name] for name in sorted(given)}, f"run {number}")
    for name, source in value.get("sources", {}).items():
        check_fields(source, SOURCE_FIELDS, f"the source {name}")
    canonical_json(value["settings"])  # NaN has no place in what is hashed
    others = {name: part for name, part in value.items() if name != "shards"}
    json.dumps(others, ensure_ascii=False).encode()  # a lone surrogate is a ValueError: nothing can show it


def check_fields(entry: Any, fields: Mapping[str, Kind], where: str) -> None:
    """Raise ValueError or KeyError unless ``entry`` is an object that has these fields, each of its kind."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not an object")
    for name, (told, holds) in fields.items():
        if not holds(entry[name]):
            raise ValueError(f"{name} of {where} is not {told}")
