"""Generators by name: the right one, with its options, or a message that says what there is."""

from __future__ import annotations

import pytest

from prep.errors import PrepError
from prep.proposals.generators import build


def test_segments_by_name_with_options() -> None:
    made = build("segments", {"max_masks": 5})
    assert made.name == "segments"
    assert made.settings()["max_masks"] == 5


@pytest.mark.parametrize("name", ["", "SAM", "fastsam", "hf:"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(PrepError, match="segments"):
        build(name)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(PrepError, match="points_per_side"):
        build("segments", {"points_per_side": 8})
