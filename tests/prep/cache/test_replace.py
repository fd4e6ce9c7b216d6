"""A replacement keeps the old rows until the first new ones are committed; a linked folder stays a link."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from prep.cache.compact import compact
from prep.cache.maintain import repair
from prep.cache.schema import SCORES
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from prep.cache.writer import StageWriter
from prep.errors import PrepError


def rows(first: int, count: int) -> pa.Table:
    made = [
        {
            "row_id": f"{number:032x}", "split_by": "unc", "image": "1.png", "scores": [0.5],
            "proposals_key": "p", "model": "m", "key": f"k{number}",
        }
        for number in range(first, first + count)
    ]  # fmt: skip
    return pa.Table.from_pylist(made, schema=SCORES)


def keys(store: Store) -> list[int]:
    return sorted(
        int(key, 16) for key in store.stage("scores").reader().read(["row_id"])["row_id"].to_pylist()
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "st", create=True)
    for first in (0, 10):
        with made.stage("scores").writer({"model": 1}) as writer:
            writer.write(rows(first, 10))
    return made


@pytest.mark.parametrize("settings", [{"model": 1}, {"model": 2}])
def test_a_replacement_that_fails_or_writes_nothing_leaves_the_old_rows(
    store: Store, settings: dict[str, int]
) -> None:
    with pytest.raises(KeyError), store.stage("scores").writer(settings, replace=True):
        raise KeyError("a mistyped split")
    with store.stage("scores").writer(settings, replace=True) as writer:
        writer.record_run({"rows": 0})
        writer.finish({"split": "val"}, 0)
        assert len(writer.done) == 0
    assert keys(store) == list(range(20))
    assert store.stage("scores").reader().settings == {"model": 1}
    assert verify(store).ok


def test_the_first_new_rows_replace_all_old_ones(store: Store) -> None:
    with store.stage("scores").writer({"model": 2}, replace=True, commit_seconds=0) as writer:
        assert keys(store) == list(range(20))
        writer.write(rows(5, 3))
        assert keys(store) == [5, 6, 7]
        writer.write(rows(30, 1))
    assert keys(store) == [5, 6, 7, 30]
    assert store.stage("scores").reader().settings == {"model": 2}
    assert verify(store).ok
    folder = Path(store.uri) / "scores"
    assert len(list(folder.glob("*.parquet"))) == 2


def test_a_replacement_that_dies_before_it_has_kept_the_old_shards_still_has_the_old_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next writer removes what its manifest does not list, so it is kept in the cache before."""

    def dies(writer: StageWriter, names: list[str], settings_fingerprint: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StageWriter, "_keep", dies)
        writer = store.stage("scores").writer({"model": 2}, replace=True, commit_seconds=0)
        with pytest.raises(KeyboardInterrupt), writer:
            writer.write(rows(5, 3))
    assert keys(store) == list(range(20))


def test_a_table_on_another_disk_stays_there(store: Store, tmp_path: Path) -> None:
    folder, disk = tmp_path / "st/scores", tmp_path / "disk/scores"
    disk.parent.mkdir()
    shutil.move(folder, disk)
    folder.symlink_to(disk, target_is_directory=True)
    compact(store)
    assert folder.is_symlink()
    assert len(list(disk.glob("*.parquet"))) == 1
    assert keys(store) == list(range(20))
    with store.stage("scores").writer({"model": 2}, replace=True) as writer:
        writer.write(rows(0, 4))
    assert folder.is_symlink()
    assert len(list(disk.glob("*.parquet"))) == 1
    assert verify(store).ok


def test_nothing_outside_the_table_is_removed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    for name in ("part-0123456789abcdef.parquet", "notes.parquet"):
        (outside / name).write_bytes(b"mine")
    folder = tmp_path / "st/scores"
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    (folder / "part-00000000000000aa.parquet").symlink_to(outside / "notes.parquet")
    (folder / "notes.parquet").write_bytes(b"mine too")
    repair(store)
    compact(store)
    assert sorted(path.name for path in outside.iterdir()) == [
        "notes.parquet",
        "part-0123456789abcdef.parquet",
    ]
    assert (tmp_path / "st/scores/notes.parquet").read_bytes() == b"mine too"
    assert keys(store) == list(range(20))


def test_names_of_shards_do_not_climb(store: Store, tmp_path: Path) -> None:
    manifest = tmp_path / "st/_state/scores/manifest.json"
    victim = tmp_path / "victim.parquet"
    victim.write_bytes(b"x")
    text = manifest.read_text()
    name = next(iter(store.stage("scores").reader().manifest.shards))  # type: ignore[union-attr]
    manifest.write_text(text.replace(name, "../../victim.parquet"))
    with pytest.raises(PrepError, match="not a valid manifest"):
        store.stage("scores").reader()


def test_a_shard_that_cannot_be_read_now_is_kept(store: Store, tmp_path: Path) -> None:
    shard = next((tmp_path / "st/scores").glob("*.parquet"))
    content = shard.read_bytes()
    shard.unlink()
    shard.mkdir()  # reading it fails, as it does where permissions or a disk fail
    before = (tmp_path / "st/_state/scores/manifest.json").read_bytes()
    with pytest.raises(PrepError, match="cannot be read"):
        repair(store)
    assert (tmp_path / "st/_state/scores/manifest.json").read_bytes() == before
    shard.rmdir()
    shard.write_bytes(content)
    assert verify(store).ok
