"""The store keeps what is written, exactly once, and says what is wrong with a store it cannot use."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.cache.files import Files, open_files
from prep.cache.schema import PHRASES, PROPOSALS, SCORES, STAGES
from prep.cache.state import HOLDER_FILE, MANIFEST
from prep.cache.store import Store, open_store, read_manifest_file
from prep.errors import PrepError
from tests.prep.toy import expected, item, row


def rows(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(item(number)) for number in numbers], schema=SCORES)


def by_key(table: pa.Table, key: str = "row_id") -> pa.Table:
    return table.combine_chunks().sort_by(key)


def globbed(store: Path, stage: str = "scores") -> list[tuple]:
    """What a reader that knows nothing of us sees."""
    query = f"select row_id from read_parquet('{store}/{stage}/**/*.parquet') order by row_id"
    return duckdb.connect().execute(query).fetchall()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "prepared", create=True)


VALUES = {
    pa.string(): st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    pa.binary(): st.binary(max_size=300),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
}


def value_of(field: pa.Field) -> st.SearchStrategy:
    kind = field.type
    if pa.types.is_list(kind):
        strategy = st.lists(value_of(kind.value_field.with_nullable(False)), max_size=3)
    elif pa.types.is_struct(kind):
        strategy = st.fixed_dictionaries({part.name: value_of(part) for part in kind})
    else:
        strategy = VALUES[kind]
    return st.one_of(st.none(), strategy) if field.nullable else strategy


def rows_of(stage: str) -> st.SearchStrategy:
    schema, key = STAGES[stage]
    one = st.fixed_dictionaries({field.name: value_of(field) for field in schema})
    return st.lists(one, max_size=12, unique_by=lambda value: value[key])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), stage=st.sampled_from(list(STAGES)), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, stage: str, cuts: list[int]
) -> None:
    schema, key = STAGES[stage]
    table = pa.Table.from_pylist(data.draw(rows_of(stage)), schema=schema)
    place = open_store(tmp_path_factory.mktemp("s"), create=True).stage(stage)
    edges = sorted({0, *cuts, table.num_rows})
    with place.writer({"a": 1}, commit_seconds=0) as writer:
        for start, stop in pairwise(edges):
            writer.write(table.slice(start, stop - start))
    reader = place.reader()
    assert reader.read().to_pylist() == table.to_pylist()
    assert reader.num_rows == table.num_rows
    assert reader.keys().contains(table.column(key).to_pylist()).all()
    assert all(batch.schema.names == [key] for batch in reader.batches(columns=[key]))


def test_read_takes_columns_and_a_filter(store: Store) -> None:
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(*range(100)))
    reader = store.stage("scores").reader()
    some = reader.read(columns=["image", "row_id"], filter=pc.field("row_id") == item(7))
    assert some.to_pylist() == [{"image": row(item(7))["image"], "row_id": item(7)}]


def test_a_stage_that_was_never_begun_is_empty(store: Store) -> None:
    reader = store.stage("phrases").reader()
    assert not reader.exists
    assert (reader.num_rows, reader.settings, len(reader.keys())) == (0, {}, 0)
    assert reader.read().schema.equals(PHRASES)


def test_a_place_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="no store at") as error:
        open_store(tmp_path / "nowhere")
    assert "pcnet-prep" in error.value.remedy


def test_a_row_is_refused_the_second_time(store: Store) -> None:
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(1, 2))
        with pytest.raises(ValueError, match=item(2)):
            writer.write(rows(3, 2))
        with pytest.raises(ValueError, match="already exists"):
            writer.write(pa.concat_tables([rows(4), rows(4)]))
    assert store.stage("scores").reader().num_rows in (2, 3)


def test_other_settings_are_refused_with_both_values(store: Store) -> None:
    with store.stage("scores").writer({"model": "a", "crop": {"n": 1, "same": 0}}) as writer:
        writer.write(rows(1))
    with (
        pytest.raises(PrepError) as error,
        store.stage("scores").writer({"model": "b", "crop": {"n": 2, "same": 0}}),
    ):
        pass
    assert "model: the store has 'a', this run has 'b'" in error.value.message
    assert "crop.n: the store has 1, this run has 2" in error.value.message
    assert "same" not in error.value.message
    assert "--store" in error.value.remedy
    assert "--replace" in error.value.remedy
    assert store.stage("scores").reader().num_rows == 1


def test_replace_starts_anew_and_keeps_the_old_rows_in_the_cache(store: Store) -> None:
    from prep.cache.answers import AnswerCache

    with store.stage("scores").writer({"model": "a"}) as writer:
        writer.write(rows(1, 2))
        old = writer.manifest.fingerprint
    with store.stage("scores").writer({"model": "b"}, replace=True, cache=store.cache_uri) as writer:
        writer.write(rows(2, 3))
    assert by_key(store.stage("scores").reader().read()).equals(by_key(rows(2, 3)))
    assert len(globbed(Path(store.uri))) == 2
    retired = AnswerCache(store.cache_uri, "scores", old, SCORES)
    assert len(retired) == 2
    assert retired.get(item(1)) == rows(1).to_pylist()[0]


def test_a_shared_cache_gets_every_shard(store: Store, tmp_path: Path) -> None:
    from prep.cache.answers import AnswerCache

    with store.stage("scores").writer({"m": 1}, cache=tmp_path / "shared", share=True) as writer:
        writer.write(rows(1))
        writer.flush()
        assert len(AnswerCache(tmp_path / "shared", "scores", writer.manifest.fingerprint, SCORES)) == 1


def test_an_unknown_schema_version_is_refused(store: Store) -> None:
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(1))
    path = Path(store.uri) / "_state" / "scores" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(PrepError, match="schema version 99"):
        store.stage("scores").reader()
    with pytest.raises(PrepError, match="schema version 99"):
        read_manifest_file(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', "null"])
def test_a_broken_manifest_is_an_error_for_people(store: Store, text: str) -> None:
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(1))
    (Path(store.uri) / "_state" / "scores" / MANIFEST).write_text(text)
    with pytest.raises(PrepError, match=MANIFEST):
        store.stage("scores").reader()


def test_the_manifest_says_what_the_rows_were_made_with(store: Store) -> None:
    with store.stage("scores").writer({"m": 1}, inputs={"refs.p": "ab"}) as writer:
        writer.write(rows(1, 2))
    with store.stage("scores").writer({"m": 1}, inputs={"more.p": "cd"}) as writer:
        writer.finish({"split": "val"}, 2)
        writer.record_run({"rows": 2, "rate": 5.0})
    manifest = read_manifest_file(Path(store.uri) / "_state" / "scores" / MANIFEST)
    assert manifest.settings == {"m": 1}
    assert manifest.inputs == {"refs.p": "ab", "more.p": "cd"}
    assert manifest.versions["pyarrow"] == pa.__version__
    assert manifest.runs[-1]["rate"] == 5.0
    assert [shard.rows for shard in manifest.shards.values()] == [2]
    with store.stage("scores").writer({"m": 1}) as writer:
        assert writer.finished({"split": "val"})
        assert not writer.finished({"split": "test"})


def committed(store: Store, *numbers: int) -> tuple[Path, str]:
    """A stage with these rows in one shard; its folder and the shard's name."""
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(*numbers))
    reader = store.stage("scores").reader()
    assert reader.manifest is not None
    return Path(store.uri) / "scores", list(reader.manifest.shards)[-1]


def unlist(folder: Path, name: str) -> None:
    """Make it as if the writer had died between the rename of a shard and its listing."""
    path = folder.parent / "_state" / "scores" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["name"] != name]
    path.write_text(json.dumps(manifest))


def test_a_whole_shard_that_was_not_listed_is_adopted(store: Store) -> None:
    folder, _ = committed(store, 1)
    folder, name = committed(store, 2, 3)
    unlist(folder, name)
    assert store.stage("scores").reader().num_rows == 1
    with store.stage("scores").writer({}) as writer:
        assert writer.done.contains([item(1), item(2), item(3)]).all()
    assert by_key(store.stage("scores").reader().read()).equals(
        expected(4).filter(pc.field("row_id") != item(0))
    )


@pytest.mark.parametrize("harm", ["truncated", "flipped", "foreign", "doubled", "temporary"])
def test_whatever_else_a_killed_run_left_is_removed(store: Store, harm: str) -> None:
    folder, name = committed(store, 1, 2)
    data = (folder / name).read_bytes()
    stray = folder / "part-0123456789abcdef.parquet"
    if harm == "truncated":
        stray.write_bytes(data[:-20])
    elif harm == "flipped":
        stray.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif harm == "foreign":
        other, shard = committed(open_store(folder.parent / "other", create=True), 5)
        stray = folder / shard
        stray.write_bytes((other / shard).read_bytes())
    elif harm == "doubled":
        from prep.cache.shards import ShardMeta, encode

        manifest = store.stage("scores").reader().manifest
        assert manifest is not None
        shard, buffer = encode(rows(2, 3), ShardMeta("scores", manifest.generation, {}))
        stray = folder / shard.name
        stray.write_bytes(buffer)
    else:
        stray = folder / f".{name}.77.tmp"
        stray.write_bytes(data[:100])
    with store.stage("scores").writer({}):
        pass
    assert not stray.exists()
    assert by_key(store.stage("scores").reader().read()).equals(by_key(rows(1, 2)))
    assert len(globbed(folder.parent)) == 2


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_listed_shard_that_is_not_whole_stops_the_writer(store: Store, harm: str) -> None:
    folder, name = committed(store, 1)
    if harm == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(PrepError, match=name) as error, store.stage("scores").writer({}):
        pass
    assert f"`pcnet-prep verify {store.uri} --repair`" in error.value.remedy


def test_shards_without_a_manifest_are_not_touched(store: Store) -> None:
    folder, name = committed(store, 1)
    (folder.parent / "_state" / "scores" / MANIFEST).unlink()
    with pytest.raises(PrepError, match="no manifest"), store.stage("scores").writer({}):
        pass
    assert (folder / name).exists()


def test_the_ledger_is_folded_into_the_manifest(store: Store) -> None:
    with store.stage("scores").writer({}, commit_seconds=0) as writer:
        for number in range(103):
            writer.write(rows(number))
        reader = store.stage("scores").reader()  # beside the writer
        assert reader.num_rows == 103
        segments = [path.name for path in (Path(store.uri) / "_state" / "scores").glob("ledger-*.json")]
        assert len(segments) == 3
    assert not list((Path(store.uri) / "_state" / "scores").glob("ledger-*.json"))
    assert by_key(store.stage("scores").reader().read()).equals(expected(103))


def test_a_second_writer_is_told_who_holds_the_stage(store: Store) -> None:
    second = store.stage("scores").writer({})
    refused = pytest.raises(PrepError, match=f"pid {os.getpid()} on ")
    with store.stage("scores").writer({}), refused, second:
        pass
    with store.stage("scores").writer({}):
        pass


HOLD = """
import sys
from prep.cache.store import open_store
with open_store(sys.argv[1], create=True).stage("scores").writer({}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_and_a_dead_ones_lock_is_taken_over(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, store.uri]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PrepError, match=f"pid {other.pid} on "), store.stage("scores").writer({}):
            pass
        with store.stage("phrases").writer({}):  # another stage has its own lock
            pass
    finally:
        other.kill()
        other.communicate()
    assert (Path(store.uri) / "_state" / "scores" / HOLDER_FILE).exists()
    with store.stage("scores").writer({}) as writer:
        writer.write(rows(1))
    assert not (Path(store.uri) / "_state" / "scores" / HOLDER_FILE).exists()


def test_masks_are_compressed_without_a_dictionary(store: Store) -> None:
    import pyarrow.parquet as pq

    mask = {"counts": "abc", "area": 3, "bbox": [0.0, 0.0, 1.0, 1.0]}
    some = [
        {
            "image": f"{n}.jpg",
            "masks": [mask],
            "grid32": bytes(128),
            "generator": "g",
            "key": "k",
            "status": "ok",
        }
        for n in range(300)
    ]
    with store.stage("proposals").writer({}) as writer:
        writer.write(pa.Table.from_pylist(some, schema=PROPOSALS))
    (path,) = (Path(store.uri) / "proposals").glob("*.parquet")
    footer = pq.read_metadata(path)
    assert footer.row_group(0).num_rows == 128
    columns = {
        footer.row_group(0).column(i).path_in_schema: footer.row_group(0).column(i)
        for i in range(footer.num_columns)
    }
    for name in ("masks.list.element.counts", "grid32", "image"):
        assert columns[name].compression == "ZSTD"
        assert not columns[name].has_dictionary_page
    assert columns["status"].has_dictionary_page


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = open_files(tmp_path / "a"), open_files(tmp_path / "b")
    source.make()
    target.make()
    source.write("part-1.parquet", b"rows")
    source.link("part-1.parquet", target)
    assert source.is_shared("part-1.parquet")
    source.link("part-1.parquet", target)  # it is there already
    target.delete("part-1.parquet")
    assert not source.is_shared("part-1.parquet")

    def refused(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    source.link("part-1.parquet", target)
    assert target.read("part-1.parquet") == b"rows"
    assert not source.is_shared("part-1.parquet")


def test_an_object_store_lists_files_and_folders_by_name(tmp_path: Path) -> None:
    """A file system that is handled like one."""
    (tmp_path / "bucket/table/deep/er").mkdir(parents=True)
    files = Files(
        pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket/table", "s3://bucket/table"
    )
    files.write("one", b"1")
    files.folder("deep").write("two", b"22")
    files.folder("deep/er").write("three", b"333")
    assert files.tree() == {"one": 1, "deep/two": 2, "deep/er/three": 3}
    assert files.sizes() == {"one": 1}
    assert files.folders() == ["deep"]
    assert files.folder("nothing").tree() == files.folder("nothing").sizes() == {}
    assert files.where("one") == "s3://bucket/table/one"
    assert files.beside("other").where() == "s3://bucket/other/table"
