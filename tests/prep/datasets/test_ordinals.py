"""Ordinals against a dictionary of counts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prep.datasets.ordinals import Ordinals


@given(st.lists(st.lists(st.integers(0, 12) | st.integers(0, 2**64 - 1), max_size=40), max_size=12))
def test_ordinals_count_what_came_before(batches: list[list[int]]) -> None:
    ordinals, counts = Ordinals(), Counter[int]()
    for batch in batches:
        wanted = []
        for value in batch:
            wanted.append(counts[value])
            counts[value] += 1
        assert ordinals.assign(batch) == wanted


def test_many_batches_stay_in_few_arrays() -> None:
    ordinals = Ordinals()
    for start in range(0, 100_000, 500):
        assert ordinals.assign(list(range(start, start + 500))) == [0] * 500
    assert len(ordinals._levels) < 20
    assert sum(len(level) for level in ordinals._levels) == 100_000
    assert ordinals.assign([5, 99_999, 100_000, 5]) == [1, 1, 0, 2]
