"""The answer cache gives back what was committed first, to everyone who shares the folder."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.cache.answers import AnswerCache

SCHEMA = pa.schema([("key", pa.string()), ("answer", pa.string()), ("status", pa.string())])


def answers(*pairs: tuple[str, str], status: str = "ok") -> pa.Table:
    return pa.Table.from_pylist([{"key": k, "answer": a, "status": status} for k, a in pairs], schema=SCHEMA)


def cache(folder: Path, **options: float) -> AnswerCache:
    return AnswerCache(folder, "phrases", "f" * 64, SCHEMA, **options)


def test_an_answer_is_there_at_once_and_after_reopening(tmp_path: Path) -> None:
    first = cache(tmp_path, commit_seconds=1e9)
    assert first.get("k") is None
    first.put(answers(("k", "a"), ("l", "b")))
    assert first.get("k") == {"key": "k", "answer": "a", "status": "ok"}
    assert cache(tmp_path).get("k") is None  # not committed yet
    first.flush()
    again = cache(tmp_path)
    assert again.get_many(["l", "m", "k"]) == first.get_many(["l", "m", "k"])
    assert again.contains(["k", "m"]).tolist() == [True, False]
    assert len(again) == 2


COMMIT = """
import fcntl, sys, time
from pathlib import Path
from prep.cache.answers import COMMIT_FILE
from prep.files import lock_file
from tests.prep.cache.test_answers import answers, cache

other = cache(Path(sys.argv[1]), commit_seconds=1e9)
descriptor = lock_file(other.files.local / COMMIT_FILE)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
time.sleep(0.5)
other.put(answers(("k", "other")))
other.flush()  # closes the file of the lock, which releases it
"""


@pytest.mark.slow
def test_processes_commit_one_at_a_time(tmp_path: Path) -> None:
    mine = cache(tmp_path, commit_seconds=1e9)
    mine.files.make()
    mine.put(answers(("k", "mine"), ("l", "mine")))
    command = [sys.executable, "-c", COMMIT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        process.stdin.write("\n")
        process.stdin.flush()
        mine.flush()
    assert process.returncode == 0
    found = cache(tmp_path).get_many(["k", "l"])
    assert {key: answer["answer"] for key, answer in found.items()} == {"k": "other", "l": "mine"}
    assert sum(pq.read_metadata(path).num_rows for path in tmp_path.rglob("*.parquet")) == 2


def test_the_first_committed_answer_wins(tmp_path: Path) -> None:
    one, two = cache(tmp_path, commit_seconds=1e9), cache(tmp_path, commit_seconds=1e9)
    one.put(answers(("k", "one"), ("k", "again")))
    two.put(answers(("k", "two"), ("l", "two")))
    two.flush()
    one.flush()
    for reader in (one, two, cache(tmp_path)):
        reader.refresh()
        assert reader.get("k") == {"key": "k", "answer": "two", "status": "ok"}
        assert len(reader) == 2
    one.put(answers(("k", "late")))
    assert one.get("k")["answer"] == "two"
    assert sum(pq.read_metadata(path).num_rows for path in one.files.local.glob("*.parquet")) == 2


def test_settings_and_stages_have_folders_of_their_own(tmp_path: Path) -> None:
    with cache(tmp_path) as mine:
        mine.put(answers(("k", "a")))
    assert AnswerCache(tmp_path, "phrases", "0" * 64, SCHEMA).get("k") is None
    assert AnswerCache(tmp_path, "proposals", "f" * 64, SCHEMA).get("k") is None


def test_an_error_is_no_answer(tmp_path: Path) -> None:
    with cache(tmp_path) as mine:
        mine.put(answers(("k", "oh"), status="error"))
        mine.put(answers(("l", "fine")))
        assert mine.get("k") is None
        mine.put(answers(("k", "now")))
    assert cache(tmp_path).get("k")["answer"] == "now"


def test_a_damaged_shard_is_left_out(tmp_path: Path) -> None:
    with cache(tmp_path) as mine:
        mine.put(answers(("k", "a")))
    (path,) = mine.files.local.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert cache(tmp_path).get("k") is None


def test_it_travels_by_its_address_and_holds_no_answers_in_memory(tmp_path: Path) -> None:
    with cache(tmp_path, commit_seconds=0, memory_bytes=1) as mine:
        for number in range(20):
            mine.put(answers((f"k{number}", "x" * 1000)))
    copy = pickle.loads(pickle.dumps(mine))
    assert copy.get("k7")["answer"] == "x" * 1000
    assert len(mine.get_many([f"k{number}" for number in range(20)])) == 20
    assert len(mine._decoded) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=6), max_size=8))
def test_it_is_a_dict_that_never_overwrites(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str]]]
) -> None:
    folder, reference = tmp_path_factory.mktemp("a"), {}
    with cache(folder, commit_seconds=0) as mine:
        for batch in batches:
            mine.put(answers(*batch))
            for key, answer in batch:
                reference.setdefault(key, answer)
    found = cache(folder).get_many(list(reference))
    assert {key: row["answer"] for key, row in found.items()} == reference


def many(folder: Path, count: int = 12) -> dict[str, str]:
    """As many shards of one answer each; what they hold, by key."""
    with cache(folder, commit_seconds=0.0) as filled:
        for number in range(count):
            filled.put(answers((f"k{number}", f"a{number}")))
    return {f"k{number}": f"a{number}" for number in range(count)}


def held(reader: AnswerCache, wanted: dict[str, str]) -> dict[str, str]:
    return {key: row["answer"] for key, row in reader.get_many(list(wanted)).items()}


def test_merged_answers_are_the_same_also_for_who_has_the_cache_open(tmp_path: Path) -> None:
    wanted = many(tmp_path)
    reading, writing = cache(tmp_path), cache(tmp_path, commit_seconds=1e9)
    writing.put(answers(("new", "new"), ("k3", "late")))
    cache(tmp_path).merge(1 << 20)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    writing.flush()
    for reader in (reading, writing, cache(tmp_path)):
        assert held(reader, wanted) == wanted
        assert len(reader) >= len(wanted)
    assert cache(tmp_path).get("new") is not None


def test_a_merge_that_died_loses_nothing(tmp_path: Path) -> None:
    wanted = many(tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    cache(tmp_path).merge(1 << 20)
    for path, data in old.items():  # as if it had died before removing any
        path.write_bytes(data)
    assert held(cache(tmp_path), wanted) == wanted
    assert len(cache(tmp_path)) == len(wanted)
    cache(tmp_path).merge(1 << 20)
    assert held(cache(tmp_path), wanted) == wanted
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_shards_are_merged_up_to_a_size_and_those_of_a_store_are_left(tmp_path: Path) -> None:
    wanted = many(tmp_path)
    paths = sorted(tmp_path.rglob("*.parquet"))
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / paths[0].name).hardlink_to(paths[0])
    size = max(path.stat().st_size for path in paths)
    cache(tmp_path).merge(4 * size)
    left = list((tmp_path / "phrases").rglob("*.parquet"))
    assert paths[0] in left
    assert 3 < len(left) < 7
    assert held(cache(tmp_path), wanted) == wanted


def test_shards_that_fill_a_size_exactly_are_merged_and_not_one_byte_more(tmp_path: Path) -> None:
    for less, left in ((1, 2), (0, 1)):
        folder = tmp_path / str(less)
        many(folder, 3)  # a shard of half the size or more would stay as it is
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        cache(folder).merge(size - less)
        assert len(list(folder.rglob("*.parquet"))) == left
