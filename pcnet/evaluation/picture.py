"""Draws a prediction as one picture: the image, the response of each stage and the mask, with captions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pcnet.data.collate import pad_phrases
from pcnet.metrics import peak
from prep import pictures
from prep.display import shown

Pixels = NDArray[np.uint8]

GAP = 6  # pixels of white between panels
MIN_WIDTH = 240  # a smaller image is enlarged, so that its caption can be read
FONT_SIZE, LINE, LINES = 14, 18, 3  # pixels; a caption has at most three lines


def draw(
    image: Pixels,
    text: str,
    phrases: Sequence[str],
    stages: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> Pixels:
    """Panels side by side, RGB uint8: the image (H, W, 3), each stage's response (K, H, W) over the grey
    image with its peak, and the outline of the mask (H, W).

    Above each panel stands what it shows: ``text``, the phrase of the stage, the area of the mask.
    """
    from PIL import ImageFont

    factor = -(-MIN_WIDTH // image.shape[1])
    panels = [(text, pictures.enlarge(image, factor))]
    own = pad_phrases(phrases, len(stages))
    for number, (phrase, response) in enumerate(zip(own, stages, strict=True), start=1):
        drawn = pictures.draw_response(image, response, factor)
        drawn = pictures.draw_point(drawn, *peak(response), factor=factor)
        panels.append((f"stage {number}: {phrase}", drawn))
    panels.append((f"mask: {int(mask.sum()):,} pixels", _outlined(image, mask, factor)))
    font = ImageFont.load_default(FONT_SIZE)
    captions = [
        _wrapped(shown(caption), lambda line: font.getlength(line) <= panels[0][1].shape[1] - 4)
        for caption, _ in panels
    ]
    height = LINE * max(map(len, captions)) + 4
    parts = [_captioned(lines, panel, height) for lines, (_, panel) in zip(captions, panels, strict=True)]
    white = np.full((parts[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for panel in parts for part in (panel, white)][:-1], axis=1)


def _outlined(image: Pixels, mask: NDArray[np.bool_], factor: int) -> Pixels:
    """The image with the outline of a mask, with a dark border, so that it is seen on any colour."""
    canvas, inside = pictures.enlarge(image, factor).copy(), pictures.enlarge(mask, factor)
    edge = pictures.outline(inside)
    canvas[_grown(edge, 2)] = 0
    canvas[_grown(edge, 1)] = pictures.PREDICTION
    return canvas


def _grown(area: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The area with ``pixels`` more on each side."""
    padded = np.pad(area, pixels)
    height, width = area.shape
    steps = range(2 * pixels + 1)
    grown: NDArray[np.bool_] = np.any(
        [padded[y : y + height, x : x + width] for y in steps for x in steps], axis=0
    )
    return grown


def _captioned(lines: Sequence[str], panel: Pixels, height: int) -> Pixels:
    """A panel below its caption, in black on a white strip of ``height`` pixels."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (panel.shape[1], height), "white")
    font = ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((2, 2 + number * LINE), line, fill="black", font=font)
    return np.concatenate([np.asarray(strip), panel], axis=0)


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The words of ``text`` in lines that fit; what does not fit is cut off with "..."."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and not fits(longer):
            if len(lines) > LINES:
                break
            lines.append(word)
        else:
            lines[-1] = longer
    kept = lines[:LINES]
    cut = len(lines) > LINES
    return [_shortened(line, fits, cut and number == LINES) for number, line in enumerate(kept, start=1)]


def _shortened(line: str, fits: Callable[[str], bool], cut: bool) -> str:
    """``line`` if it fits and nothing was ``cut`` off after it; else its beginning and "..."."""
    if fits(line) and not cut:
        return line
    # A beginning is as wide as a shorter one, or wider.
    end = bisect_left(range(len(line)), True, key=lambda at: not fits(f"{line[: at + 1]}..."))
    return f"{line[:end]}..."
