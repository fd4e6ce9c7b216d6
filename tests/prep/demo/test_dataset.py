"""The synthetic dataset: the real layout, the same bytes for the same seed, and expressions that are true."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.demo.dataset import splits, write
from prep.demo.scenes import COLOURS, EASY, HARD, KINDS, RADII, TYPES, Canvas, Thing, say, scene


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("synthetic"), images=60, seed=1)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_seed_decides_every_byte(data: Path, tmp_path: Path) -> None:
    assert _files(write(tmp_path / "again", images=60, seed=1)) == _files(data)
    assert _files(write(tmp_path / "other", images=60, seed=2)) != _files(data)


def test_the_layout_is_that_of_the_real_dataset(data: Path) -> None:
    refs = pickle.loads((data / "refer/refcoco/refs(unc).p").read_bytes())
    keys = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id"}
    assert all(set(ref) == keys for ref in refs)
    assert all(set(s) == {"tokens", "raw", "sent_id", "sent"} for ref in refs for s in ref["sentences"])
    rows = list(open_dataset(data, "refcoco").expressions())
    assert all(not row.problem for row in rows)
    types = json.loads((data / "refer/refcoco/types.json").read_text())
    assert sorted(types) == sorted(str(row.sent_id) for row in rows)
    assert {entry["type"] for entry in types.values()} == set(TYPES)
    assert {row.split for row in rows} == {"train", "val", "testA", "testB"}
    with Image.open(data / str(rows[0].image)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
        assert all(factors[1:3] == (1, 1) for factors in image.layer)  # 4:4:4


def test_every_count_of_images_has_a_validation_image() -> None:
    for count in (1, 2, 5, 50, 5000):
        names = list(splits(count))
        assert len(names) == count
        assert names[0] == "train"
        assert ("val" in names) == (count > 1)


def test_hard_scenes_are_larger_and_hold_more(tmp_path: Path) -> None:
    data = write(tmp_path, images=30, seed=1, canvas=HARD)
    dataset = open_dataset(data, "refcoco")
    rows = list(dataset.expressions())
    assert all(not row.problem for row in rows)
    truth = Truth(dataset)
    masks = [truth.mask(row) for row in rows]
    assert {mask.shape for mask in masks} == {(128, 128)}
    assert any(mask[100:].any() for mask in masks)
    with Image.open(data / str(rows[0].image)) as image:
        assert image.size == (128, 128)


@given(st.integers(0, 10_000), st.sampled_from([EASY, HARD]))
def test_scenes_hold_things_that_do_not_touch(seed: int, canvas: Canvas) -> None:
    things = scene(Random(seed), canvas)
    assert canvas.fewest <= len(things) <= canvas.most
    for at, thing in enumerate(things):
        reach = RADII[thing.size]
        assert reach <= thing.x <= canvas.side - 1 - reach
        assert reach <= thing.y <= canvas.side - 1 - reach
        for other in things[:at]:
            gap = ((thing.x - other.x) ** 2 + (thing.y - other.y) ** 2) ** 0.5
            assert gap > reach + RADII[other.size] + 1


def _head(text: str, things: list[Thing]) -> list[Thing]:
    """The things that fit what is said before any relation, by an independent reading of the words."""
    words = text.replace("big", "large").split()
    for at, word in enumerate(words):
        if (
            at
            and word in {"left", "right", "above", "over", "below", "under", "closest", "nearest", "to"}
            and "the" in words[at:]
        ):
            words = words[:at]
            break
    stated = [{w for w in words if w in options} for options in (RADII, COLOURS, KINDS)]
    return [t for t in things if all(not want or t[i] in want for i, want in enumerate(stated))]


@given(st.integers(0, 10_000), st.sampled_from([EASY, HARD]))
def test_what_is_said_fits_the_target_and_hardness_is_what_attributes_leave_open(
    seed: int, canvas: Canvas
) -> None:
    random = Random(seed)
    things = scene(random, canvas)
    for target in things:
        said = say(random, things, target, "attribute", canvas)
        if said is not None:
            assert _head(said.text, things) == [target]
            assert not said.hard
        said = say(random, things, target, "position", canvas)
        if said is not None:
            fits = _head(said.text, things)
            assert target in fits
            assert said.hard == (len(fits) > 1)
            words = said.text.split()
            if "leftmost" in words:
                assert target.x == min(t.x for t in fits)
            if "lowest" in words:
                assert target.y == max(t.y for t in fits)
        said = say(random, things, target, "relation", canvas)
        if said is not None:
            assert target in _head(said.text, things)


def test_relations_hold_for_the_target_alone() -> None:
    things = [
        Thing("small", "red", "circle", 10, 32),
        Thing("small", "red", "circle", 55, 32),
        Thing("large", "blue", "square", 32, 32),
    ]
    seen = set()
    for seed in range(300):
        said = say(Random(seed), things, things[0], "relation")
        if said is not None and said.hard:
            seen.add(said.text.removeprefix("the ").replace("big", "large"))
    assert seen
    assert all("left of" in text and "right" not in text for text in seen)
