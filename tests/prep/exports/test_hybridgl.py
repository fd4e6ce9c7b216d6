"""The reader for HybridGL in docs/exports.md gives its loop what its lines read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prep.cache.store import Store
from prep.datasets.catalogue import Dataset

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def prepared(store: Store) -> Any:
    page = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8").partition("\n## HybridGL\n")[2]
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found
    assert len(found[1].splitlines()) < 40
    scope: dict[str, Any] = {}
    exec(compile(found[1], "docs/exports.md", "exec"), scope)
    return scope["Prepared"](store.uri)


def test_masks_are_those_of_the_store(prepared: Any, store: Store) -> None:
    for row in store.stage("proposals").reader().read().to_pylist():
        masks = prepared.masks_of(row["image"])
        assert [int(one["segmentation"].sum()) for one in masks] == [mask["area"] for mask in row["masks"]]
        stacked = np.stack([one["segmentation"] for one in masks])  # lines 86-87
        assert (stacked.shape, stacked.dtype) == ((6, 64, 64), bool)
        for one in masks:
            x, y, w, h = map(int, one["bbox"])
            assert one["segmentation"][y : y + h, x : x + w].sum() == one["segmentation"].sum()


def test_every_sentence_has_its_words(prepared: Any, dataset: Dataset) -> None:
    for row in dataset.expressions():
        words = prepared.words_of(row.text)
        assert words["noun_phrase"]
        assert words["noun_phrase"].endswith(words["head_noun"])
        assert len(words["nouns"]) == len(words["other_noun_phrases"])


@pytest.mark.parametrize(
    ("sentence", "direction", "relation", "noun"),
    [
        ("the red circle on the left", "left", "left", "circle"),
        ("the bigger dog", "none", "big", "dog"),
        ("cup", "none", "none", "cup"),
    ],
)
def test_direction_and_relation_words(
    prepared: Any, sentence: str, direction: str, relation: str, noun: str
) -> None:
    prepared.phrases[sentence] = [f"the {noun}", sentence]
    words = prepared.words_of(sentence)
    assert (words["dirflag"], words["relaflag"], words["head_noun"]) == (direction, relation, noun)


def test_other_nouns_come_from_relations(prepared: Any) -> None:
    prepared.phrases["man next to a blue car"] = ["the man", "the man next to a blue car"]
    words = prepared.words_of("Man next to a blue car")
    assert (words["noun_phrase"], words["other_noun_phrases"]) == ("the man", ["a blue car"])
    assert words["nouns"] == ["car"]
