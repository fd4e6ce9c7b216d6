"""Attaches metadata to the rows of a unit: the files it read, and statistics on how masks were computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_NOTES = b"notes"


def noted(rows: pa.Table, seen: Sequence[str], account: Mapping[str, Any]) -> pa.Table:
    """``rows`` with metadata that is attached to the table and not stored.

    ``seen`` are the :func:`prep.cache.keys.seen_key` of the files read, ``account`` is
    :meth:`prep.proposals.sam.fidelity.Account.to_json`.
    """
    return rows.replace_schema_metadata({_NOTES: json.dumps({"seen": list(seen), "account": account})})


def notes_of(rows: pa.Table) -> tuple[list[str], dict[str, Any]]:
    """The ``seen`` and ``account`` of a table that :func:`noted` made; empty for any other."""
    notes = json.loads((rows.schema.metadata or {}).get(_NOTES, b"{}"))
    return notes.get("seen", []), notes.get("account", {})
