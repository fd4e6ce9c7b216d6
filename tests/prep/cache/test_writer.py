"""What a writer and its readers make of files that a killed or foreign writer left in a table's folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from prep.cache.files import Files
from prep.cache.manifest import fold, load_manifest, write_ledger
from prep.cache.schema import SCORES
from prep.cache.shards import Shard, ShardMeta, encode
from prep.cache.state import MANIFEST, ledger_name, ledger_sequences, state_of
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from tests.prep.toy import item, row

SETTINGS = {"toy": 1}


def rows(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(item(number)) for number in numbers], schema=SCORES)


def fill(store: Store, *numbers: int) -> None:
    with store.stage("scores").writer(SETTINGS, commit_seconds=0) as writer:
        for number in numbers:
            writer.write(rows(number))


def stored(store: Store) -> set[str]:
    return set(store.stage("scores").reader().read()["row_id"].to_pylist())


def left_behind(store: Store, *numbers: int, stage: str = "scores", generation: str | None = None) -> Shard:
    """A shard with its final name that no manifest lists, as a writer leaves it that dies before listing."""
    files = store.stage("scores").files
    manifest = load_manifest(files)
    assert manifest is not None
    shard, data = encode(rows(*numbers), ShardMeta(stage, generation or manifest.generation, SETTINGS))
    files.write(shard.name, data)
    return shard


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "prepared", create=True)
    fill(made, 0, 1)
    return made


@pytest.fixture
def files(store: Store) -> Files:
    return store.stage("scores").files


def stored_shards(files: Files) -> dict[str, Shard]:
    manifest = load_manifest(files)
    assert manifest is not None
    return manifest.shards


def next_ledger(files: Files, generation: str | None, added: list[Shard], removed: list[str]) -> int:
    manifest = load_manifest(files)
    assert manifest is not None
    write_ledger(files, generation or manifest.generation, manifest.folded + 1, added, removed)
    return manifest.folded + 1


def test_a_ledger_of_another_generation_changes_nothing(store: Store, files: Files) -> None:
    before = load_manifest(files)
    assert before is not None
    shard = left_behind(store, 7)
    next_ledger(files, "another", [shard], list(before.shards))
    after = load_manifest(files)
    assert after is not None
    assert after.shards == before.shards
    assert stored(store) == {item(0), item(1)}


def test_a_ledger_adds_and_removes_shards(store: Store, files: Files) -> None:
    before = load_manifest(files)
    assert before is not None
    gone, *kept = sorted(before.shards)
    shard = left_behind(store, 7)
    sequence = next_ledger(files, None, [shard], [gone])
    after = load_manifest(files)
    assert after is not None
    assert sorted(after.shards) == sorted([*kept, shard.name])
    assert after.folded == sequence


def test_an_entry_that_the_manifest_includes_is_not_applied_again(files: Files) -> None:
    manifest = load_manifest(files)
    assert manifest is not None
    write_ledger(files, manifest.generation, manifest.folded, [], list(manifest.shards))
    again = load_manifest(files)
    assert again is not None
    assert again.shards == manifest.shards


@pytest.mark.parametrize("deleted", [False, True])
def test_a_fold_that_dies_when_it_deletes_loses_nothing(
    store: Store, files: Files, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    shard = left_behind(store, 7)
    next_ledger(files, None, [shard], [])
    manifest = load_manifest(files)
    assert manifest is not None

    really = Files.delete

    def dies(self: Files, name: str) -> None:
        if deleted:
            really(self, name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Files, "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            fold(files, manifest)
    assert stored(store) == {item(0), item(1), item(7)}
    fold(files, manifest)
    assert ledger_sequences(state_of(files).sizes()) == []
    assert stored(store) == {item(0), item(1), item(7)}


def test_a_fold_while_the_state_is_read_is_seen_whole(
    store: Store, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has the old manifest, and the entries that complete it are gone: it has to begin again."""
    next_ledger(files, None, [left_behind(store, 7)], [])
    real, folded = Files.read, False

    def read(self: Files, name: str) -> bytes:
        nonlocal folded
        data = real(self, name)
        if name == MANIFEST and not folded:
            folded = True
            known = load_manifest(files)
            assert known is not None
            fold(files, known)
        return data

    monkeypatch.setattr(Files, "read", read)
    manifest = load_manifest(files)
    assert folded
    assert manifest is not None
    assert (manifest.rows, ledger_sequences(state_of(files).sizes())) == (3, [])


def test_a_fold_keeps_entries_that_are_newer_than_the_manifest(files: Files) -> None:
    manifest = load_manifest(files)
    assert manifest is not None
    for number in (manifest.folded, manifest.folded + 1):
        write_ledger(files, manifest.generation, number, [])
    fold(files, manifest)
    assert ledger_sequences(state_of(files).sizes()) == [manifest.folded + 1]


def test_entries_of_a_replaced_table_are_gone_once_a_writer_has_opened(store: Store, files: Files) -> None:
    """A replacement that was killed leaves them; later entries must not take their numbers."""
    last = next_ledger(files, "the replaced table's", [], list(stored_shards(files)))
    with store.stage("scores").writer(SETTINGS, commit_seconds=0) as writer:
        assert ledger_sequences(state_of(files).sizes()) == []
        writer.write(rows(7))
        assert ledger_sequences(state_of(files).sizes()) == [last + 1]
        assert stored(store) == {item(0), item(1), item(7)}


def test_the_next_writer_lists_a_whole_shard_that_was_not_listed(store: Store, files: Files) -> None:
    shard = left_behind(store, 7, 8)
    assert stored(store) == {item(0), item(1)}
    fill(store, 9)
    assert stored(store) == {item(number) for number in (0, 1, 7, 8, 9)}
    assert files.exists(shard.name)
    assert verify(store).problems == []


@pytest.mark.parametrize(
    ("numbers", "more"),
    [
        ((7,), {"generation": "another"}),
        ((7,), {"stage": "phrases"}),
        ((1, 7), {}),  # one of its rows is committed
    ],
)
def test_the_next_writer_deletes_an_unlisted_shard_that_does_not_belong(
    store: Store, files: Files, numbers: tuple[int, ...], more: dict[str, str]
) -> None:
    shard = left_behind(store, *numbers, **more)
    fill(store, 9)
    assert not files.exists(shard.name)
    assert stored(store) == {item(0), item(1), item(9)}
    assert verify(store).problems == []


def test_verify_counts_the_rows_of_a_shard(store: Store, files: Files) -> None:
    listed = json.loads(state_of(files).read(MANIFEST))
    listed["shards"][0]["rows"] += 1
    state_of(files).write(MANIFEST, json.dumps(listed).encode())
    (problem,) = verify(store).problems
    assert (problem.kind, problem.file) == ("altered", listed["shards"][0]["name"])
    assert problem.detail == "1 rows, not 2"


def test_verify_compares_the_whole_hash_of_a_shard(store: Store, files: Files) -> None:
    listed = json.loads(state_of(files).read(MANIFEST))
    digest = listed["shards"][0]["sha256"]
    listed["shards"][0]["sha256"] = digest[:-1] + ("1" if digest.endswith("0") else "0")
    state_of(files).write(MANIFEST, json.dumps(listed).encode())
    (problem,) = verify(store).problems
    assert (problem.kind, problem.file) == ("altered", listed["shards"][0]["name"])


def test_verify_compares_the_hash_with_the_name_of_a_shard(store: Store, files: Files) -> None:
    """A manifest that lists a whole shard under another name: the cache and the repair go by names."""
    manifest = load_manifest(files)
    assert manifest is not None
    name, shard = next(iter(manifest.shards.items()))
    other = f"part-{'0' * 16}.parquet"
    Path(files.uri, name).rename(Path(files.uri, other))
    manifest.shards[other] = replace(manifest.shards.pop(name), name=other)
    manifest.save(files)
    (problem,) = verify(store).problems
    assert (problem.kind, problem.file) == ("altered", other)
    assert problem.detail == f"SHA-256 is {shard.sha256[:16]}..., not the one in its name; 1 rows"


def test_numbers_of_ledgers_are_read_back_in_order() -> None:
    names = [ledger_name(12), "part-0.parquet", ledger_name(3), "ledger-x.json", MANIFEST]
    assert ledger_sequences(names) == [3, 12]


def test_a_row_that_is_there_is_refused_with_its_key_and_nothing_of_its_unit_is_kept(store: Store) -> None:
    with store.stage("scores").writer(SETTINGS, commit_seconds=0) as writer:
        with pytest.raises(ValueError, match=item(1)):
            writer.write(rows(5, 1))
        with pytest.raises(ValueError, match="already exists"):
            writer.write(rows(6, 6))
    assert stored(store) == {item(0), item(1)}


@pytest.mark.parametrize(
    ("every", "committed"),
    [
        (0.25, {1.75: 7, 3.5: 14}),  # fast units: one commit every two seconds, before they have passed
        (1.5, {1.5: 1, 3.0: 2, 4.5: 3}),  # the next unit would come too late: each is committed at once
        (30.0, {30.0: 1, 60.0: 2}),
    ],
)
def test_finished_units_wait_less_than_the_commit_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, committed: dict[float, int]
) -> None:
    now = 100.0
    monkeypatch.setattr("prep.cache.writer.time.monotonic", lambda: now)
    store, found = open_store(tmp_path / "prepared", create=True), {}
    with store.stage("scores").writer(SETTINGS, commit_seconds=2.0) as writer:
        for number in range(1, 1 + int(max(committed) / every)):
            now = 100.0 + number * every
            before = writer.commits
            writer.write(rows(number))
            if writer.commits > before:
                found[now - 100.0] = len(stored(store))
    assert found == committed


def test_a_lock_is_held_from_here_while_it_is_held_and_not_after(store: Store) -> None:
    from prep.cache.lock import WriterLock

    files = store.stage("scores").files
    assert not WriterLock(files).is_held()
    with store.stage("scores").writer(SETTINGS):
        assert WriterLock(files).is_held()
    assert not WriterLock(files).is_held()


def test_settings_that_only_one_side_has_are_shown_as_unset() -> None:
    from prep.cache.manifest import differences

    assert differences({"old": 1}, {"new": {"deep": 2}}) == [
        "  new: the store has '(unset)', this run has {'deep': 2}",
        "  old: the store has 1, this run has '(unset)'",
    ]
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == [
        "  a.c: the store has 2, this run has 3"
    ]


def test_the_refusal_of_a_second_writer_names_the_first_and_what_to_do(store: Store) -> None:
    import socket

    from prep.errors import PrepError

    with (
        store.stage("scores").writer(SETTINGS),
        pytest.raises(PrepError) as error,
        store.stage("scores").writer(SETTINGS),
    ):
        pass
    assert f"pid {os.getpid()} on {socket.gethostname()} since 20" in error.value.message
    assert "--store" in error.value.remedy


def test_the_status_has_what_the_manifest_has(store: Store) -> None:
    from prep.cache.keys import fingerprint
    from prep.cache.maintain import status
    from prep.cache.manifest import package_versions

    with store.stage("scores").writer(SETTINGS, inputs={"refs.p": "ab" * 32}) as writer:
        writer.finish({"split": "val"}, 2, 1)
        writer.record_run({"rows": 2})
        (now,) = status(store).stages
        assert now.holder is not None
        assert now.holder["pid"] == os.getpid()
    (table,) = status(store).stages
    manifest = load_manifest(store.stage("scores").files)
    assert manifest is not None
    assert (table.stage, table.inputs) == ("scores", {"refs.p": "ab" * 32})
    assert (table.rows, table.shards, table.statuses) == (2, 2, {"ok": 2} if table.statuses else {})
    assert table.bytes == sum(store.stage("scores").files.sizes().values())
    assert (table.settings, table.holder, table.set_aside) == (SETTINGS, None, 0)
    assert table.fingerprint == fingerprint(SETTINGS)
    assert (table.created, table.versions) == (manifest.created, package_versions())
    (finished,) = table.finished
    assert {name: finished[name] for name in ("selection", "rows", "failed")} == {
        "selection": {"split": "val"},
        "rows": 2,
        "failed": 1,
    }
    (ran,) = table.runs
    assert ran["rows"] == 2
    assert finished["at"][:4] == ran["at"][:4] == table.created[:4]
