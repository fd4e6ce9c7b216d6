"""A KeySet answers as a Python set does, whatever is added and in whatever order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.cache.keyset import KeySet, hash_keys


@given(st.lists(st.lists(st.text(max_size=6), max_size=30), max_size=12), st.lists(st.text(max_size=6)))
def test_a_key_set_is_a_set(added: list[list[str]], asked: list[str]) -> None:
    keys, reference = KeySet(), set()
    for some in added:
        keys.add(some)
        reference.update(some)
        assert len(keys) == len(reference)
    probe = asked + [key for some in added for key in some]
    assert keys.contains(probe).tolist() == [key in reference for key in probe]
    assert all((key in keys) == (key in reference) for key in asked)


def test_many_small_additions_stay_few_runs() -> None:
    keys = KeySet()
    for start in range(0, 50_000, 50):
        keys.add(str(number) for number in range(start, start + 50))
    assert len(keys) == 50_000
    assert len(keys._runs) < 12
    assert keys.contains([str(number) for number in range(50_000)]).all()
    assert not keys.contains([str(number) for number in range(50_000, 60_000)]).any()


def test_a_key_is_eight_bytes() -> None:
    assert hash_keys(["a", "b"]).dtype == np.dtype("<u8")
    assert hash_keys([]).shape == (0,)
    assert hash_keys(["\ud800"]).shape == (1,)  # a lone surrogate is a key like any other


def test_the_keys_cannot_be_listed() -> None:
    with pytest.raises(TypeError, match="hashes only"):
        list(KeySet())
