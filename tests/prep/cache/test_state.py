"""Bookkeeping lies beside the tables; older stores are read as they are and moved over by the next writer."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.cache import rewrite as rewrite_module
from prep.cache.compact import compact
from prep.cache.files import Files
from prep.cache.maintain import repair, status
from prep.cache.schema import SCORES
from prep.cache.state import is_old, state_of
from prep.cache.store import Store, open_store, read_manifest_file
from prep.cache.verify import verify
from prep.datasets.catalogue import open_jsonl
from prep.errors import PrepError
from prep.phrases.run import run_phrases
from tests.prep.toy import item, row

DATA = Path(__file__).parents[2] / "data"
OLD = {"v0.1.0/store": (17, 4, 17), "inline/store": (4, 1, 6)}
TABLES = ("phrases", "proposals", "scores")


def made(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(item(number)) for number in numbers], schema=SCORES)


def content(store: Store, name: str) -> list[dict[str, Any]]:
    stage = store.stage(name)
    return sorted(stage.reader().read().to_pylist(), key=lambda row: str(row[stage.key_column]))


def globbed(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def touch(store: Store) -> None:
    """A writer that writes nothing."""
    for name in TABLES:
        for stage in (store.stage(name), store.stage(name).aside):
            if stage.reader().exists:
                with stage.writer(stage.reader().settings):
                    pass


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = tmp_path / Path(request.param).parent
    shutil.copytree(DATA / Path(request.param).parent, place)
    return open_store(place / "store")


def rows_of(store: Store) -> tuple[int, ...]:
    return OLD[f"{Path(store.uri).parent.name}/store"]


def is_moved(store: Store) -> bool:
    """Whether the tables' folders hold nothing but Parquet files, and the bookkeeping is beside them."""
    folders = [Path(store.stage(name).files.uri) for name in TABLES]
    folders += [folder for name in TABLES if (folder := Path(store.uri) / "aside" / name).exists()]
    clean = all(path.suffix == ".parquet" for folder in folders for path in folder.iterdir())
    return clean and all(
        (folder.parent / "_state" / folder.name / "manifest.json").exists() for folder in folders
    )


def test_an_old_store_is_read_as_it_is(old: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(old.uri).rglob("*")}
    assert old.stages() == list(TABLES)
    assert tuple(old.stage(name).reader().num_rows for name in TABLES) == rows_of(old)
    assert [stage.rows for stage in status(old).stages] == list(rows_of(old))
    assert verify(old).problems == []
    assert {path: path.stat().st_mtime_ns for path in Path(old.uri).rglob("*")} == before


def test_the_next_write_moves_it_over(old: Store) -> None:
    before = {name: content(old, name) for name in TABLES}
    settings = {name: old.stage(name).reader().settings for name in TABLES}
    runs = read_manifest_file(Path(old.uri) / "phrases").runs
    aside = status(old).stages[0].set_aside
    touch(old)
    assert is_moved(old)
    assert {name: content(old, name) for name in TABLES} == before
    assert {name: old.stage(name).reader().settings for name in TABLES} == settings
    assert status(old).stages[0].set_aside == aside
    assert verify(old).problems == []
    # Both the table's folder and the file that --from-manifest used to take are still understood.
    for path in ("phrases", "phrases/_manifest.json", "_state/phrases/manifest.json"):
        assert read_manifest_file(Path(old.uri) / path).runs == runs


def test_what_a_source_had_moves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing of the old store had four rows when it was read; one of them is gone now."""
    shutil.copytree(DATA / "inline", tmp_path / "inline")
    file, store = tmp_path / "inline" / "mine.jsonl", open_store(tmp_path / "inline" / "store")
    monkeypatch.setattr("prep.phrases.stage.RULES_VERSION", "2")  # the rules that made this store
    assert len(list((tmp_path / "inline/store/phrases").glob("_keys-*"))) == 1
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    (summary,) = run_phrases(None, [open_jsonl(file)], store)
    assert summary.extra["rows set aside, as the input no longer has them"] == 1
    assert (status(store).stages[0].rows, status(store).stages[0].set_aside) == (3, 2)
    assert is_moved(open_store(tmp_path / "inline" / "store")) is False  # the others were not written
    touch(store)
    assert is_moved(store)


@pytest.mark.parametrize("harm", ["_manifest.json", "_ledger-0000000002.json"])
def test_an_old_store_is_repaired_into_the_new_place(tmp_path: Path, harm: str) -> None:
    shutil.copytree(DATA / "inline", tmp_path / "inline")
    store = open_store(tmp_path / "inline" / "store")
    before = content(store, "scores")
    (tmp_path / "inline/store/scores" / harm).write_text("{")
    with pytest.raises(PrepError, match="not a valid manifest"):
        store.stage("scores").reader()
    assert [report.rebuilt_manifest for report in repair(store)] == [True]
    assert content(store, "scores") == before
    touch(store)
    assert is_moved(store)
    assert verify(store).ok


def dies_at(fatal: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a process that is gone before its n-th write or removal; whether it died."""

    def child() -> None:
        calls = [0]
        for name in ("write", "delete"):
            real = getattr(Files, name)

            def counted(*arguments: Any, real: Any = real) -> Any:
                calls[0] += 1
                if calls[0] == fatal:
                    os._exit(9)
                return real(*arguments)

            setattr(Files, name, counted)
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in (0, 9)
    return process.exitcode == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phrases", "scores"])  # with keys of a source, and with a ledger
def test_moving_over_may_die_at_any_step(tmp_path: Path, name: str) -> None:
    for fatal in range(1, 60):
        place = tmp_path / str(fatal)
        shutil.copytree(DATA / "inline" / "store", place)
        store = open_store(place)
        stage, before = store.stage(name), content(store, name)
        keys = {path.name.lstrip("_"): path.read_bytes() for path in place.rglob(f"{name}/*keys-*")}
        died = dies_at(fatal, lambda: stage.writer(stage.reader().settings).__enter__())  # noqa: B023
        assert content(store, name) == before
        assert verify(store).problems == []
        with stage.writer(stage.reader().settings):
            pass
        assert {path.suffix for path in (place / name).iterdir()} == {".parquet"}
        assert content(store, name) == before
        assert {path.name: path.read_bytes() for path in place.rglob(f"{name}/*keys-*")} == keys
        if not died:
            break
    assert 6 < fatal < 59


def test_a_writer_of_the_old_version_at_work_is_respected(tmp_path: Path) -> None:
    shutil.copytree(DATA / "inline", tmp_path / "inline")
    store = open_store(tmp_path / "inline" / "store")
    locked = multiprocessing.get_context("fork").Event()
    done = multiprocessing.get_context("fork").Event()

    def other() -> None:
        with (tmp_path / "inline/store/phrases/.writer.lock").open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            locked.set()
            done.wait(60)

    process = multiprocessing.get_context("fork").Process(target=other)
    process.start()
    assert locked.wait(60)
    with pytest.raises(PrepError, match="phrases is being written by"):
        touch(store)
    assert (tmp_path / "inline/store/phrases/_manifest.json").exists()
    done.set()
    process.join(60)
    touch(store)
    assert is_moved(store)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(tmp_path / "st", create=True)
    for first in (0, 10):
        with opened.stage("scores").writer({"toy": 1}) as writer:
            writer.write(made(*range(first, first + 10)))
    return opened


@pytest.mark.parametrize("after", [False, True])
def test_a_swap_may_die_with_its_manifest_unwritten(
    store: Store, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has been swapped, or not yet: the manifest that readers get is the one of its shards."""
    before, folder = content(store, "scores"), Path(store.uri) / "scores"
    real = rewrite_module.exchange

    def stopped(first: Path, second: Path) -> bool:
        if after:
            assert real(first, second)
        os._exit(9)

    monkeypatch.setattr(rewrite_module, "exchange", stopped)
    assert dies_at(-1, lambda: compact(store))
    monkeypatch.undo()
    shards = sorted(path.name for path in folder.glob("*.parquet"))
    assert len(shards) == (1 if after else 2)
    reader = store.stage("scores").reader()
    assert reader.manifest is not None
    assert sorted(reader.manifest.shards) == shards
    assert content(store, "scores") == before
    assert globbed(folder) == 20
    assert verify(store).problems == []
    with pytest.raises(KeyError), store.stage("scores").writer({"toy": 2}, replace=True):
        raise KeyError("a mistyped option")
    assert content(store, "scores") == before
    compact(store)
    assert content(store, "scores") == before
    assert not (folder.parent / "_state" / "scores" / "pending.json").exists()
    assert len(list(folder.iterdir())) == 1


def test_a_swap_whose_manifest_is_damaged_is_repaired(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before, folder = content(store, "scores"), Path(store.uri) / "scores"
    real = rewrite_module.exchange

    def stopped(first: Path, second: Path) -> bool:
        real(first, second)
        os._exit(9)

    monkeypatch.setattr(rewrite_module, "exchange", stopped)
    assert dies_at(-1, lambda: compact(store))
    (folder.parent / "_state" / "scores" / "pending.json").write_text("{")
    with pytest.raises(PrepError, match=r"pending\.json is not a valid manifest"):
        store.stage("scores").reader()
    (report,) = repair(store)
    assert report.rebuilt_manifest
    assert content(store, "scores") == before
    assert verify(store).problems == []


def test_nothing_unfinished_is_ever_in_a_tables_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def looked(call: Callable[..., Any]) -> Callable[..., Any]:
        def look(*arguments: Any, **options: Any) -> Any:
            seen.update(path.suffix for path in (Path(store.uri) / "scores").iterdir())
            return call(*arguments, **options)

        return look

    for name in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, name, looked(getattr(os, name)))
    with store.stage("scores").writer({"toy": 1}, commit_seconds=0) as writer:
        for number in range(20, 24):
            writer.write(made(number))
    compact(store)
    with store.stage("scores").writer({"toy": 2}, replace=True) as writer:
        writer.write(made(1))
    assert seen == {".parquet"}


def test_stores_that_share_a_table_by_a_link_share_its_state_and_its_lock(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/scores").symlink_to(tmp_path / "st/scores", target_is_directory=True)
    second = open_store(tmp_path / "second")
    assert content(second, "scores") == content(store, "scores")
    with second.stage("scores").writer({"toy": 1}) as writer:
        writer.write(made(50))
        with pytest.raises(PrepError, match="is being written by"):
            store.stage("scores").writer({"toy": 1}).__enter__()
    assert len(content(store, "scores")) == 21
    assert not (tmp_path / "second" / "_state").exists()


def test_a_table_on_another_file_system(store: Store, tmp_path: Path) -> None:
    disk = Path("/dev/shm")
    if not os.access(disk, os.W_OK) or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=disk) as other:
        moved = Path(other) / "scores"
        shutil.move(tmp_path / "st/scores", moved)
        (tmp_path / "st/scores").symlink_to(moved, target_is_directory=True)
        with store.stage("scores").writer({"toy": 1}) as writer:
            writer.write(made(30))
        assert len(content(store, "scores")) == globbed(moved) == 21
        assert {path.suffix for path in moved.iterdir()} == {".parquet"}
        compact(store)
        assert len(list(moved.iterdir())) == 1
        assert verify(store).problems == []


def test_a_table_whose_folder_was_removed_begins_anew(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "st/scores")
    assert store.stages() == []
    assert not store.stage("scores").reader().exists
    with store.stage("scores").writer({"another": 1}) as writer:
        writer.write(made(3))
    assert len(content(store, "scores")) == 1
    assert verify(store).problems == []


def test_a_table_on_a_disk_that_is_not_there_is_not_begun_anew(store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    shutil.move(tmp_path / "st/scores", disk)
    (tmp_path / "st/scores").symlink_to(disk, target_is_directory=True)
    disk.rename(tmp_path / "unmounted")
    with pytest.raises(PrepError, match="Cannot create"):
        store.stage("scores").writer({"toy": 1}).__enter__()
    (tmp_path / "unmounted").rename(disk)
    assert len(content(store, "scores")) == 20
    assert verify(store).problems == []


@pytest.mark.parametrize("harm", ["manifest.json", "ledger-0000000099.json"])
def test_the_remedy_for_damaged_bookkeeping_names_the_store(store: Store, harm: str) -> None:
    (Path(store.uri) / "_state" / "scores" / harm).write_text("{")
    with pytest.raises(PrepError, match=harm) as error:
        store.stage("scores").reader()
    assert f"`pcnet-prep verify {store.uri} --repair`" in error.value.remedy


def test_names_of_the_old_bookkeeping() -> None:
    folder = DATA / "inline" / "store" / "scores"
    assert {path.name for path in folder.iterdir() if not is_old(path.name)} == {
        path.name for path in folder.glob("*.parquet")
    }
    state = state_of(open_store(DATA / "inline" / "store").stage("scores").files)
    assert state.uri == str(DATA / "inline" / "store" / "_state" / "scores")
    assert json.loads((folder / "_manifest.json").read_text())["shards"] == []
