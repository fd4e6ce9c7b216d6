"""A manifest from somebody else: whatever kind of value a field has, readers raise nothing but our error."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prep.cache.card import require_card
from prep.cache.maintain import status
from prep.cache.row_checks import CHECKS
from prep.cache.schema import SCORES
from prep.cache.sources import Origin
from prep.cache.store import open_store
from prep.cache.verify import verify
from prep.engine.plan import plan
from prep.errors import PrepError
from prep.pages.store_data import stages
from tests.prep.toy import item, row

RUN = {
    **dict.fromkeys(("failed", "reused", "first_rows", "workers"), 1), "rows": 2000, "rate": 0.5,
    **dict.fromkeys(("seconds", "first_seconds"), 2.5), "arguments": {"command": "score"}, "report": {},
}  # fmt: skip
ODD: list[Any] = [
    None,
    1,
    -1,
    1.5,
    1e300,
    float("nan"),
    10**40,
    "x",
    "../../x",
    "\ud800",
    [],
    {},
    [None],
    True,
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, but only the first item of each list."""
    if at:
        yield at
    parts = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, part in parts:
        yield from places(part, (*at, key))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    import pyarrow as pa

    with open_store(tmp_path / "st", create=True).stage("scores").writer({"toy": {"a": 1}}) as writer:
        writer.write(pa.Table.from_pylist([row(item(1))], schema=SCORES))
        writer.record_run(RUN)
        writer.manifest.inputs = {"a.json": "f" * 64}
        origin = Origin("mine", ("mine", ""), "/nowhere/mine.jsonl", "/nowhere", {"mine.jsonl": "f" * 64})
        writer.manifest.sources = {"mine": origin.entry(False)}
        writer.finish({"n": 1}, 1)
    return tmp_path / "st" / "_state" / "scores" / "manifest.json"


def read_all(folder: Path) -> None:
    store = open_store(folder)
    told = [status(store), verify(store, CHECKS), plan(store, "scores", 10, 1), stages(store)]
    json.dumps(told, default=vars).encode()
    require_card(store)
    with store.stage("scores").writer({"toy": {"a": 1}}):
        pass


def test_a_good_manifest_is_read_and_shown(manifest: Path) -> None:
    before = json.loads(manifest.read_text())
    read_all(manifest.parents[2])
    assert json.loads(manifest.read_text()) == before


@pytest.mark.slow
def test_odd_values_raise_nothing_but_our_error(manifest: Path) -> None:
    good = json.loads(manifest.read_text())
    refused = 0
    for place in places(good):
        for odd in ODD:
            changed = copy.deepcopy(good)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            manifest.write_text(json.dumps(changed))
            try:
                read_all(manifest.parents[2])
            except PrepError:
                refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("place", "odd", "told"),
    [
        (("shards", 0, "rows"), "12", "rows of a shard is not a count"),
        (("shards", 0, "bytes"), -1, "bytes of a shard is not a count"),
        (("shards", 0, "rows"), True, "rows of a shard is not a count"),
        (("shards", 0, "rows"), 1 << 53, "rows of a shard is not a count"),
        (("shards", 0, "sha256"), "../x", "sha256 of a shard is not a SHA-256"),
        (("runs", 0, "seconds"), float("inf"), "seconds of run 0 is not a number"),
        (("runs", 0), [], "run 0 is not an object"),
        (("versions", "numpy"), None, "versions of the manifest is not an object of texts"),
        (("sources", "mine", "keeps_missing"), 1, "keeps_missing of the source mine is not true or false"),
        (("folded",), 1.0, "folded of the manifest is not a count"),
    ],
)
def test_the_field_is_named(manifest: Path, place: tuple[Any, ...], odd: Any, told: str) -> None:
    value = json.loads(manifest.read_text())
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    manifest.write_text(json.dumps(value))
    with pytest.raises(PrepError, match=told) as error:
        open_store(manifest.parents[2]).stage("scores").reader()
    assert "--repair` to rebuild it from the shards" in error.value.remedy
