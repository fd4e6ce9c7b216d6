"""The concepts job: one row for each image and target phrase, once, in line with phrases and images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from prep.cache.keys import concept_id
from prep.cache.row_checks import CHECKS, concept_faults
from prep.cache.schema import CONCEPTS
from prep.cache.store import Store
from prep.cache.verify import verify
from prep.concepts.detectors import DetectorSettings, Finder, open_detector
from prep.concepts.job import read_targets, run_concepts
from prep.concepts.stage import ConceptStage, ImagePhrases
from prep.errors import PrepError
from tests.prep.concepts.worlds import ID, Row, write_photo, write_phrases

ROWS: list[Row] = [
    (ID(0), "a/1.png", ["a dog", "a dog on the left"], "train"),
    (ID(1), "a/1.png", ["the man"], "train"),
    (ID(2), "a/1.png", ["a dog", "a dog in red"], "val"),  # the same target
    (ID(3), "2.png", ["a dog"], "val"),  # the same phrase in another image
    (ID(4), "2.png", ["The  Man"], "val"),
    (ID(5), None, ["a cat"], "train"),
    (ID(6), "2.png", [], "train"),
]
PAIRS = [("2.png", "The  Man"), ("2.png", "a dog"), ("a/1.png", "a dog"), ("a/1.png", "the man")]


def stage(sam3: Path, **options: Any) -> ConceptStage:
    return ConceptStage(DetectorSettings(model=str(sam3), **{"threshold": 0.04, **options}))


def never(sam3: Path) -> ConceptStage:
    """A stage that must not be opened."""
    made = stage(sam3)
    made.open = None  # type: ignore[assignment, method-assign]
    return made


@pytest.fixture
def world(tmp_path: Path) -> tuple[Store, Path]:
    write_photo(tmp_path / "photos/a/1.png", 1)
    write_photo(tmp_path / "photos/2.png", 2, 20, 30)
    return write_phrases(tmp_path / "store", ROWS), tmp_path / "photos"


def rows_of(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    rows = store.stage("concepts").reader().read().to_pylist()
    found = {(row["image"], row["phrase"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_image_and_target_phrase_has_one_row(sam3: Path, world: tuple[Store, Path]) -> None:
    store, photos = world
    lines: list[str] = []
    summary = run_concepts(stage(sam3), store, photos, tell=lines.append)
    assert (summary.total, summary.done, summary.reused, summary.failed) == (4, 4, 0, 0)
    assert summary.extra["skipped"] == {"no image": 1, "phrases have an error": 1}
    assert lines == [
        "4 phrases in 2 images, 1 expressions left out: no image, "
        "1 expressions left out: phrases have an error"
    ]
    rows = rows_of(store)
    assert sorted(rows) == PAIRS
    finder: Finder = open_detector(stage(sam3).options)
    for (image, phrase), row in rows.items():
        pixels = np.asarray(Image.open(photos / image))
        (found,) = finder.find(pixels, [" ".join(phrase.lower().split())])
        assert (row["height"], row["width"]) == pixels.shape[:2]
        assert [mask["counts"] for mask in row["masks"]] == [one.counts for one in found]
        np.testing.assert_allclose(
            [mask["score"] for mask in row["masks"]], [one.score for one in found], atol=1e-5
        )
        assert (row["concept_id"], row["detector"]) == (concept_id(image, phrase), "sam3")
        assert row["status"] == ("ok" if found else "empty")
    assert {row["status"] for row in rows.values()} == {"ok", "empty"}
    assert verify(store, CHECKS).ok


def test_a_run_is_resumed_and_nothing_is_done_twice(
    sam3: Path, world: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, photos = world
    summary = run_concepts(stage(sam3), store, photos, splits=["train"], unit_size=1)
    assert (summary.total, summary.done, summary.reused) == (2, 2, 0)
    before = rows_of(store)
    assert sorted(before) == PAIRS[2:]
    summary = run_concepts(stage(sam3), store, photos, datasets=["toy"])
    assert (summary.total, summary.done, summary.reused) == (4, 2, 2)
    assert {pair: row for pair, row in rows_of(store).items() if pair in before} == before
    with monkeypatch.context() as changed:
        changed.setattr("prep.proposals.stale_images.read_bytes", None)  # files that were read are trusted
        summary = run_concepts(never(sam3), store, photos)
    assert (summary.total, summary.done, summary.reused) == (4, 0, 4)
    assert len(store.stage("concepts").reader().manifest.runs) == 2  # type: ignore[union-attr]
    with pytest.raises(PrepError, match="other settings"):
        run_concepts(stage(sam3, threshold=0.05), store, photos)
    assert run_concepts(stage(sam3, threshold=0.05), store, photos, replace=True).done == 4
    with pytest.raises(PrepError, match="nothing to look for in dataset other, split"):
        run_concepts(never(sam3), store, photos, datasets=["other"])


def test_rows_follow_the_phrases_and_the_images(sam3: Path, world: tuple[Store, Path]) -> None:
    store, photos = world
    run_concepts(stage(sam3), store, photos)
    before = rows_of(store)
    changed = [*ROWS[:1], (ID(1), "a/1.png", ["a tree"], "train"), *ROWS[2:]]
    write_phrases(Path(store.uri), changed, version=2)
    summary = run_concepts(stage(sam3), store, photos)
    assert (summary.done, summary.reused) == (1, 3)
    assert summary.extra["rows set aside, as the input no longer has them"] == 1
    now = rows_of(store)
    assert set(before) - set(now) == {("a/1.png", "the man")}
    assert set(now) - set(before) == {("a/1.png", "a tree")}
    write_phrases(Path(store.uri), ROWS, version=3)
    summary = run_concepts(never(sam3), store, photos)
    assert summary.extra["rows taken back, as the input has them again"] == 1
    assert rows_of(store) == before

    write_photo(photos / "a/1.png", 3)
    summary = run_concepts(stage(sam3), store, photos)
    assert (summary.done, summary.reused, summary.extra["changed"]) == (2, 2, 2)
    now = rows_of(store)
    assert {pair for pair in now if now[pair] != before[pair]} == set(PAIRS[2:])
    assert run_concepts(never(sam3), store, photos).extra["changed"] == 0


def test_rows_are_taken_from_a_shared_cache(
    sam3: Path, world: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, photos = world
    run_concepts(stage(sam3), store, photos, cache=tmp_path / "cache")
    # Another store with the same photo under another name, and a phrase that reads the same.
    write_photo(tmp_path / "others/3.png", 1)
    other = write_phrases(tmp_path / "other", [("q0", "3.png", ["THE man"], "val")])
    made = stage(sam3)
    made.open = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr("prep.concepts.stage.decode", None)  # no pixels are needed
    assert run_concepts(made, other, tmp_path / "others", cache=tmp_path / "cache").done == 1
    (row,) = rows_of(other).values()
    known = rows_of(store)["a/1.png", "the man"]
    assert {name for name in row if row[name] != known[name]} == {"concept_id", "image", "phrase"}


def test_what_cannot_be_looked_at_is_an_error_row(sam3: Path, world: tuple[Store, Path]) -> None:
    store, photos = world
    (photos / "2.png").write_bytes(b"no image")
    rows: list[Row] = [
        *ROWS[:4],
        (ID(7), "gone.png", ["a dog"], "val"),
        (ID(8), "../up.png", ["a dog"], "val"),
        (ID(9), "a/1.png", ["\x00"], "val"),
    ]
    write_photo(photos.parent / "up.png", 5)
    write_phrases(Path(store.uri), rows, version=2)
    summary = run_concepts(stage(sam3), store, photos)
    assert (summary.total, summary.failed) == (6, 4)
    errors = {pair: row["error"] for pair, row in rows_of(store).items() if row["status"] == "error"}
    assert errors["gone.png", "a dog"] == "file not found"
    assert errors["../up.png", "a dog"] == "the image's name points outside its folder"
    assert errors["2.png", "a dog"].startswith("not an image")
    assert errors["a/1.png", "\x00"] == "the phrase has no text"
    assert len(errors) == 4
    (problem,) = verify(store, CHECKS).problems
    assert (problem.stage, "'../up.png' leaves the image folder" in problem.detail) == ("phrases", True)
    summary = run_concepts(never(sam3), store, photos)
    assert (summary.failed, summary.failed_before) == (0, 4)
    write_photo(photos / "gone.png", 6)  # a file that is there now is looked at
    summary = run_concepts(stage(sam3), store, photos)
    assert (summary.done, summary.failed, summary.failed_before) == (1, 0, 3)
    before = rows_of(store)
    with pytest.raises(PrepError, match=r"The image folder .* does not exist"):
        run_concepts(never(sam3), store, photos / "nowhere", replace=True)
    assert rows_of(store) == before
    run_concepts(never(sam3), store, photos / "nowhere")  # every row is there
    with pytest.raises(PrepError, match=r"The image folder .* does not exist"):
        run_concepts(never(sam3), write_phrases(photos.parent / "new", ROWS), photos / "nowhere")


def test_a_detector_that_fails_costs_only_its_image(sam3: Path, world: tuple[Store, Path]) -> None:
    store, photos = world
    made = stage(sam3)
    made.open()
    finder = made._finder

    class Failing:
        def find(self, pixels: Any, phrases: Any) -> Any:
            if pixels.shape[0] == 20:
                raise RuntimeError("a kernel failed")
            return finder.find(pixels, phrases)  # type: ignore[union-attr]

    made._finder = Failing()
    made.open = lambda: None  # type: ignore[method-assign]
    assert run_concepts(made, store, photos).failed == 2
    errors = {pair[0]: row["error"] for pair, row in rows_of(store).items()}
    assert errors == {"2.png": "the detector failed: RuntimeError: a kernel failed", "a/1.png": None}

    class Exhausted:
        def find(self, pixels: Any, phrases: Any) -> Any:
            raise MemoryError

    made._finder = Exhausted()
    with pytest.raises(PrepError, match="Out of memory"):
        run_concepts(made, store, photos, replace=True)


def test_a_worker_makes_the_rows_that_the_driver_would(sam3: Path, world: tuple[Store, Path]) -> None:
    _, photos = world
    here = stage(sam3)
    here.settings()
    away = pickle.loads(pickle.dumps(here))
    unit = [ImagePhrases("2.png", str(photos / "2.png"), ("a dog", "A dog", "x"))]
    tables = []
    for one in (here, away):
        one.open()
        tables.append(one.process(one.load(unit)))
    assert tables[0].equals(tables[1])
    assert tables[0].schema.remove_metadata() == CONCEPTS.remove_metadata()
    first, again, other = tables[0].to_pylist()
    assert first["masks"] == again["masks"] != other["masks"]
    assert first["key"] == again["key"] != other["key"]


def test_targets_are_those_of_the_selection_but_all_ids_are_kept(world: tuple[Store, Path]) -> None:
    store, _ = world
    targets = read_targets(store, splits=["val"])
    assert targets.wanted == {"a/1.png": ["a dog"], "2.png": ["a dog", "The  Man"]}
    assert targets.ids == {concept_id(*pair) for pair in PAIRS}
    assert targets.skipped == {}


GOOD = {
    "concept_id": concept_id("a.png", "a dog"), "image": "a.png", "phrase": "a dog", "image_sha256": None,
    "height": 2, "width": 2, "detector": "sam3", "key": "0" * 64, "status": "ok", "error": None,
    "masks": [
        {"counts": "13", "area": 3, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.5},
        {"counts": None, "area": None, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.5},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "mask", "told"),
    [
        ({}, {}, ""),
        ({"phrase": "a cat"}, {}, "concept_id"),
        ({"status": "bad"}, {}, "unknown status"),
        ({"status": "empty"}, {}, "status empty with 2 masks"),
        ({"status": "ok", "masks": []}, {}, "status ok with 0 masks"),
        ({"status": "error", "masks": []}, {}, "no reason"),
        ({"height": None}, {}, "image's size"),
        ({"height": 3}, {}, "mask 0"),
        ({}, {"counts": "1"}, "mask 0"),
        ({}, {"area": 2}, "its area is 3, not 2"),
        ({}, {"score": float("nan")}, "not finite"),
        ({}, {"score": 0.4}, "order of their scores"),
        ({}, {"bbox": [0.0, 0.0, float("inf"), 1.0]}, "not finite"),
        ({}, {"bbox": [0.0, 0.0, 1.0]}, "not finite"),
    ],
)
def test_rows_that_disagree_with_themselves_are_found(change: dict, mask: dict, told: str) -> None:
    masks = [{**GOOD["masks"][0], **mask}, GOOD["masks"][1]]  # type: ignore[index]
    rows = [GOOD, {**GOOD, "masks": masks, **change}]
    faults = list(concept_faults(pa.Table.from_pylist(rows, schema=CONCEPTS)))
    assert [number for number, _ in faults] == ([1] if told else [])
    assert all(told in reason for _, reason in faults)
