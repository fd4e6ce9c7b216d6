"""Makes the columns of a table's schema, and lists them with what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa


def column(
    name: str, kind: pa.DataType, meaning: str, *, nullable: bool = True, unit: str = "", frame: str = ""
) -> pa.Field:
    """A column with its ``description``, ``unit`` and coordinate ``frame``, as Parquet field metadata."""
    told = {"description": meaning, "unit": unit, "frame": frame}
    return pa.field(name, kind, nullable, metadata={key: text for key, text in told.items() if text})


class Described(NamedTuple):
    """A column, or a field of the structs in one (``masks.area``): its Arrow type and what it means."""

    name: str
    type: str
    unit: str
    frame: str
    meaning: str


def described(schema: pa.Schema | pa.DataType, within: str = "") -> Iterator[Described]:
    """Every column of a schema, each followed by the fields of its structs. Texts are empty if not given."""
    for field in schema:
        told = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        is_struct = pa.types.is_struct(inner)
        shown = str(field.type) if not is_struct else "list of structs" if inner != field.type else "struct"
        name = f"{within}{field.name}"
        yield Described(name, shown, told.get("unit", ""), told.get("frame", ""), told.get("description", ""))
        if is_struct:
            yield from described(inner, f"{name}.")


def column_table(schema: pa.Schema) -> str:
    """The columns of a schema as a Markdown table."""
    lines = ["| column | type | unit and frame | meaning |", "|---|---|---|---|"]
    for one in described(schema):
        kind = re.sub(r"list<\w+: (.+)>", r"list of \1", one.type)
        place = "; ".join(filter(None, (one.unit, one.frame)))
        lines.append(f"| `{one.name}` | {kind} | {place} | {one.meaning} |")
    return "\n".join(lines)
