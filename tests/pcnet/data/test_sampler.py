"""The sampler: the same draws for anyone, distinct images in a batch, partners that say something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcnet.data.sampler import Sampler


@st.composite
def samplers(draw):
    images = draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    _, numbered = np.unique(images, return_inverse=True)
    target = draw(st.lists(st.integers(-1, 8), min_size=len(images), max_size=len(images)))
    return Sampler(
        numbered.astype(np.int64),
        np.array(target, dtype=np.int64),
        draw(st.integers(1, 9)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 3)),
    )


@settings(max_examples=150, deadline=None)
@given(samplers(), st.integers(0, 3))
def test_an_epoch_uses_each_sample_at_most_once_and_company_fits(sampler, epoch):
    draws = list(sampler.epoch(epoch))
    assert len(draws) == sampler.batches_per_epoch == len(sampler.image) // sampler.batch_size
    anchors = np.concatenate([d.anchors for d in draws])
    assert len(np.unique(anchors)) == len(anchors) == len(draws) * sampler.batch_size
    for d in draws:
        for anchor, partner, same, negatives in zip(
            d.anchors, d.partners, d.same_image, d.negatives, strict=True
        ):
            own = sampler.image == sampler.image[anchor]
            others = own & (sampler.target >= 0) & (sampler.target != sampler.target[anchor])
            possible = set(np.flatnonzero(others)) if sampler.target[anchor] >= 0 else set()
            assert same == bool(possible)
            far = set(np.flatnonzero(~own)) or {anchor}
            assert partner in (possible or far)
            near = [n for n in negatives if n in possible]
            assert len(near) == min(len(possible), sampler.negatives)
            assert all(n in far for n in negatives if n not in possible)


@settings(max_examples=50, deadline=None)
@given(samplers(), st.integers(0, 2), st.data())
def test_a_later_start_and_any_split_over_ranks_give_the_same_batches(sampler, epoch, data):
    whole = list(sampler.epoch(epoch))
    start = data.draw(st.integers(0, len(whole)))
    for one, other in zip(whole[start:], sampler.epoch(epoch, start), strict=True):
        for name in ("anchors", "partners", "same_image", "negatives"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3) if sampler.batch_size % r == 0]))
    for draw in whole:
        parts = [draw.part(rank, ranks) for rank in range(ranks)]
        assert np.array_equal(np.concatenate([p.anchors for p in parts]), draw.anchors)
        assert np.array_equal(np.concatenate([p.negatives for p in parts]), draw.negatives)


def test_images_of_a_batch_are_distinct_where_there_are_enough():
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, 200, 1400))
    _, image = np.unique(image, return_inverse=True)
    sampler = Sampler(image.astype(np.int64), np.arange(1400, dtype=np.int64), 32, seed=3)
    for anchors in sampler.order(0)[:-2]:
        assert len(set(image[anchors])) == 32


def test_seed_and_epoch_change_the_order():
    image = np.arange(50, dtype=np.int64)
    first = Sampler(image, image, 10, seed=0)
    drawn = ((first, 0), (first, 1), (Sampler(image, image, 10, 1), 0))
    orders = [tuple(np.concatenate(sampler.order(epoch))) for sampler, epoch in drawn]
    assert len(set(orders)) == 3


@pytest.mark.parametrize("size", [3, 50])
def test_a_batch_larger_than_the_data_is_the_data(size):
    image = np.arange(3, dtype=np.int64)
    sampler = Sampler(image, image, size, seed=0)
    assert sorted(np.concatenate(sampler.order(0))) == [0, 1, 2]


@settings(max_examples=100, deadline=None)
@given(samplers(), st.integers(0, 3))
def test_an_epoch_of_refs_draws_one_expression_of_each(plain, epoch):
    image, target = plain.image, plain.target
    sampler = Sampler(image, target, plain.batch_size, plain.seed, refs=True)
    batches = sampler.order(epoch)
    anchors = np.concatenate(batches)
    refs = np.where(target >= 0, target, 100 + np.arange(len(target)))
    count = len(set(refs))
    assert {len(batch) for batch in batches} == {sampler.batch_size}
    assert len(batches) == sampler.batches_per_epoch == -(-count // sampler.batch_size)
    assert set(refs[anchors]) == set(refs)
    assert len(set(anchors)) == count  # the last batch repeats some, and adds no other expression
    draws = list(sampler.epoch(epoch))
    for one, other in zip(draws, batches, strict=True):
        assert np.array_equal(one.anchors, other)


def test_refs_draw_all_their_expressions_in_the_long_run():
    target = np.repeat(np.arange(20), 3).astype(np.int64)
    sampler = Sampler(target, target, 10, seed=0, refs=True)
    drawn = np.concatenate([np.concatenate(sampler.order(epoch)) for epoch in range(300)])
    counts = np.bincount(drawn, minlength=60)
    assert counts.sum() == 300 * 20
    assert counts.min() > 60  # a hundred each, on average


def test_the_steps_of_refcoco_are_those_of_the_released_code_and_of_every_sentence():
    target = np.sort(np.concatenate([np.arange(42404), np.arange(120624 - 42404) % 42404])).astype(np.int64)
    refs, sentences = (Sampler(target, target, 36, seed=0, refs=refs) for refs in (True, False))
    assert 15 * refs.batches_per_epoch == 17_670
    assert 15 * sentences.batches_per_epoch == 50_250


def test_samples_that_fill_no_batch_are_one_batch_of_all() -> None:
    sampler = Sampler(np.array([0, 0, 1]), np.array([0, 1, 2]), batch_size=8, seed=0)
    assert sampler.batches_per_epoch == 1
    (batch,) = sampler.order(0)
    assert sorted(batch) == [0, 1, 2]
