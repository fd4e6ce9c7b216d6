"""The codec against pycocotools and the definition."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from segment_anything.utils.amg import batched_mask_to_box, mask_to_rle_pytorch
from torch import as_tensor

from prep.errors import PrepError
from prep.masks import rle
from tests.limits import limited

masks = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=23).flatmap(
    lambda shape: st.one_of(
        arrays.arrays(bool, shape), st.just(np.zeros(shape, bool)), st.just(np.ones(shape, bool))
    )
)


@settings(deadline=None, max_examples=200)
@given(masks)
def test_equal_to_pycocotools_and_the_official_runs(mask: np.ndarray) -> None:
    height, width = mask.shape
    runs = rle.encode(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle.compress(runs) == expected["counts"].decode()
    assert runs.tolist() == mask_to_rle_pytorch(as_tensor(mask)[None])[0]["counts"]
    assert rle.area(runs) == mask.sum()
    assert rle.bounding_box(runs, height) == tuple(coco.toBbox(expected).astype(int))
    assert rle.corners(runs, height) == tuple(batched_mask_to_box(as_tensor(mask)).tolist())
    assert np.array_equal(rle.expand(rle.compress(runs)), runs)
    assert np.array_equal(rle.decode(runs, height, width), mask)


@settings(deadline=None, max_examples=200)
@given(masks, st.sampled_from([np.bool_, np.uint8, np.int64, np.float32]), st.sampled_from("CF"))
def test_any_memory_order_and_dtype_gives_the_same_string(mask: np.ndarray, dtype: type, order: str) -> None:
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    values = np.asarray(mask.astype(dtype) * (1 if dtype is np.bool_ else 7), order=order)
    assert rle.counts_of(values) == expected
    assert rle.counts_of(values[::-1][::-1]) == expected  # not contiguous
    assert (
        rle.counts_of(values.T) == coco.encode(np.asfortranarray(mask.T.astype(np.uint8)))["counts"].decode()
    )
    wide = np.zeros((mask.shape[0], 2 * mask.shape[1]), dtype)
    wide[:, ::2] = values
    assert rle.counts_of(wide[:, ::2]) == expected


def test_a_mask_with_a_change_at_every_pixel() -> None:
    for shape in ((64, 80), (63, 81), (1, 40), (40, 1)):
        mask = np.indices(shape).sum(0) % 2
        for order in "CF":
            expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            assert rle.counts_of(np.asarray(mask, order=order)) == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12))
def test_any_runs_survive_the_string(lengths: list[int]) -> None:
    runs = np.array(lengths)
    assert np.array_equal(rle.expand(rle.compress(runs)), runs)


@pytest.mark.parametrize("counts", ["!!", "o", "~~~", "é", "O", "oooooooooooooooooo0"])
def test_a_damaged_string_is_refused(counts: str) -> None:
    with pytest.raises(PrepError, match="damaged"):
        rle.expand(counts)


# What a real string becomes on a bad day: a piece of it, with other characters among its own.
damaged = st.tuples(masks, st.binary(max_size=4), st.integers(0, 60)).map(
    lambda parts: (
        rle.compress(rle.encode(parts[0])).encode()[: parts[2]]
        + parts[1]
        + rle.compress(rle.encode(parts[0])).encode()[parts[2] + 1 :]
    )
)


@settings(deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")))
@given(
    st.one_of(st.binary(max_size=40), st.text(max_size=40), damaged),
    st.integers(1, 30),
    st.integers(1, 30),
)
@limited()
def test_nothing_but_our_error_escapes_from_damaged_run_lengths(
    counts: bytes | str, height: int, width: int
) -> None:
    try:
        runs = rle.expand(counts)
        assert (runs >= 0).all()
        assert np.array_equal(rle.expand(rle.compress(runs)), runs)
        mask = rle.decode(runs, height, width)
    except PrepError:
        return
    assert mask.shape == (height, width)
    assert mask.sum() == rle.area(runs)


@settings(deadline=None, max_examples=200)
@given(masks)
def test_counts_of_either_program_are_decoded_alike(mask: np.ndarray) -> None:
    height, width = mask.shape
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    for counts in (expected["counts"], expected["counts"].decode(), rle.encode(mask).tolist()):
        assert np.array_equal(rle.decode_counts(counts, height, width), mask)
    ours = {"size": [height, width], "counts": rle.counts_of(mask)}
    assert np.array_equal(coco.decode(ours).astype(bool), mask)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([10, 10], "add up to 20 pixels and do not cover 5 x 6"),
        ([10, 21], "add up to 31 pixels"),
        ([31], "add up to 31 pixels"),
        ([], "add up to 0 pixels"),
        ([40, -10], "add up to 30 pixels"),
        ([2**70, 30 - 2**70], "add up to 30 pixels"),
        ([2**70], "add up to"),
        ([30.0], "neither a string nor a list of integers"),
        ([True] * 30, "neither a string nor a list of integers"),
        (None, "neither a string nor a list of integers"),
        ({"a": 30}, "neither a string nor a list of integers"),
        ("", "add up to 0 pixels"),
        (rle.compress(np.array([10, 10])), "add up to 20 pixels"),
        (rle.compress(np.array([10, 10, 11])).encode(), "add up to 31 pixels"),
        (rle.compress(np.array([40, -10])), "damaged"),
        (rle.compress(np.array([2**31 - 1, 2**31 - 1])), "add up to"),
        ("o" * 20, "damaged"),
        ("\x7f~", "damaged"),
        ("\u00e9", "damaged"),
        ("\ud800", "damaged"),
        (b"\x00\xff", "damaged"),
    ],
)
def test_counts_that_do_not_fill_the_mask_are_refused(counts: Any, reason: str) -> None:
    for read in (rle.checked_runs, rle.decode_counts):
        with pytest.raises(PrepError, match=reason):
            read(counts, 5, 6)


def test_runs_whose_sum_wraps_round_are_refused() -> None:
    runs = np.array([2**62, 2**62, 2**62, 2**62 + 25])
    assert runs.sum() == 5 * 5
    with pytest.raises(PrepError, match="damaged"):
        rle.expand(rle.compress(runs))
    for odd in (np.array([-1, 26]), np.array([26, -1]), runs):  # the last would be written far past the mask
        assert odd.sum() == 5 * 5
        with pytest.raises(PrepError, match="The runs of a mask cover 25 pixels, not 5 x 5"):
            rle.decode(odd, 5, 5)


def test_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PrepError, match="6 pixels, not 2 x 4"):
        rle.decode(np.array([2, 4]), 2, 4)


def test_no_pixels_at_all() -> None:
    assert rle.encode(np.zeros((0, 5), bool)).tolist() == []
    assert rle.expand("").tolist() == []
