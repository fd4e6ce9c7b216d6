"""Masks of concepts in an evaluation: looked up by image and first phrase, chosen by the map's peak."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcnet.evaluation.concepts import FAILED, OTHER_SIZE, choose
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from prep.cache.keys import concept_id
from prep.cache.schema import CONCEPTS
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.errors import PrepError
from prep.masks import rle

HEIGHT, WIDTH = 4, 5


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.booleans(), min_size=20, max_size=20)), max_size=5),
    st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1)),
)
def test_the_best_mask_at_the_peak_is_chosen_or_else_the_best(drawn, peak):
    scores = [score / 3 for score, _ in drawn]
    masks = [np.array(pixels).reshape(HEIGHT, WIDTH) for _, pixels in drawn]
    chosen = choose(masks, scores, peak)
    if not drawn:
        assert chosen is None
        return
    allowed = [at for at, mask in enumerate(masks) if mask[peak]] or list(range(len(masks)))
    assert chosen in allowed
    assert all((scores[chosen], -chosen) >= (scores[at], -at) for at in allowed)


def concept(image, phrase, size, masks):
    """A row; ``masks`` are (mask, score) with the highest score first."""
    found = [
        {"counts": rle.counts_of(mask), "area": int(mask.sum()), "bbox": [0.0, 0.0, 1.0, 1.0], "score": score}
        for mask, score in masks
    ]
    return {
        "concept_id": concept_id(image, phrase), "image": image, "phrase": phrase, "image_sha256": None,
        "height": size[0], "width": size[1], "masks": found, "detector": "sam3", "key": "0" * 64,
        "status": "ok" if found else "empty", "error": None,
    }  # fmt: skip


@pytest.fixture
def scenes(prepared, tmp_path):
    """A copy of the store, its dataset, and for each expression of val its target and first phrase."""
    dataset = open_dataset(prepared.data, "refcoco")
    store = open_store(shutil.copytree(prepared.store, tmp_path / "store"))
    table = store.stage("phrases").reader().read(["row_id", "phrases"]).to_pylist()
    first = {row["row_id"]: row["phrases"][0] for row in table}
    truth = Truth(dataset)
    found = [(e, first[e.row_id], truth.mask(e)) for e in dataset.expressions(["val"])]
    return store, dataset, found


def write(store, rows):
    with store.stage("concepts").writer({"rows": len(rows)}, replace=True) as writer:
        writer.write(pa.Table.from_pylist(list(rows.values()), schema=CONCEPTS))


def evaluated(checkpoint, store, dataset, **settings):
    options = EvalSettings(masks=("map", "concept"), **settings)
    return evaluate_checkpoint(checkpoint, dataset, store=store.uri, split="val", settings=options)


def test_concepts_are_joined_by_image_and_first_phrase_and_scored(checkpoint, scenes, tmp_path):
    store, dataset, found = scenes
    rows, chosen = {}, {}
    for number, (expression, phrase, target) in enumerate(found):
        pair = expression.image, phrase
        if pair in rows:
            continue
        # All, a half and nothing of the first target of a pair.
        masks = [[(target, 0.9)], [(target & (np.arange(target.shape[1]) % 2 == 0), 0.8)], []][number % 3]
        rows[pair] = concept(*pair, target.shape, masks)
        chosen[pair] = masks[0][0] if masks else np.zeros_like(target)
    with pytest.raises(PrepError, match="has no concepts yet") as missing:
        evaluated(checkpoint, store, dataset)
    assert "pcnet-prep concepts" in missing.value.remedy
    write(store, rows)
    report = evaluated(checkpoint, store, dataset, save_pseudo=tmp_path / "pseudo")
    assert len(report.rows) == len(found)
    targets = {e.row_id: ((e.image, phrase), target) for e, phrase, target in found}
    ious = []
    for row in report.rows:
        pair, target = targets[row["row_id"]]
        shared, either = (chosen[pair] & target).sum(), (chosen[pair] | target).sum()
        assert (row["concept_intersection"], row["concept_union"]) == (shared, either)
        ious.append(shared / either)
    assert report.masks["concept"].miou == pytest.approx(100 * np.mean(ious))
    assert 20 < report.masks["concept"].miou < 90
    assert list(report.masks) == ["map", "concept"]
    saved = sum(int(np.load(path).sum()) for path in (tmp_path / "pseudo").iterdir())
    assert saved == sum(int(chosen[pair].sum()) for pair, _ in targets.values())


def test_the_mask_at_the_peak_wins_over_a_better_score_elsewhere(checkpoint, scenes):
    store, dataset, found = scenes
    shapes = {(e.image, phrase): target.shape for e, phrase, target in found}
    left, right = {}, {}
    for pair, (height, width) in shapes.items():
        left[pair] = np.tile(np.arange(width) < width // 2, (height, 1))
        right[pair] = ~left[pair]
    halves = {pair: [(left[pair], 0.9), (right[pair], 0.1)] for pair in shapes}
    write(store, {pair: concept(*pair, shapes[pair], halves[pair]) for pair in shapes})
    report = evaluated(checkpoint, store, dataset)
    targets = {e.row_id: ((e.image, phrase), target) for e, phrase, target in found}
    sides = set()
    for row in report.rows:
        pair, target = targets[row["row_id"]]
        side = left if left[pair][row["peak_y"], row["peak_x"]] else right
        sides.add(side is left)
        assert row["concept_intersection"] == (side[pair] & target).sum()
    assert sides == {True, False}


def test_what_cannot_be_compared_is_counted_or_refused(checkpoint, scenes):
    store, dataset, found = scenes
    rows = {(e.image, phrase): concept(e.image, phrase, target.shape, []) for e, phrase, target in found}
    first, second, *_ = rows
    failed = sum((e.image, phrase) == first for e, phrase, _ in found)
    resized = sum((e.image, phrase) == second for e, phrase, _ in found)
    rows[first] |= {"status": "error", "error": "the detector failed", "height": None, "width": None}
    rows[second]["height"] += 1
    write(store, rows)
    report = evaluated(checkpoint, store, dataset)
    assert (report.skipped[FAILED], report.skipped[OTHER_SIZE]) == (failed, resized)
    assert len(report.rows) == len(found) - failed - resized
    assert report.masks["concept"].miou == 0

    lost = {pair: row for pair, row in rows.items() if pair != second}
    write(store, lost)
    with pytest.raises(PrepError, match=f"{resized} of {len(found)} expressions have no concept"):
        evaluated(checkpoint, store, dataset)
    write(store, {pair: {**row, "status": "error", "error": "x", "masks": []} for pair, row in rows.items()})
    with pytest.raises(PrepError, match="No expression has a usable concept"):
        evaluated(checkpoint, store, dataset)
    box = {"counts": None, "area": None, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.5}
    write(store, {**rows, second: {**rows[second], "masks": [box], "status": "ok"}})
    with pytest.raises(PrepError, match="are boxes without masks"):
        evaluated(checkpoint, store, dataset)
