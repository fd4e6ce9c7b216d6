"""Generates scenes of coloured shapes and expressions that refer to exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

KINDS = ("circle", "square", "triangle", "diamond", "cross", "star")
COLOURS = {
    "red": (214, 44, 40),
    "green": (46, 160, 58),
    "blue": (44, 84, 214),
    "yellow": (238, 212, 46),
    "orange": (240, 134, 30),
    "purple": (138, 54, 176),
    "pink": (244, 134, 184),
    "white": (240, 240, 240),
}
RADII = {"small": 5.0, "medium": 7.5, "large": 11.0}
# Two positions count as different from this many pixels on.
MARGIN = 5

Type = Literal["attribute", "position", "relation"]
TYPES: tuple[Type, ...] = ("attribute", "position", "relation")


class Canvas(NamedTuple):
    """The side of a scene in pixels, and the least and greatest number of its shapes."""

    side: int
    fewest: int
    most: int


EASY, HARD = Canvas(64, 2, 6), Canvas(128, 4, 12)


class Thing(NamedTuple):
    """A shape; ``x`` and ``y`` are its centre in pixels, origin top left."""

    size: str
    colour: str
    kind: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Said:
    """An expression for one shape; ``hard`` if its attributes alone match more than that one."""

    text: str
    type: Type
    hard: bool


# Which of (size, colour, kind) are stated. Size alone is excluded: it is ambiguous among three sizes.
STATED = (
    (False, False, True),
    (False, True, False),
    (True, False, True),
    (False, True, True),
    (False, True, True),
    (True, True, False),
    (True, True, True),
)
SIDES = {
    "left": ("left {}", "{} on the left", "leftmost {}", "{} on the left side", "{} on the far left"),
    "right": ("right {}", "{} on the right", "rightmost {}", "{} on the right side", "{} on the far right"),
    "top": ("top {}", "{} at the top", "topmost {}", "upper {}", "{} on top"),
    "bottom": ("bottom {}", "{} at the bottom", "lowest {}", "lower {}", "{} on the bottom"),
    "middle": ("middle {}", "{} in the middle", "center {}", "{} in the center"),
    "top left": ("top left {}", "{} in the top left corner", "{} at the upper left"),
    "top right": ("top right {}", "{} in the top right corner", "{} at the upper right"),
    "bottom left": ("bottom left {}", "{} in the bottom left corner", "{} at the lower left"),
    "bottom right": ("bottom right {}", "{} in the bottom right corner", "{} at the lower right"),
}
RELATIONS = {
    "left": ("{} left of {}", "{} to the left of {}"),
    "right": ("{} right of {}", "{} to the right of {}"),
    "top": ("{} above {}", "{} over {}"),
    "bottom": ("{} below {}", "{} under {}"),
    "near": ("{} closest to {}", "{} nearest to {}"),
}


def scene(random: Random, canvas: Canvas = EASY) -> list[Thing]:
    """Shapes that do not touch, most of which share a colour or a kind with another."""
    wanted, things = random.randint(canvas.fewest, canvas.most), list[Thing]()
    for _ in range(60):
        size = random.choice(tuple(RADII))
        reach = int(RADII[size]) + 2
        last = canvas.side - 1 - reach
        x, y = random.randint(reach, last), random.randint(reach, last)
        if all(_clear(x, y, RADII[size], other) for other in things):
            colour, kind = random.choice(tuple(COLOURS)), random.choice(KINDS)
            if things and random.random() < 0.7:
                model, shared = random.choice(things), random.randrange(3)
                colour = model.colour if shared != 0 else colour
                kind = model.kind if shared != 1 else kind
            things.append(Thing(size, colour, kind, x, y))
            if len(things) == wanted:
                break
    return things if len(things) >= canvas.fewest else scene(random, canvas)


def _clear(x: int, y: int, radius: float, other: Thing) -> bool:
    gap = radius + RADII[other.size] + 2
    return bool((x - other.x) ** 2 + (y - other.y) ** 2 >= gap * gap)


def say(
    random: Random, things: Sequence[Thing], target: Thing, kind: Type, canvas: Canvas = EASY
) -> Said | None:
    """An expression of ``kind`` that matches only ``target``, or None if none was found."""
    for _ in range(24):
        stated = random.choice(STATED)
        fits = matching(things, target, stated)
        if kind == "attribute":
            text = _describe(random, target, stated) if len(fits) == 1 else ""
        elif kind == "position":
            text = _position(random, target, stated, fits, canvas.side / 2)
        else:
            text = _relation(random, things, target, stated, fits)
        if text:
            article = random.random() < 0.3
            return Said(f"the {text}" if article else text, kind, len(fits) > 1)
    return None


def matching(things: Sequence[Thing], target: Thing, stated: tuple[bool, bool, bool]) -> list[Thing]:
    """The shapes that share the stated attributes of the target, including the target."""
    return [
        thing
        for thing in things
        if all(thing[i] == target[i] for i, is_stated in enumerate(stated) if is_stated)
    ]


def _describe(random: Random, thing: Thing, stated: tuple[bool, bool, bool]) -> str:
    size = random.choice(("large", "big")) if thing.size == "large" else thing.size
    words = [size] if stated[0] else []
    words += [thing.colour] if stated[1] else []
    return " ".join([*words, thing.kind if stated[2] else random.choice(("one", "shape"))])


def _position(
    random: Random, target: Thing, stated: tuple[bool, bool, bool], fits: list[Thing], middle: float
) -> str:
    # Prefer a position that distinguishes the target over a redundant one.
    if len(fits) == 1 and random.random() < 0.6:
        return ""
    side = random.choice(tuple(SIDES))
    others = [thing for thing in fits if thing is not target]
    if not _is_at(target, side, middle) or any(not _further(target, other, side, middle) for other in others):
        return ""
    return random.choice(SIDES[side]).format(_describe(random, target, stated))


def _is_at(thing: Thing, side: str, middle: float) -> bool:
    """Whether the shape lies on that side of the picture, whose centre is at ``middle`` on both axes."""
    return all(_offset(thing, part, middle) < -3 for part in side.split()) if side != "middle" else (
        abs(thing.x - middle) < 9 and abs(thing.y - middle) < 9
    )  # fmt: skip


def _further(thing: Thing, other: Thing, side: str, middle: float) -> bool:
    """Whether ``thing`` matches ``side`` clearly better than ``other``."""
    if side == "middle":
        return not (abs(other.x - middle) < 9 + MARGIN and abs(other.y - middle) < 9 + MARGIN)
    parts = side.split()
    if len(parts) == 1:
        return _offset(thing, side) < _offset(other, side) - MARGIN
    # For a corner, another shape only counts as different if it is on another side of the picture.
    return any(_offset(other, part, middle) > 3 for part in parts)


def _offset(thing: Thing, side: str, middle: float = 0.0) -> float:
    """The distance from ``middle`` against the direction ``side`` (negative: on that side of it)."""
    return {
        "left": thing.x - middle,
        "right": middle - thing.x,
        "top": thing.y - middle,
        "bottom": middle - thing.y,
    }[side]


def _relation(
    random: Random, things: Sequence[Thing], target: Thing, stated: tuple[bool, bool, bool], fits: list[Thing]
) -> str:
    if len(fits) == 1 and random.random() < 0.6:
        return ""
    anchor = random.choice([thing for thing in things if thing is not target])
    anchor_stated = random.choice(STATED[2:])
    if len(matching(things, anchor, anchor_stated)) > 1:
        return ""
    relation = random.choice(tuple(RELATIONS))
    others = [thing for thing in fits if thing is not target and thing is not anchor]
    if relation == "near":
        reach = _distance(target, anchor) + MARGIN
        # "Closest" would be meaningless for a single candidate.
        if not others or any(_distance(other, anchor) < reach for other in others):
            return ""
    elif not _related(target, anchor, relation) or any(
        _offset(other, relation) < _offset(anchor, relation) + 1 for other in others
    ):
        return ""
    described = _describe(random, target, stated), f"the {_describe(random, anchor, anchor_stated)}"
    return random.choice(RELATIONS[relation]).format(*described)


def _related(thing: Thing, anchor: Thing, side: str) -> bool:
    """Whether ``thing`` is on that side of ``anchor``, rather than beside it."""
    along = _offset(anchor, side) - _offset(thing, side)
    across = abs(thing.y - anchor.y) if side in ("left", "right") else abs(thing.x - anchor.x)
    return along > MARGIN and along >= across * 0.7


def _distance(one: Thing, other: Thing) -> float:
    return float(((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5)
