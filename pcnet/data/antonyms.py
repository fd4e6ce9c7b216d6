"""What an expression says with its directions turned round: "left of the car" becomes "right of the car"."""

from __future__ import annotations

import re

# Only words whose opposite is said as often of the same things, so that neither is a sign of being false by
# itself: "closest" is not among them, as hardly anybody says "farthest".
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
    """``text`` with every word of direction replaced by its opposite; ``text`` itself where it has none.

    Twice gives the text back, but for the case of the words replaced (and "behind" for "in back of").
    """
    return _DIRECTION.sub(lambda found: _OPPOSITE[found.group().lower()], text)
