"""The official counts, against themselves and a tree that is complete or lacks something."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.datasets.catalogue import open_dataset
from prep.datasets.expected_counts import ALL, OFFICIAL, Counts, check
from prep.demo.dataset import write


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tree"), images=20, seed=1)


@pytest.mark.parametrize("what", ["refs", "sentences"])
def test_splits_add_up(what: str) -> None:
    for name, table in OFFICIAL.items():
        parts = [getattr(counts, what) for split, counts in table.items() if split != ALL]
        total = getattr(table[ALL], what) if ALL in table else None
        if total is not None and None not in parts and name != ("grefcoco", "unc"):
            assert sum(parts) == total, name


def official(tree: Path) -> dict[str, Counts]:
    """What the annotation files hold, counted without our reader."""
    import pickle

    refs = pickle.loads((tree / "refer" / "refcoco" / "refs(unc).p").read_bytes())
    table = {}
    for split in [*{ref["split"] for ref in refs}, ALL]:
        own = [ref for ref in refs if split in (ALL, ref["split"])]
        sentences = sum(len(ref["sentences"]) for ref in own)
        table[split] = Counts(len(own), sentences, len({ref["image_id"] for ref in own}))
    return table


def test_a_whole_tree_is_complete(tree: Path) -> None:
    table = official(tree)
    found = check(open_dataset(tree, "refcoco"), {("refcoco", "unc"): table})
    assert found.complete
    assert found.counts == table[ALL]


def test_what_a_tree_lacks_is_named(tree: Path, tmp_path: Path) -> None:
    import shutil

    table = official(tree)
    shutil.copytree(tree, tmp_path / "coco")
    first, second, *_ = sorted((tmp_path / "coco" / "train2014").iterdir())
    first.unlink()
    second.unlink()
    table["train"] = table["train"]._replace(refs=table["train"].refs + 1)  # type: ignore[operator]
    found = check(open_dataset(tmp_path / "coco", "refcoco"), {("refcoco", "unc"): table})
    assert not found.complete
    assert found.problems == [
        f"train has {table['train'].refs - 1} of {table['train'].refs} refs",  # type: ignore[operator]
        f"2 image files are missing: train2014/{first.name}, train2014/{second.name}",
    ]


def test_a_dataset_without_official_counts_is_not_called_complete(tree: Path) -> None:
    assert not check(open_dataset(tree, "refcoco"), {}).complete
