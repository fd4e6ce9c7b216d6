"""``verify`` finds every fault that is put in, ``repair`` undoes just that, ``compact`` changes no row."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.cache.answers import AnswerCache
from prep.cache.compact import compact
from prep.cache.keys import fingerprint
from prep.cache.maintain import lost_with, repair, status
from prep.cache.row_checks import CHECKS
from prep.cache.schema import PHRASES, PROPOSALS, SCORES, STAGES
from prep.cache.shards import ShardMeta, encode, read_shard, shard_name
from prep.cache.state import MANIFEST
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.errors import PrepError
from tests.limits import limited_memory
from tests.prep.toy import ToyStage, expected, item, row

COUNT = 120


def fill(store: Store) -> int:
    with store.stage("scores").writer({"toy": 1}, commit_seconds=0) as writer:
        items, chosen = map(item, range(COUNT)), {"n": COUNT}
        run = run_stage(
            Engine(ToyStage()),
            items,
            key=str,
            writer=writer,
            unit_size=10,
            selection=chosen,
            arguments={"n": COUNT},
        )
    return run.done


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "prepared", create=True)
    fill(made)
    return made


def shards(store: Store) -> list[Path]:
    reader = store.stage("scores").reader()
    assert reader.manifest is not None
    return [Path(store.uri) / "scores" / name for name in reader.manifest.shards]


def rows(store: Store) -> pa.Table:
    return store.stage("scores").reader().read().combine_chunks().sort_by("row_id")


def kinds(store: Store) -> list[str]:
    return [problem.kind for problem in verify(store, CHECKS).problems]


def test_a_good_store_has_no_problems(store: Store) -> None:
    report = verify(store, CHECKS)
    assert report.ok
    assert report.problems == []
    assert report.seconds > 0
    (scores,) = report.stages
    assert (scores.rows, scores.shards) == (COUNT, 12)
    assert scores.compared == [path.name for path in shards(store)]


def test_every_flipped_byte_is_found(store: Store) -> None:
    chance = random.Random(3)
    path = shards(store)[5]
    data = path.read_bytes()
    for _ in range(60):
        at = chance.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])
        assert kinds(store) == ["altered"], f"byte {at}"
    path.write_bytes(data)
    assert kinds(store) == []


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing", "empty"])
def test_a_damaged_shard_is_dropped_and_only_its_rows_are_made_again(store: Store, harm: str) -> None:
    path = shards(store)[3]
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"flipped": data[:40] + b"?" + data[41:], "truncated": data[:-8], "empty": b""}[harm]
        )
    untouched = {other: other.read_bytes() for other in shards(store) if other != path}
    assert kinds(store) == ["missing" if harm == "missing" else "altered"]
    (report,) = repair(store, CHECKS)
    assert report.lost_rows == 10
    assert report.commands == [{"n": COUNT}]
    assert verify(store, CHECKS).ok
    assert {other: other.read_bytes() for other in shards(store)} == untouched
    assert fill(store) == 10
    assert rows(store).equals(expected(COUNT))


def test_rows_that_are_gone_without_a_trace_are_missed(store: Store) -> None:
    path = shards(store)[0]
    listed = Path(store.uri) / "_state" / "scores" / MANIFEST
    manifest = json.loads(listed.read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["name"] != path.name]
    listed.write_text(json.dumps(manifest))
    path.unlink()
    (problem,) = verify(store, CHECKS).problems
    shown = f"lost: scores/{MANIFEST}: 110 rows are listed, a finished selection had 120"
    assert str(problem) == shown
    (report,) = repair(store, CHECKS)
    assert report.lost_rows == 10
    assert fill(store) == 10
    assert verify(store, CHECKS).problems == []


def plant(store: Store, table: pa.Table, *, listed: bool) -> Path:
    """A shard of our own make in the store's folder."""
    manifest = store.stage("scores").reader().manifest
    assert manifest is not None
    shard, data = encode(table, ShardMeta("scores", manifest.generation, {"toy": 1}))
    folder = Path(store.uri) / "scores"
    (folder / shard.name).write_bytes(data)
    if listed:
        manifest.shards[shard.name] = shard
        (folder.parent / "_state" / "scores" / MANIFEST).write_text(json.dumps(manifest.to_json()))
    return folder / shard.name


def made(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(item(number)) for number in numbers], schema=SCORES)


def test_doubled_rows_are_cut_out(store: Store) -> None:
    plant(store, made(7, 8, 200), listed=True)
    (problem,) = verify(store, CHECKS).problems
    assert (problem.kind, problem.rows) == ("doubled", (0, 1))
    assert problem.detail == f"2 rows are duplicates, the first is {item(7)!r}"
    (report,) = repair(store, CHECKS)
    assert report.lost_rows == 0
    assert verify(store, CHECKS).ok
    assert rows(store).num_rows == COUNT + 1
    assert fill(store) == 0


def test_wrong_rows_are_cut_out_and_lost(store: Store) -> None:
    bad = pa.Table.from_pylist([row(item(300)), {**row(item(301)), "scores": [float("nan")]}], schema=SCORES)
    plant(store, bad, listed=True)
    (problem,) = verify(store, CHECKS).problems
    assert (problem.kind, problem.rows) == ("wrong", (1,))
    assert problem.detail == "1 rows: row 1: a score is not a finite number"
    (report,) = repair(store, CHECKS)
    assert report.lost_rows == 1
    assert verify(store, CHECKS).ok
    assert rows(store).num_rows == COUNT + 1


@pytest.mark.parametrize("harm", ["flipped", "doubled", "wrong", "extra"])
def test_a_repair_reads_rows_again_only_if_a_shard_is_adopted(store: Store, harm: str) -> None:
    """On a large store a verification takes long: one before the repair and one after it are enough."""
    if harm == "flipped":
        shards(store)[0].write_bytes(b"PAR1")
    elif harm == "wrong":
        planted = {**row(item(301)), "scores": [float("nan")]}
        plant(store, pa.Table.from_pylist([row(item(300)), planted], schema=SCORES), listed=True)
    else:
        plant(store, made(7, 8, 200) if harm == "doubled" else made(200), listed=harm == "doubled")
    checked = 0

    def counted(table: pa.Table) -> Iterable[tuple[int, str]]:
        nonlocal checked
        checked += 1
        return CHECKS["scores"](table)

    found = verify(store, {"scores": counted})
    listed, checked = checked, 0
    (report,) = repair(store, {"scores": counted}, found)
    assert checked == (listed + 1 if harm == "extra" else 0)
    assert report.lost_rows == {"flipped": 10, "wrong": 1}.get(harm, 0)
    assert verify(store, CHECKS).problems == []


def test_an_adopted_shard_is_listed_at_once(store: Store) -> None:
    """Readers see it while the writer is at work, and after a kill."""
    plant(store, made(200), listed=False)
    with store.stage("scores").writer({"toy": 1}):
        assert store.stage("scores").reader().num_rows == COUNT + 1
        assert verify(store, CHECKS).problems == []


def test_what_is_wrong_in_an_adopted_shard_is_cut_out_by_the_same_repair(store: Store) -> None:
    bad = pa.Table.from_pylist([row(item(300)), {**row(item(301)), "scores": [float("nan")]}], schema=SCORES)
    plant(store, bad, listed=False)
    (report,) = repair(store, CHECKS)
    assert report.lost_rows == 1
    assert verify(store, CHECKS).problems == []
    assert rows(store).num_rows == COUNT + 1


def test_a_repair_counts_on_no_row_numbers_of_a_store_that_changed_since(store: Store) -> None:
    plant(store, made(7, 8, 200), listed=True)
    found = verify(store, CHECKS)
    plant(store, made(9, 201), listed=True)  # by another process, in between
    repair(store, CHECKS, found)
    assert verify(store, CHECKS).problems == []
    assert rows(store).num_rows == COUNT + 2


def test_extra_files_are_adopted_or_removed(store: Store) -> None:
    good = plant(store, made(500), listed=False)
    double = plant(store, made(7), listed=False)
    alien = good.with_name("table.parquet")
    alien.write_bytes(good.read_bytes())
    stray = good.with_name(".x.9.tmp")
    stray.write_bytes(b"PAR1")
    unlisted = "no manifest lists it, but readers of *.parquet see it"
    assert sorted(map(str, verify(store, CHECKS).problems)) == sorted(
        [
            *(f"extra: scores/{path.name}: {unlisted}" for path in (good, double, alien)),
            "stray: scores/.x.9.tmp: was left by a killed run",
        ]
    )
    repair(store, CHECKS)
    assert kinds(store) == ["extra"]  # the file of another name is not ours: it stays, and is still reported
    assert [path.exists() for path in (good, double, alien, stray)] == [True, False, True, False]
    assert rows(store).num_rows == COUNT + 1


def test_unfinished_files_of_the_bookkeeping_are_told_and_removed(store: Store) -> None:
    left = Path(store.uri) / "_state" / "scores" / ".part-1.parquet.9.tmp"
    left.write_bytes(b"PAR1")
    found = verify(store, CHECKS)
    assert found.ok  # no reader sees it
    assert list(map(str, found.problems)) == [f"stray: scores/{left.name}: was left by a killed run"]
    repair(store, CHECKS, found)
    assert not left.exists()
    assert verify(store, CHECKS).problems == []


@pytest.mark.parametrize("harm", ["missing", "broken", "ledger"])
def test_a_lost_manifest_is_rebuilt_from_the_shards(store: Store, harm: str) -> None:
    path = Path(store.uri) / "_state" / "scores" / MANIFEST
    before = rows(store)
    if harm == "missing":
        path.unlink()
    elif harm == "broken":
        path.write_text("{")
    else:
        path.with_name("ledger-0000000099.json").write_text("{")
    known = json.loads(path.read_text())["runs"] if harm == "ledger" else []
    (problem,) = verify(store, CHECKS).problems
    if harm == "missing":
        assert str(problem) == f"manifest: scores/{MANIFEST}: is missing"
    assert (problem.kind, problem.file) == ("manifest", MANIFEST)
    (report,) = repair(store, CHECKS)
    assert report.rebuilt_manifest
    manifest = store.stage("scores").reader().manifest
    assert manifest is not None
    assert manifest.runs == known  # what the manifest knows is kept where only the ledger is damaged
    assert bool(known) == (harm == "ledger")
    assert verify(store, CHECKS).problems == []
    assert rows(store).equals(before)
    assert store.stage("scores").reader().settings == {"toy": 1}
    assert fill(store) == 0


def test_damaged_answers_are_found_and_removed(store: Store) -> None:
    with AnswerCache(store.cache_uri, "answers", fingerprint({"a": 1}), SCORES) as cache:
        cache.put(made(1, 2))
    (path,) = Path(store.cache_uri).rglob("*.parquet")
    sound = verify(store, CHECKS)
    assert sound.ok
    (answers,) = [one for one in sound.stages if one.stage != "scores"]
    assert (answers.shards, answers.rows, answers.bytes) == (1, 2, path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    stray = path.with_name(".part-1.tmp")
    stray.write_bytes(b"PAR1")
    name = path.parent.relative_to(store.uri).as_posix()
    found = verify(store, CHECKS)
    assert not found.ok
    left, altered = map(str, found.problems)
    assert left == f"stray: {name}/.part-1.tmp: was left by a killed run"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert altered == f"altered: {name}/{path.name}: SHA-256 is {digest[:16]}..., not the one in its name"
    (report,) = repair(store, CHECKS)
    assert (report.stage, report.lost_rows) == (name, 0)
    assert report.actions == [f"removed {stray.name}", f"removed {path.name}"]
    assert verify(store, CHECKS).problems == []
    assert not path.exists()


def test_a_missing_and_an_unreadable_shard_are_told_with_their_rows(store: Store) -> None:
    gone, odd = shards(store)[:2]
    gone.unlink()
    odd.unlink()
    odd.mkdir()
    first, second = verify(store, CHECKS).problems
    assert (first.kind, first.stage, first.file) == ("missing", "scores", gone.name)
    assert first.detail.startswith(f"Cannot read {gone}: ")
    assert first.detail.endswith("; 10 rows")
    assert ".;" not in first.detail
    assert (second.kind, second.file) == ("unreadable", odd.name)
    with pytest.raises(PrepError, match=f"scores/{odd.name} is there, but cannot be read"):
        repair(store, CHECKS)
    assert store.stage("scores").reader().num_rows == COUNT  # nothing was changed


def test_text_that_is_no_utf8_does_not_decode(store: Store) -> None:
    """Parquet readers return it as it is, and fail much later."""
    offsets = pa.py_buffer(b"\0\0\0\0\2\0\0\0")
    bad = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))
    table = made(300)
    at = table.column_names.index("row_id")
    path = plant(store, table.set_column(at, table.schema.field("row_id"), bad), listed=True)
    (problem,) = verify(store, CHECKS).problems
    assert (problem.kind, problem.stage, problem.file) == ("altered", "scores", path.name)
    assert problem.detail.startswith("does not decode: ")
    for read in (
        lambda: store.stage("scores").reader().keys(),
        lambda: list(store.stage("scores").reader().batches()),
        lambda: read_shard(store.stage("scores").files, path.name),
    ):
        with pytest.raises(PrepError, match=r"(?i)cannot read .*utf-?8"):
            read()
    repair(store, CHECKS)
    assert rows(store).equals(expected(COUNT))
    plant(store, table.set_column(at, table.schema.field("row_id"), bad), listed=False)
    assert fill(store) == 0  # it is removed
    assert verify(store, CHECKS).problems == []


FOREIGN = {
    "another type": pa.table({"row_id": ["a"], "scores": ["high"]}),
    "only some columns": pa.table({"row_id": ["a"], "scores": [[0.5]]}),
    "no key": pa.table({"scores": [[0.5]]}),
    "an empty key": pa.table({"row_id": pa.array([None, "a"], pa.string())}),
    "numbers as keys": pa.table({"row_id": [[1]]}),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_a_shard_with_our_metadata_and_other_columns_is_no_shard(
    store: Store, foreign: pa.Table, listed: bool
) -> None:
    """Its hash is right: somebody made it, so every reader has to look at what it holds."""
    path = plant(store, foreign, listed=listed)
    (problem,) = verify(store, CHECKS).problems
    assert (problem.kind, problem.file) == ("altered" if listed else "extra", path.name)
    assert problem.detail.startswith("does not decode: " if listed else "no manifest lists it")
    if listed and foreign is FOREIGN["an empty key"]:
        assert problem.detail == "does not decode: there are rows without row_id"
    if listed and "row_id" not in foreign.column_names:
        with pytest.raises(PrepError, match="--repair"):
            store.stage("scores").reader().keys()
    repair(store, CHECKS)
    assert not path.exists()
    assert rows(store).equals(expected(COUNT))


def test_a_reader_of_a_damaged_page_is_sent_to_the_repair(store: Store) -> None:
    """Arrow raises the class of error that a disk has, which is not to be looked for in the user's rights."""
    (path, *_) = shards(store)
    data, start = path.read_bytes(), pq.read_metadata(path).row_group(0).column(0).data_page_offset
    compressed = data.index(b"\x28\xb5\x2f\xfd", start)  # zstd's mark
    path.write_bytes(data[: compressed + 8] + b"\xff" * 24 + data[compressed + 32 :])
    with pytest.raises(PrepError, match=rf"Cannot read .*/{path.name}: ") as refused:
        read_shard(store.stage("scores").files, path.name)
    assert isinstance(refused.value.__cause__, OSError)
    assert f"`pcnet-prep verify {store.uri} --repair`" in refused.value.remedy
    path.unlink()
    with pytest.raises(PrepError, match="No such file") as refused:
        read_shard(store.stage("scores").files, path.name)
    assert "--repair" not in refused.value.remedy


@pytest.mark.parametrize("lists", [False, True])
def test_a_small_shard_with_a_great_many_equal_values_is_not_read(tmp_path: Path, lists: bool) -> None:
    """Equal values take no space, in memory they do: half a megabyte took 9 GB to verify."""
    store = open_store(tmp_path, create=True)
    stage = store.stage("scores")
    with stage.writer({"toy": 1}) as writer:
        writer.write(pa.Table.from_pylist([row(item(1))], schema=SCORES))
        scores = [0.5] * 4_000_000 if lists else []
        one = pa.Table.from_pylist([{**row(item(2)), "scores": scores}], schema=SCORES)
        shard, data = encode(one if lists else one.take(pa.array([0] * 200_000)), writer.meta())
        stage.files.write(shard.name, data)
        writer.list_shards([shard])
    expected = rf"says that {shard.bytes} bytes are {shard.rows} rows"
    for read in (stage.reader().read, stage.reader().keys, lambda: read_shard(stage.files, shard.name)):
        with pytest.raises(PrepError, match=expected) as refused:
            read()
        assert "--repair" in refused.value.remedy
    (problem,) = verify(store, CHECKS).problems
    assert (problem.kind, problem.file) == ("altered", shard.name)
    repair(store, CHECKS)
    assert stage.reader().read()["row_id"].to_pylist() == [item(1)]


def test_a_page_that_says_it_has_a_great_many_values_is_an_error_and_takes_no_memory(store: Store) -> None:
    """Arrow reserves 4 GB for 10^9 lengths (arrow#49955), and gives up before it uses them."""
    buffer, column = io.BytesIO(), pa.field("row_id", pa.string(), nullable=False)
    keys = pa.table({"row_id": [item(number) for number in range(10)]}, schema=pa.schema([column]))
    delta = {"row_id": "DELTA_BYTE_ARRAY"}
    pq.write_table(keys, buffer, use_dictionary=False, column_encoding=delta, compression="none")
    data = buffer.getvalue()
    # The header of its numbers: 128 in a block, 4 groups, 10 in all; behind them the place for a longer one.
    at, longer = data.index(b"\x80\x01\x04\x0a"), b"\x80\x94\xeb\xdc\x03"
    data = data[: at + 3] + longer + data[at + 3 + len(longer) :]
    name = shard_name(hashlib.sha256(data).hexdigest())
    (shards(store)[0].parent / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for more in (64 << 20, 1 << 40):  # the first refuses the reserve, the second does not
        with limited_memory(more), pytest.raises(PrepError, match=rf"Cannot read .*{name}") as refused:
            read_shard(store.stage("scores").files, name)
        assert refused.value.remedy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("harm", ["missing", "altered", "wrong", "lost", "doubled", "extra", "manifest"])
def test_a_repair_that_has_to_drop_rows_is_told_with_the_command_that_makes_them(
    store: Store, harm: str
) -> None:
    path = shards(store)[0]
    if harm == "missing":
        path.unlink()
    elif harm == "altered":
        path.write_bytes(b"PAR1")
    elif harm == "wrong":
        planted = [{**row(item(301)), "scores": [float("nan")]}]
        plant(store, pa.Table.from_pylist(planted, schema=SCORES), listed=True)
    elif harm == "lost":
        listed = Path(store.uri) / "_state" / "scores" / MANIFEST
        manifest = json.loads(listed.read_text())
        manifest["shards"] = manifest["shards"][1:]
        listed.write_text(json.dumps(manifest))
        path.unlink()
    elif harm == "manifest":
        (Path(store.uri) / "_state" / "scores" / MANIFEST).write_text("{")
    else:
        plant(store, made(7) if harm == "doubled" else made(200), listed=harm == "doubled")
    found = verify(store, CHECKS)
    assert [problem.kind for problem in found.problems] == [harm]
    needed = harm in ("missing", "altered", "wrong", "lost")
    assert lost_with(store, found) == ([("scores", {"n": COUNT})] if needed else [])


def test_compact_changes_no_row(store: Store) -> None:
    before, order = rows(store), store.stage("scores").reader().read()
    stray = plant(store, made(7), listed=False)
    (report,) = compact(store)
    assert (report.shards_before, report.shards_after) == (12, 1)
    assert report.bytes_after < report.bytes_before
    assert stray.name in report.removed
    assert len(list((Path(store.uri) / "scores").glob("*.parquet"))) == 1
    assert verify(store, CHECKS).problems == []
    assert rows(store).equals(before)
    assert store.stage("scores").reader().read().combine_chunks().equals(order.combine_chunks())
    assert fill(store) == 0  # still finished
    (again,) = compact(store)
    assert (again.shards_before, again.shards_after, again.removed) == (1, 1, [])


def test_compact_leaves_files_of_other_names(store: Store) -> None:
    """Also those that readers of *.parquet see: verify tells them, and somebody else has to remove them."""
    before = rows(store)
    foreign = [Path(store.uri) / "scores" / name for name in ("table.parquet", "part-A.parquet", "notes.txt")]
    for path in foreign:
        path.write_bytes(shards(store)[0].read_bytes())
    (report,) = compact(store)
    assert all(path.exists() for path in foreign)
    assert report.removed == []
    assert rows(store).equals(before)
    assert kinds(store) == ["extra", "extra"]


def test_compact_merges_the_answers_of_the_cache(store: Store) -> None:
    with AnswerCache(store.cache_uri, "answers", "f" * 64, SCORES, commit_seconds=0.0) as cache:
        for number in range(5):
            cache.put(made(number))
    report = compact(store)[-1]
    assert report.stage.startswith("cache/answers/")
    assert (report.shards_before, report.shards_after) == (5, 1)
    assert verify(store, CHECKS).problems == []


def test_compact_keeps_to_a_size(store: Store) -> None:
    largest = max(path.stat().st_size for path in shards(store))
    (report,) = compact(store, target_bytes=3 * largest)
    assert 3 < report.shards_after < 12
    assert rows(store).equals(expected(COUNT))


def test_shards_that_fill_a_size_exactly_are_merged_and_not_one_byte_more(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    with store.stage("scores").writer({"toy": 1}, commit_seconds=0) as writer:
        for number in range(4):
            writer.write(pa.Table.from_pylist([row(item(number))], schema=SCORES))
        sizes = [shard.bytes for shard in writer.manifest.shards.values()]
    (too_small,) = compact(store, target_bytes=min(a + b for a, b in itertools.pairwise(sizes)) - 1)
    assert too_small.shards_after == 4
    (report,) = compact(store, target_bytes=sizes[0] + sizes[1])
    assert report.shards_after < 4
    kept = [pq.read_table(path, columns=["row_id"])["row_id"].to_pylist() for path in shards(store)]
    assert [item(0), item(1)] in kept


def test_a_compaction_that_died_is_finished_by_the_next_writer(store: Store) -> None:
    folder = Path(store.uri) / "scores"
    old = {path: path.read_bytes() for path in shards(store)}
    compact(store)
    for path, data in old.items():  # as if it had died before removing any
        path.write_bytes(data)
    with store.stage("scores").writer({"toy": 1}):
        pass
    assert len(list(folder.glob("*.parquet"))) == 1
    assert rows(store).equals(expected(COUNT))


@pytest.mark.parametrize("call", ["fsync", "replace", "rmtree"])
def test_a_compaction_may_die_at_any_moment(store: Store, call: str) -> None:
    """The process is gone at its n-th sync, rename or removal, for every n: a glob sees each row once."""
    before = rows(store)
    largest = max(path.stat().st_size for path in shards(store))
    for fatal in range(1, 60):
        child = multiprocessing.get_context("fork").Process(
            target=dying, args=(store, call, fatal, 4 * largest)
        )
        child.start()
        child.join(60)
        assert child.exitcode in (0, 9)
        query = f"select row_id from read_parquet('{store.uri}/scores/**/*.parquet') order by row_id"
        seen = [key for (key,) in duckdb.connect().execute(query).fetchall()]
        assert seen == before.column("row_id").to_pylist()
        assert rows(store).equals(before)
        if child.exitcode == 0:
            break
        largest *= 2  # so that there is always something left to merge
    assert fatal > 1
    with store.stage("scores").writer({"toy": 1}):
        pass
    assert verify(store, CHECKS).problems == []
    assert sorted(path.name for path in Path(store.uri).iterdir()) == ["_state", "scores"]
    assert {path.suffix for path in (Path(store.uri) / "scores").iterdir()} == {".parquet"}


def dying(store: Store, call: str, fatal: int, target: int) -> None:
    owner: Any = shutil if call == "rmtree" else os
    real, calls = getattr(owner, call), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == fatal:
            os._exit(9)
        return real(*arguments, **options)

    setattr(owner, call, counted)
    compact(store, target)
    os._exit(0)


def test_status_tells_what_there_is(store: Store) -> None:
    (scores,) = status(store).stages
    assert (scores.stage, scores.rows, scores.shards) == ("scores", COUNT, 12)
    assert scores.settings == {"toy": 1}
    assert scores.runs[0]["rows"] == COUNT
    assert scores.holder is None
    with store.stage("scores").writer({"toy": 1}):
        (held,) = status(store).stages
        assert held.holder is not None
        assert held.holder["pid"] > 0
        second = store.stage("scores").writer({"toy": 1})
        with pytest.raises(PrepError, match="is being written by"), second:  # asking has not freed the lock
            pass


def phrase(**changes: object) -> dict:
    good = {
        "row_id": "a" * 32, "dataset": "d", "split_by": "u", "split": "val", "expression": "a cat",
        "phrases": ["a cat"],
        "source": "rules", "llm": "rules", "key": "k", "violations": [], "rejected": [], "status": "ok",
    }  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"phrases": []}, "0 phrases"),
        ({"phrases": list("abcdef")}, "6 phrases"),
        ({"phrases": ["a", " "]}, "empty phrase"),
        ({"source": "oracle"}, "unknown source"),
        ({"status": "fine"}, "unknown status"),
        ({"status": "error", "phrases": [], "error": "no image"}, None),
        ({"status": "error", "phrases": []}, "no reason"),
    ],
)
def test_phrase_rows_are_checked(changes: dict, fault: str | None) -> None:
    table = pa.Table.from_pylist([phrase(), phrase(**changes)], schema=PHRASES)
    found = list(CHECKS["phrases"](table))
    assert [number for number, _ in found] == ([] if fault is None else [1])
    assert fault is None or fault in found[0][1]


def triplet(**changes: object) -> dict:
    made = {
        "row_id": "a" * 32, "dataset": "d", "split_by": "u", "split": "val", "expression": "a cat on a mat",
        "entity": "a cat", "relations": [{"subject": "a cat", "predicate": "on", "object": "a mat"}],
        "source": "rules", "llm": "rules", "key": "k", "violations": [], "rejected": [], "status": "ok",
    }  # fmt: skip
    return made | changes


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"entity": "a mat"}, None),
        ({"entity": "a dog"}, "without the entity"),
        ({"entity": None}, "of the entity None"),
        ({"relations": []}, "0 relations"),
        ({"source": "oracle"}, "unknown source"),
        ({"status": "fine"}, "unknown status"),
        ({"status": "error", "entity": None, "relations": [], "error": "no text"}, None),
        ({"status": "error", "entity": None, "relations": []}, "no reason"),
        ({"status": "error", "error": "no text"}, "has triplets"),
    ],
)
def test_triplet_rows_are_checked(changes: dict, fault: str | None) -> None:
    table = pa.Table.from_pylist([triplet(), triplet(**changes)], schema=STAGES["triplets"][0])
    found = list(CHECKS["triplets"](table))
    assert [number for number, _ in found] == ([] if fault is None else [1])
    assert fault is None or fault in found[0][1]


def proposal(**changes: object) -> dict:
    import numpy as np
    from pycocotools import mask as coco

    pixels = np.zeros((48, 64), dtype=np.uint8, order="F")
    pixels[4:20, 8:30] = 1
    small = pixels[np.arange(32) * 48 // 32][:, np.arange(32) * 64 // 32]
    counts = coco.encode(pixels)["counts"].decode()
    mask = {"counts": counts, "area": int(pixels.sum()), "bbox": [8.0, 4.0, 22.0, 16.0]}
    mask |= {name: changes.pop(name) for name in ("counts", "area") if name in changes}
    good = {
        "image": "a.jpg", "height": 48, "width": 64, "masks": [mask], "grid32": np.packbits(small).tobytes(),
        "generator": "g", "key": "k", "status": "ok",
    }  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"area": 3}, "its area is 352"),
        ({"counts": "\x7f~"}, "damaged"),
        ({"counts": "1"}, "area"),
        ({"height": 47}, "cover"),
        ({"height": None}, "without the image's size"),
        ({"grid32": bytes(128)}, "grid32 is not this mask"),
        ({"grid32": bytes(127)}, "grid32 has 127 bytes"),
        ({"masks": [], "grid32": b"", "status": "empty"}, None),
        ({"masks": [], "grid32": b""}, "status ok with 0 masks"),
        ({"masks": [], "grid32": b"", "status": "error", "error": "unreadable"}, None),
    ],
)
def test_proposal_rows_are_checked(changes: dict, fault: str | None) -> None:
    table = pa.Table.from_pylist([proposal(), proposal(**changes)], schema=PROPOSALS)
    found = list(CHECKS["proposals"](table))
    assert [number for number, _ in found] == ([] if fault is None else [1])
    assert fault is None or fault in found[0][1]
