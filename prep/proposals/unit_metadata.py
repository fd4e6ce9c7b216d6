"""Attaches metadata to the rows of a unit: the files it read, and statistics on how masks were computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_NOTES = b"notes"


def with_unit_metadata(rows: pa.Table, seen: Sequence[str], account: Mapping[str, object]) -> pa.Table:
    """``rows`` with metadata that is attached to the table and not stored.

    ``seen`` are the :func:`prep.cache.keys.stat_key` of the files read, ``account`` is
    :meth:`prep.proposals.sam.fidelity.ExactnessStats.to_json`.
    """
    return rows.replace_schema_metadata({_NOTES: json.dumps({"seen": list(seen), "account": account})})


def unit_metadata_of(rows: pa.Table) -> tuple[list[str], dict[str, Any]]:
    """The ``seen`` and ``account`` of a table that :func:`with_unit_metadata` made; empty for any other."""
    notes = json.loads((rows.schema.metadata or {}).get(_NOTES, b"{}"))
    return notes.get("seen", []), notes.get("account", {})
