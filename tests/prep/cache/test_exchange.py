"""Two folders change their names in one step that survives a crash of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.cache import exchange as module
from prep.cache.exchange import exchange


@pytest.mark.parametrize("other", ["b", "sub/b"])
def test_both_folders_above_are_synced_after_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    first, second = tmp_path / "a", tmp_path / other
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / f"of {folder.name}").touch()
    seen = []

    def sync(folder: Path) -> None:
        seen.append((folder, (first / "of b").exists()))

    monkeypatch.setattr(module, "sync_folder", sync)
    if not exchange(first, second):
        pytest.skip("This file system swaps no folders.")
    assert [path.name for folder in (first, second) for path in folder.iterdir()] == ["of b", "of a"]
    assert seen == [(folder, True) for folder in dict.fromkeys((first.parent, second.parent))]


def test_a_folder_that_is_not_there_is_not_swapped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()
