"""Swaps the direction words of an expression: "left of the car" becomes "right of the car"."""

from __future__ import annotations

import re

# Only words whose antonym is about as frequent for the same objects, so that neither word alone reveals that
# an expression was swapped: "closest" is not included, because "farthest" is rare.
_PAIRS = (
    ("left", "right"),
    ("leftmost", "rightmost"),
    ("lefthand", "righthand"),
    ("top", "bottom"),
    ("topmost", "lowest"),
    ("upper", "lower"),
    ("uppermost", "lowermost"),
    ("above", "below"),
    ("over", "under"),
    ("front", "back"),
    ("in front of", "behind"),
)
_OPPOSITE = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_DIRECTION = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, _OPPOSITE), key=len, reverse=True))})\b", re.IGNORECASE | re.ASCII
)


def opposite(text: str) -> str:
    """``text`` with every direction word replaced by its antonym; ``text`` unchanged if it has none.

    Applying it twice restores the text, except the case of replaced words (and "behind" for "in back of").
    """
    return _DIRECTION.sub(lambda found: _OPPOSITE[found.group().lower()], text)
