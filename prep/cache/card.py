"""Writes a store's data card, README.md: what its tables hold, where they come from, and how to load them."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.columns import column_table
from prep.cache.schema import ROW_OF
from prep.display import shown, without_secrets
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store

CARD = "README.md"
MAX_CARD = 1 << 20
BEGIN = "<!-- pcnet-prep writes this part: what is added above or below it stays -->"
END = "<!-- pcnet-prep: end of its part -->"

# Where the datasets say what may be done with them; nobody but the reader can decide what follows from it.
_REFER = "annotations: Apache-2.0, as the REFER toolkit states (github.com/lichengunc/refer)"
_COCO = "images: MS COCO's, which belong to their owners on Flickr; COCO's annotations: CC BY 4.0"
LICENCES = {
    "refcoco": f"{_REFER}; {_COCO}",
    "refcoco+": f"{_REFER}; {_COCO}",
    "refcocog": f"{_REFER}; {_COCO}",
    "refclef": f"{_REFER}; images: those of SAIAPR TC-12, see its own terms (imageclef.org/SIAPRdata)",
    "grefcoco": f"annotations: see github.com/henghuiding/gRefCOCO; {_COCO}",
}
_UNKNOWN = "not known to this program: state it here below, and as `license:` at the top of this file"


def write_card(store: Store) -> bool:
    """Write or update README.md of a store; whether that was possible.

    Everything outside our own part stays: text above and below it, and every entry of the front matter but
    ``configs``. A README.md without our part, or whose front matter cannot be read, is somebody's own and is
    left as it is.
    """
    size = store.files.sizes().get(CARD)
    try:
        before = "" if size is None else _text(store, size)
        after = card(store, before)
    except ValueError:
        return False
    if after != before:
        store.files.write(CARD, after.encode("utf-8"))
    return True


def _text(store: Store, size: int) -> str:
    if size > MAX_CARD:
        raise ValueError(f"{size} bytes are no card of ours")
    return store.files.read(CARD).decode("utf-8")


def card(store: Store, before: str = "") -> str:
    """The text of README.md: YAML front matter and Markdown; ``before`` is the text that it replaces.

    Raises ``ValueError`` if ``before`` is not a card of ours.
    """
    import yaml

    head, above, below = _parts(before)
    readers = [store.stage(name).reader() for name in store.stages()]
    configs: list[dict[str, object]] = [
        {"config_name": name, "data_files": f"{name}/*.parquet"}
        for name in (reader.stage.name for reader in readers if reader.num_rows)
    ]
    for first in configs[:1]:
        first["default"] = True
    front = yaml.safe_dump({**head, "configs": configs}, sort_keys=False, allow_unicode=True)
    body = "\n\n".join(_sections(readers))
    return f"---\n{front}---\n{above}{BEGIN}\n\n{body}\n\n{END}{below}"


def _parts(before: str) -> tuple[dict[str, object], str, str]:
    """The front matter of a card and what stands above and below our part of it."""
    import yaml

    if not before:
        return {}, "\n", "\n"
    fence, front, rest = before.split("---\n", 2) if before.startswith("---\n") else ("", "", before)
    above, begin, _ = rest.partition(BEGIN)
    _, end, below = rest.partition(END)
    if fence or not (begin and end):
        raise ValueError("no part of it is ours")
    try:
        head = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise ValueError("its front matter is not YAML") from error
    if not isinstance(head, dict):
        raise ValueError("its front matter is not a mapping")
    return head, above, below


def _sections(readers: list[StageReader]) -> Iterator[str]:
    yield "# Prepared data for weakly supervised referring segmentation"
    yield (
        "Referring expressions decomposed into short phrases or relations, class-agnostic masks of the "
        "images, and scores of one against the other, made with pcnet-prep. Images are not included: rows "
        "name them by path."
    )
    rows = ["| table | a row is | rows | made |", "|---|---|---:|---|"]
    for reader in readers:
        statuses = ", ".join(f"{count:,} {name}" for name, count in sorted(reader.statuses().items()))
        total = f"{reader.num_rows:,}{f' ({statuses})' if statuses else ''}"
        rows.append(f"| `{reader.stage.name}` | {ROW_OF[reader.stage.name]} | {total} | {_made(reader)} |")
    yield "\n".join(rows)
    yield "## Load it\n\n" + _examples(readers)
    yield "## Where it comes from\n\n" + "\n".join(_sources(readers))
    for reader in readers:
        yield f"## `{reader.stage.name}`"
        if counts := _split_counts(reader):
            yield counts
        yield "Settings:\n\n```json\n" + _json(reader.settings) + "\n```"
        yield column_table(reader.stage.schema)


def _made(reader: StageReader) -> str:
    assert reader.manifest is not None
    version = reader.manifest.versions.get("pcnet-prep", "")
    return f"{reader.manifest.created[:10]}, pcnet-prep {_cell(version)}"


def _examples(readers: list[StageReader]) -> str:
    name = next((reader.stage.name for reader in readers if reader.num_rows), "phrases")
    lines = [
        "```python",
        "import datasets, polars",
        f'datasets.load_dataset("prepared", "{name}")["train"]  # all rows of all splits',
        f'polars.read_parquet("prepared/{name}")',
        "```",
        "",
        "`prepared` is this folder, or the repository's name on the Hub. Masks are COCO run lengths, which "
        "`pycocotools.mask.decode({'size': [height, width], 'counts': counts})` decodes.",
    ]
    return "\n".join(lines)


def _sources(readers: list[StageReader]) -> Iterator[str]:
    """The sources of all tables: names and hashes, but no folders of the machine that made them."""
    yield "| table | source | files (SHA-256) | licence of the source |"
    yield "|---|---|---|---|"
    for reader in readers:
        assert reader.manifest is not None
        for name, source in sorted(reader.manifest.sources.items()):
            digests = sorted(source["inputs"].items())
            files = ", ".join(f"{file} ({digest[:16]}...)" for file, digest in digests)
            named = posixpath.basename(name) if posixpath.isabs(name) else name
            licence = LICENCES.get(name.partition("/")[0], _UNKNOWN)
            yield f"| `{reader.stage.name}` | {_cell(named)} | {_cell(files)} | {licence} |"


def _split_counts(reader: StageReader) -> str:
    """The number of expressions of each dataset and split, as a Markdown table."""
    if reader.stage.name not in ("phrases", "triplets") or not reader.num_rows:
        return ""
    keys = ["dataset", "split_by", "split"]
    counts: Counter[tuple[str, ...]] = Counter()
    for batch in reader.batches(keys):  # a table of 10^7 rows does not fit in memory
        groups = pa.table(batch).group_by(keys).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            counts[tuple(row[key] for key in keys)] += row["count_all"]
    lines = ["| dataset | split_by | split | expressions |", "|---|---|---|---:|"]
    for names, count in sorted(counts.items()):
        lines.append(f"| {' | '.join(map(_cell, names))} | {count:,} |")
    return "\n".join(lines)


def _json(settings: dict[str, object]) -> str:
    """Settings as JSON that holds no fence of Markdown and no credentials."""
    return without_secrets(json.dumps(settings, indent=1)).replace("`", "\\u0060")


def _cell(text: str) -> str:
    """Text of a dataset in a table's cell: on one line, and without marks of Markdown or HTML."""
    plain = " ".join(shown(text).split())
    for mark in "\\`*_<>[]|&":
        plain = plain.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return plain[:200]


def require_card(store: Store) -> str:
    """:func:`write_card`, or :class:`PrepError` if the file is somebody's own; where it is."""
    if not write_card(store):
        raise PrepError(
            f"{store.files.where(CARD)} was not written by pcnet-prep, or its head is not YAML.",
            "Move the file away and run the command again.",
        )
    return store.files.where(CARD)
