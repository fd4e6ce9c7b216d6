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
from prep.demo.dataset import splits, write
from prep.demo.scenes import COLOURS, KINDS, RADII, SIDE, TYPES, Thing, say, scene


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
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
        assert all(factors[1:3] == (1, 1) for factors in image.layer)  # 4:4:4


def test_every_count_of_images_has_a_validation_image() -> None:
    for count in (1, 2, 5, 50, 5000):
        names = list(splits(count))
        assert len(names) == count
        assert names[0] == "train"
        assert ("val" in names) == (count > 1)


@given(st.integers(0, 10_000))
def test_scenes_hold_things_that_do_not_touch(seed: int) -> None:
    things = scene(Random(seed))
    assert 2 <= len(things) <= 6
    for at, thing in enumerate(things):
        reach = RADII[thing.size]
        assert reach <= thing.x <= SIDE - 1 - reach
        assert reach <= thing.y <= SIDE - 1 - reach
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


@given(st.integers(0, 10_000))
def test_what_is_said_fits_the_target_and_hardness_is_what_attributes_leave_open(seed: int) -> None:
    random = Random(seed)
    things = scene(random)
    for target in things:
        said = say(random, things, target, "attribute")
        if said is not None:
            assert _head(said.text, things) == [target]
            assert not said.hard
        said = say(random, things, target, "position")
        if said is not None:
            fits = _head(said.text, things)
            assert target in fits
            assert said.hard == (len(fits) > 1)
            words = said.text.split()
            if "leftmost" in words:
                assert target.x == min(t.x for t in fits)
            if "lowest" in words:
                assert target.y == max(t.y for t in fits)
        said = say(random, things, target, "relation")
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
