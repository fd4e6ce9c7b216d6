"""Every column has a meaning, which the shards and docs/store.md carry; shards without it are still read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.cache.columns import column_table, described
from prep.cache.compact import compact
from prep.cache.schema import PROPOSALS, ROW_OF, SCORES, STAGES
from prep.cache.store import open_store
from prep.cache.verify import verify
from tests.command_pages import STORE_PAGE, store_page
from tests.prep.toy import item, row


@pytest.mark.parametrize("name", STAGES)
def test_no_column_is_undocumented(name: str) -> None:
    columns = list(described(STAGES[name][0]))
    assert [one.name for one in columns if len(one.meaning) < 10] == []
    assert len({one.name for one in columns}) == len(columns)
    assert name in ROW_OF
    assert column_table(STAGES[name][0]).count("\n") == len(columns) + 1


def test_fields_of_structs_are_columns_of_their_own_with_unit_and_frame() -> None:
    columns = {one.name: one for one in described(PROPOSALS)}
    assert columns["masks"].type == "list of structs"
    assert columns["masks.bbox"].unit == "pixels"
    assert columns["masks.bbox"].frame.startswith("stored image, origin top left")
    lengths = {"height", "width", "masks.area", "masks.bbox", "masks.point", "masks.crop_box"}
    assert {name for name, one in columns.items() if one.unit == "pixels"} == lengths


def test_the_page_of_the_columns_is_up_to_date() -> None:
    assert STORE_PAGE.read_text(encoding="utf-8") == store_page(), "Run `make layout`."


def test_shards_carry_the_meanings_and_mix_with_shards_that_do_not(tmp_path: Path) -> None:
    stage = open_store(tmp_path / "st", create=True).stage("scores")
    plain = pa.schema([field.remove_metadata() for field in SCORES])
    rows = [pa.Table.from_pylist([row(item(number))], schema=plain) for number in range(3)]
    stage.schema = plain
    for table in rows[:2]:
        with stage.writer({}) as writer:
            writer.write(table)
    stage.schema = SCORES
    with stage.writer({}) as writer:
        writer.write(rows[2])
    kept = {
        file.name: (pq.read_schema(file).field("scores").metadata or {}).get(b"description")
        for file in (tmp_path / "st" / "scores").glob("*.parquet")
    }
    assert sorted(map(bool, kept.values())) == [False, False, True]
    assert SCORES.field("scores").metadata[b"description"] in kept.values()
    assert stage.reader().read().num_rows == 3
    assert verify(open_store(tmp_path / "st")).problems == []
    compact(open_store(tmp_path / "st"))
    (file,) = (tmp_path / "st" / "scores").glob("*.parquet")
    assert pq.read_schema(file).field("scores").metadata == SCORES.field("scores").metadata
    wanted = sorted((one for table in rows for one in table.to_pylist()), key=lambda one: one["row_id"])
    assert sorted(pq.read_table(file).to_pylist(), key=lambda one: one["row_id"]) == wanted
