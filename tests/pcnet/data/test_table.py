"""Samples: joined by keys, refused where something is missing, and unpacked as they were packed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from pcnet.data.antonyms import opposite
from pcnet.data.collate import BatchMaker, finish, pad_phrases, prefetch
from pcnet.data.images import MEAN, STD, Pixels, read_image
from pcnet.data.sampler import Sampler
from pcnet.data.table import SampleTable, Selection, load_samples
from pcnet.data.tokenizers import WordTokenizer
from prep.cache.schema import PHRASES, PROPOSALS, SCORES
from prep.cache.store import open_store
from prep.errors import PrepError
from tests.prep.cache.test_row_checks import GOOD, plant


@pytest.fixture
def store(prepared, tmp_path):
    """A copy of the prepared store that a test may spoil."""
    shutil.copytree(prepared.store.removeprefix("file://"), tmp_path / "store")
    return open_store(tmp_path / "store")


def test_every_row_of_the_split_comes_with_its_own_image_and_masks(prepared):
    store = open_store(prepared.store)
    table = load_samples(store, Selection("refcoco", "train"))
    rows = {row["row_id"]: row for row in store.stage("phrases").reader().read().to_pylist()}
    masks = {row["image"]: row for row in store.stage("proposals").reader().read().to_pylist()}
    assert set(table.row_ids) == {r for r, row in rows.items() if row["split"] == "train"}
    side = np.arange(32) * 2
    for sample, row_id in enumerate(table.row_ids):
        row, image = rows[row_id], table.image[sample]
        assert table.images[image] == row["image"]
        assert table.expressions[sample] == row["expression"]
        assert table.phrases[sample] == row["phrases"]
        own = masks[row["image"]]
        unpacked, real = table.masks([image], table.max_masks)
        assert real[0].sum() == len(own["masks"])
        for number, mask in enumerate(own["masks"]):
            whole = coco.decode({"size": [64, 64], "counts": mask["counts"]})
            assert np.array_equal(unpacked[0, number], whole[side][:, side])
        assert not unpacked[0, len(own["masks"]) :].any()
    for one, other in [(0, s) for s in range(len(table))]:
        same = rows[table.row_ids[one]]["ref_id"] == rows[table.row_ids[other]]["ref_id"]
        assert (table.target[one] == table.target[other]) == same


def test_the_order_of_rows_in_the_store_does_not_matter(prepared, tmp_path):
    table = load_samples(open_store(prepared.store), Selection("refcoco", "train"))
    other = open_store(tmp_path / "other", create=True)
    for stage in ("phrases", "proposals"):
        rows = open_store(prepared.store).stage(stage).reader().read()
        with other.stage(stage).writer({"some": "settings"}) as writer:
            writer.write(rows.take(np.random.default_rng(0).permutation(rows.num_rows)))
    again = load_samples(other, Selection("refcoco", "train"))
    assert again.row_ids == table.row_ids
    assert np.array_equal(again.image, table.image)
    assert np.array_equal(again.target, table.target)
    assert np.array_equal(again.grids, table.grids)


@pytest.mark.parametrize("stage", ["phrases", "proposals"])
def test_a_missing_stage_names_the_command_that_makes_it(store, stage):
    shutil.rmtree(Path(store.uri.removeprefix("file://")) / stage)
    command = "pcnet-prep " + {"phrases": "phrases", "proposals": "sam"}[stage]
    with pytest.raises(PrepError, match=f"has no {stage} yet.\\nRun: {command} .*--store"):
        load_samples(store, Selection("refcoco", "train"))


def test_rows_without_a_target_have_none_and_images_without_masks_still_a_slot(prepared, tmp_path):
    source = open_store(prepared.store)
    rows = [r for r in source.stage("phrases").reader().read().to_pylist() if r["split"] == "train"]
    rows = [{**row, "ref_id": None if number % 2 else row["ref_id"]} for number, row in enumerate(rows)]
    masks = [
        {**row, "status": "empty", "masks": [], "grid32": b""}
        for row in source.stage("proposals").reader().read().to_pylist()
    ]
    other = open_store(tmp_path / "s", create=True)
    with other.stage("phrases").writer({}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    with other.stage("proposals").writer({}) as writer:
        writer.write(pa.Table.from_pylist(masks, schema=PROPOSALS))
    table = load_samples(other, Selection("refcoco", "train"))
    refs = {row["row_id"]: row["ref_id"] for row in rows}
    known = sorted({ref for ref in refs.values() if ref is not None})
    assert table.target.tolist() == [
        -1 if refs[row] is None else known.index(refs[row]) for row in table.row_ids
    ]
    assert (table.target.dtype, table.max_masks, len(table.grids)) == (np.int64, 0, 0)
    unpacked, real = table.masks([0, 1], 1)
    assert (unpacked.shape, real.tolist(), real.dtype) == ((2, 1, 32, 32), [[False], [False]], bool)
    assert BatchMaker(table, None, WordTokenizer(["a"]), 2).slots == 1


def test_a_split_or_dataset_that_is_not_there_says_what_is(prepared):
    store = open_store(prepared.store)
    with pytest.raises(PrepError, match="refcoco/unc train"):
        load_samples(store, Selection("refcoco", "trian"))
    with pytest.raises(PrepError, match="refcocog"):
        load_samples(store, Selection("refcocog", "train"))


def test_one_split_by_is_chosen_by_name(prepared, tmp_path):
    source = open_store(prepared.store)
    rows = source.stage("phrases").reader().read().to_pylist()
    more = [{**row, "split_by": "google", "row_id": row["row_id"][::-1]} for row in rows]
    other = open_store(tmp_path / "s", create=True)
    with other.stage("phrases").writer({}) as writer:
        with pytest.raises(PrepError, match="has no phrases yet") as error:  # a table without rows
            load_samples(other, Selection("refcoco", "train"))
        assert f"--store {other.uri}" in error.value.remedy
        writer.write(pa.Table.from_pylist(rows + more, schema=PHRASES))
    with other.stage("proposals").writer({}) as writer:
        writer.write(source.stage("proposals").reader().read())
    with pytest.raises(PrepError, match="has refcoco split train by google and by unc"):
        load_samples(other, Selection("refcoco", "train"))
    for name, part in (("unc", rows), ("google", more)):
        table = load_samples(other, Selection("refcoco", "train", split_by=name))
        assert table.row_ids == sorted(row["row_id"] for row in part if row["split"] == "train")
    with pytest.raises(PrepError, match="has no phrases of refcoco split train; it has refcoco/google"):
        load_samples(other, Selection("refcoco", "train", split_by="umd"))


def test_an_image_without_proposals_is_an_error_and_an_unreadable_one_is_skipped(prepared, tmp_path):
    source = open_store(prepared.store)
    rows = source.stage("proposals").reader().read().to_pylist()
    phrases = source.stage("phrases").reader().read()
    train = {r["image"] for r in phrases.to_pylist() if r["split"] == "train"}
    victim = next(r for r in rows if r["image"] in train)
    for name, kept in (
        ("lacking", [r for r in rows if r is not victim]),
        (
            "broken",
            [{**r, "status": "error", "masks": [], "grid32": b""} if r is victim else r for r in rows],
        ),
    ):
        other = open_store(tmp_path / name, create=True)
        with other.stage("phrases").writer({}) as writer:
            writer.write(phrases)
        with other.stage("proposals").writer({}) as writer:
            writer.write(pa.Table.from_pylist(kept, schema=PROPOSALS))
    with pytest.raises(PrepError, match="1 of") as caught:
        load_samples(open_store(tmp_path / "lacking"), Selection("refcoco", "train"))
    assert victim["image"] in str(caught.value)
    table = load_samples(open_store(tmp_path / "broken"), Selection("refcoco", "train"))
    assert victim["image"] not in table.images
    assert table.skipped["image could not be read"] == sum(
        r["image"] == victim["image"] for r in phrases.to_pylist()
    )


def test_rows_with_an_error_are_skipped_and_counted(prepared, tmp_path):
    source = open_store(prepared.store)
    rows = [r for r in source.stage("phrases").reader().read().to_pylist() if r["split"] == "train"]
    rows[0] = {**rows[0], "status": "error", "phrases": [], "error": "empty"}
    rows[1] = {**rows[1], "image": None}
    other = open_store(tmp_path / "s", create=True)
    with other.stage("phrases").writer({}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    with other.stage("proposals").writer({}) as writer:
        writer.write(source.stage("proposals").reader().read())
    table = load_samples(other, Selection("refcoco", "train"))
    assert len(table) == len(rows) - 2
    assert table.skipped == {"phrases have an error": 1, "no image": 1}


def test_scores_are_joined_by_row_and_stale_ones_refused(store):
    rows = store.stage("phrases").reader().read().to_pylist()
    counts = {r["image"]: len(r["masks"]) for r in store.stage("proposals").reader().read().to_pylist()}

    def write(extra):
        with store.stage("scores").writer({"extra": extra}, replace=True) as writer:
            table = [
                {
                    "row_id": r["row_id"],
                    "split_by": "unc",
                    "image": r["image"],
                    "scores": [float(len(r["expression"]) + i) for i in range(counts[r["image"]] + extra)],
                    "proposals_key": "k",
                    "model": "m",
                    "key": "k",
                }
                for r in reversed(rows)
            ]
            writer.write(pa.Table.from_pylist(table, schema=SCORES))

    with pytest.raises(PrepError, match="has no scores yet") as error:
        load_samples(store, Selection("refcoco", "train"), with_scores=True)
    assert error.value.remedy == f"Run: pcnet-prep score --store {store.uri}"
    write(0)
    table = load_samples(store, Selection("refcoco", "train"), with_scores=True)
    for text, own in zip(table.expressions, table.scores, strict=True):
        assert np.array_equal(own, len(text) + np.arange(len(own)))
    write(1)
    with pytest.raises(PrepError, match="scores") as error:
        load_samples(store, Selection("refcoco", "train"), with_scores=True)
    assert f"for example row {table.row_ids[0]}." in error.value.message
    assert "pcnet-prep score --store" in error.value.remedy


def test_scores_that_are_null_are_refused(tmp_path):
    """A whole list that is null has no values to read, and one within a list is no number."""
    for name, scores in (("row", None), ("item", [None])):
        store = open_store(tmp_path / name, create=True)
        plant(store, "phrases", [GOOD["phrases"]])
        plant(store, "proposals", [GOOD["proposals"]])
        plant(store, "scores", [{**GOOD["scores"], "scores": scores}])
        assert len(load_samples(store, Selection("mine", "train"))) == 1
        with pytest.raises(PrepError, match="a row has no value in scores"):
            load_samples(store, Selection("mine", "train"), with_scores=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 1000))
def test_masks_come_back_as_they_were_packed(counts, seed):
    random = np.random.default_rng(seed)
    dense = [random.random((n, 32, 32)) < 0.3 for n in counts]
    packed = [np.packbits(d.reshape(len(d), 1024), axis=1, bitorder="big").reshape(-1, 128) for d in dense]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    none = np.zeros(0, np.int64)
    table = SampleTable([], [], [], none, none, [""] * len(counts), np.concatenate(packed), bounds)
    masks, real = table.masks(range(len(counts)), 6)
    for image, own in enumerate(dense):
        assert np.array_equal(masks[image, : len(own)], own)
        assert real[image].sum() == len(own)
        assert not masks[image, len(own) :].any()


def test_a_batch_is_the_same_for_any_number_of_threads_and_for_cached_images(prepared):
    table = load_samples(open_store(prepared.store), Selection("refcoco", "train"))
    tokenizer = WordTokenizer.from_texts(table.expressions)
    sampler = Sampler(table.image, table.target, 8, seed=1, negatives=2)
    kinds = [(0, 1 << 30), (3, 1 << 30), (2, 0)]  # threads, bytes of images that may stay in memory
    runs = []
    for threads, budget in kinds:
        maker = BatchMaker(table, Pixels(prepared.data, table.images, 48, budget), tokenizer, 3)
        runs.append(list(prefetch(maker, sampler.epoch(0), threads)))
    tensors = ("images", "phrase_ids", "grid", "partner_expression_ids", "negative_ids", "same_image")
    for batches in zip(*runs, strict=True):
        first = batches[0]
        rows = [table.row_ids.index(r) for r in first.row_ids]
        assert torch.equal(first.expression_ids, tokenizer([table.expressions[r] for r in rows]))
        for other in batches[1:]:
            assert other.row_ids == first.row_ids
            for name in tensors:
                assert torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("size", [0.3, 1e5, 2e20])
def test_padding_of_scores_is_below_every_score(prepared, size):
    table = load_samples(open_store(prepared.store), Selection("refcoco", "train"))
    counts = np.diff(table.grid_bounds)[table.image]
    table = replace(table, scores=[np.full(count, -size, np.float32) for count in counts])
    draw = next(Sampler(table.image, table.target, 8, seed=1).epoch(0))
    pixels = Pixels(prepared.data, table.images, 48)
    maker = BatchMaker(table, pixels, WordTokenizer.from_texts(table.expressions), 0)
    maker.slots += 1  # an empty slot for every image
    batch = maker(draw)
    for scores, count in zip(batch.clip_scores, counts[draw.anchors], strict=True):
        assert (scores[count:] < scores[:count].min()).all()


def test_opposites_are_made_where_they_are_asked_for(prepared):
    table = load_samples(open_store(prepared.store), Selection("refcoco", "train"))
    tokenizer, pixels = WordTokenizer.from_texts(table.expressions), Pixels(prepared.data, table.images, 48)
    draw = next(Sampler(table.image, table.target, 8, seed=1).epoch(0))
    assert BatchMaker(table, pixels, tokenizer, 3)(draw).has_opposite is None
    for phrases in (0, 3):
        batch = BatchMaker(table, pixels, tokenizer, phrases, opposites=True)(draw)
        texts = [table.expressions[sample] for sample in draw.anchors]
        assert batch.has_opposite.tolist() == [opposite(text) != text for text in texts]
        assert torch.equal(batch.opposite_expression_ids, tokenizer([opposite(text) for text in texts]))
        assert batch.opposite_phrase_ids.shape == batch.phrase_ids.shape
        same = (batch.opposite_phrase_ids == batch.phrase_ids).flatten(1).all(1)
        assert same[~batch.has_opposite].all()


def test_images_are_normalised_by_the_published_statistics(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    whole = Image.fromarray(values).resize((16, 16), Image.Resampling.BILINEAR)
    pixels = read_image(tmp_path / "a.png", 16)
    assert np.array_equal(pixels, np.asarray(whole).transpose(2, 0, 1))
    from pcnet.data.batch import Batch

    ids = torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(torch.from_numpy(pixels)[None], ids, ids[None], torch.zeros(1, 1, 32, 32))
    done = finish(batch, torch.device("cpu")).images[0].numpy()
    expected = (np.asarray(whole) / 255 - np.array(MEAN)) / np.array(STD)
    assert np.allclose(done, expected.transpose(2, 0, 1), atol=1e-6)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(PrepError, match=r"x\.jpg: not a file"):
        read_image(tmp_path / "x.jpg", 32)


@pytest.mark.parametrize(
    "content", [None, b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PrepError, match=r"x\.jpg"):
        read_image(path, 32)


def test_training_sees_the_pixels_that_masks_are_made_of(tmp_path):
    from prep.images import decode

    ramp = np.add.outer(np.arange(16) * 12, np.arange(16)).astype(np.uint8)
    pictures = {
        "deep.png": Image.fromarray(ramp.astype(np.uint16) * 256 + 200),
        "alpha.png": Image.fromarray(np.dstack([ramp, ramp, ramp, ramp])),
        "palette.png": Image.fromarray(np.dstack([ramp] * 3)).quantize(16),
        "cmyk.jpg": Image.fromarray(np.dstack([ramp] * 3)).convert("CMYK"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name, **({"transparency": 3} if name == "palette.png" else {}))
        pixels = decode((tmp_path / name).read_bytes())
        assert np.array_equal(read_image(tmp_path / name, 16), pixels.transpose(2, 0, 1)), name
    assert np.array_equal(read_image(tmp_path / "deep.png", 16)[0], ramp)


def test_an_image_outside_the_data_is_not_opened(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png"):
        with pytest.raises(PrepError, match="outside"):
            Pixels(tmp_path / "data", [name], 4)[0]


def test_phrases_are_repeated_from_the_start():
    assert pad_phrases(["a", "b"], 5) == ["a", "b", "a", "b", "a"]
    assert pad_phrases(["a", "b", "c"], 2) == ["a", "b"]
