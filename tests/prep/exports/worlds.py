"""Stores of phrases, random masks and scores, for the tests of the exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa

from prep.cache.schema import PROPOSALS, SCORES
from prep.cache.store import Store, open_store
from prep.datasets.catalogue import Dataset
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.masks import rle
from prep.phrases.stage import RulesStage, rules_settings
from prep.proposals.rows import answer, make_row
from prep.records import ImageRef, Proposal


def proposals(random: Random, many: int, side: int = 64) -> list[Proposal]:
    """Random rectangles, some with a hole, with the values of SAM."""
    made = []
    for at in range(many):
        mask = np.zeros((side, side), bool)
        x, y = random.randrange(40), random.randrange(40)
        mask[y : y + random.randint(4, 20), x : x + random.randint(4, 20)] = True
        mask[y + 1, x + 1] = at % 2 == 0
        runs = rle.encode(mask)
        x0, y0, w, h = rle.bounding_box(runs, side)
        box = (float(x0), float(y0), float(w), float(h))
        sam = (random.random(), random.random(), (x + 0.5, y + 0.5), (0.0, 0.0, float(side), float(side)))
        made.append(Proposal(rle.compress(runs), rle.area(runs), box, *(sam if at % 3 else ())))
    return made


def add_proposals(store: Store, images: Iterator[ImageRef], many: int = 6, seed: int = 3) -> None:
    random = Random(seed)
    rows = [
        make_row(ref, None, answer(proposals(random, many), 64, 64), "random", f"key of {ref.image} {seed}")
        for ref in images
    ]
    with store.stage("proposals").writer({"generator": "random", "seed": seed}, replace=True) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PROPOSALS))


def add_phrases(store: Store, dataset: Dataset) -> None:
    with store.stage("phrases").writer(rules_settings()) as writer:
        items = list(dataset.expressions())
        run_stage(Engine(RulesStage()), items, key=lambda one: one.row_id, writer=writer, unit_size=64)


def add_scores(store: Store, dataset: Dataset, many: int = 6, seed: int = 3) -> None:
    random = Random(seed)
    rows = [
        {
            "row_id": item.row_id, "split_by": "unc", "image": item.image, "model": "random",
            "scores": [random.random() for _ in range(many)],
            "proposals_key": f"key of {item.image} {seed}", "key": item.row_id,
        }
        for item in dataset.expressions()
        if item.image
    ]  # fmt: skip
    with store.stage("scores").writer({"model": "random", "seed": seed}, replace=True) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=SCORES))


def filled(folder: Path, dataset: Dataset, many: int = 6) -> Store:
    store = open_store(folder, create=True)
    add_phrases(store, dataset)
    add_proposals(store, dataset.images(), many)
    add_scores(store, dataset, many)
    return store
