"""The layout `croissant`: ``croissant.json`` in the store's folder describes every table and column.

Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html); read by mlcroissant. A mask is
a repeated field with subfields, its run lengths among them: a text that ``pycocotools.mask.decode`` takes.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow as pa

from prep.cache.schema import ROW_OF, STAGES
from prep.errors import PrepError
from prep.exports.output import Exported
from prep.exports.request import Request

NAME = "croissant.json"
# Each name of the vocabulary and its term, as the specification has them.
_TERMS = (
    "citeAs column data dataType examples extract field fileProperty fileObject fileSet format includes "
    "isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform equivalentProperty"
)
CONTEXT: dict[str, object] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


def export(request: Request) -> Exported:
    """Write ``croissant.json``; its file patterns are relative to the store, so it goes there."""
    uri = request.store.uri
    if "://" in uri:
        raise PrepError(f"{uri} is not a local folder.", "Copy the store to one and export that.")
    if Path(uri).resolve() != request.to.resolve():
        place = shlex.quote(uri)
        raise PrepError(
            f"The croissant.json of {uri} belongs in that folder, not in {request.to}.",
            f"Run: pcnet-prep export {place} --store {place} --layout croissant",
        )
    done = Exported(request.layout, request.to)
    output = request.output(done)
    tables = request.store.stages()
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": request.to.resolve().name or "store",
        "description": "Phrases, mask proposals and scores of referring expressions, written by pcnet-prep.",
        "distribution": [_files(table) for table in tables],
        "recordSet": [_record_set(table) for table in tables],
    }
    done.count("tables", len(tables))
    done.count("columns", sum(len(STAGES[table][0].names) for table in tables))
    output.put(NAME, json.dumps(content, indent=1).encode())
    return output.finish()


def _files(table: str) -> dict[str, object]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{table}-files",
        "name": f"{table}-files",
        "description": f"The Parquet files of the table {table}.",
        "encodingFormat": "application/x-parquet",
        "includes": f"{table}/*.parquet",
    }


def _record_set(table: str) -> dict[str, object]:
    schema, key = STAGES[table]
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": f"Each row is {ROW_OF[table]}.",
        "key": {"@id": f"{table}/{key}"},
        "field": [_field(f"{table}/{field.name}", field, table, field.name) for field in schema],
    }


def _field(path: str, field: pa.Field, table: str, column: str, inner: str = "") -> dict[str, object]:
    """The description of a column, or of the part ``inner`` of it, a JSON path."""
    source: dict[str, object] = {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": column}}
    if inner:
        source["transform"] = {"jsonPath": inner}
    made: dict[str, object] = {
        "@type": "cr:Field",
        "@id": path,
        "name": path.partition("/")[2],
        "description": _meaning(field),
        "source": source,
    }
    kind = field.type
    if pa.types.is_list(kind):
        made["repeated"] = True
        kind = kind.value_type
    if pa.types.is_struct(kind):
        parts = [kind.field(at) for at in range(kind.num_fields)]
        made["subField"] = [_field(f"{path}/{part.name}", part, table, column, part.name) for part in parts]
    else:
        made["dataType"] = _data_type(kind)
    return made


def _meaning(field: pa.Field) -> str:
    """A column's description, with its unit and coordinate frame, as the schema has them."""
    told = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
    return "; ".join(told[part] for part in ("description", "unit", "frame") if part in told)


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
