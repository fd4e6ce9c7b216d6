"""Draws masks, response maps and points over an image, as pictures for the pages and for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Value = TypeVar("Value", bound=np.generic)

# Colours of adjacent masks: far apart in hue, visible on dark and light pictures.
PALETTE = (
    (230, 70, 70), (60, 150, 240), (250, 190, 50), (70, 190, 110), (170, 100, 230), (245, 130, 60),
    (40, 190, 190), (240, 110, 180), (150, 190, 40), (120, 130, 250), (200, 140, 100), (90, 210, 240),
)  # fmt: skip
TRUTH, PREDICTION = (70, 200, 120), (60, 150, 240)
# Black through red to pale yellow: brightness increases monotonically, so the map is also readable in grey.
HEAT = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])


def enlarge(pixels: npt.NDArray[Value], factor: int) -> npt.NDArray[Value]:
    """Each pixel as a square of ``factor`` x ``factor`` pixels."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(mask: Mask) -> Mask:
    """The pixels of a mask on its boundary or on the border of the picture."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    edge: Mask = mask & ~inner
    return edge


def draw_masks(
    pixels: Pixels, masks: Sequence[Mask], colours: Sequence[tuple[int, int, int]] = PALETTE, factor: int = 1
) -> Pixels:
    """Masks as tinted areas with an outline, largest first, so that none is hidden."""
    canvas = enlarge(pixels, factor).astype(np.float32)
    order = sorted(range(len(masks)), key=lambda at: -int(masks[at].sum()))
    for at in order:
        mask = enlarge(masks[at], factor)
        colour = np.array(colours[at % len(colours)], dtype=np.float32)
        canvas[mask] = canvas[mask] * 0.65 + colour * 0.35
    for at in order:
        canvas[outline(enlarge(masks[at], factor))] = colours[at % len(colours)]
    return canvas.astype(np.uint8)


def draw_response(pixels: Pixels, response: npt.NDArray[np.floating], factor: int = 1) -> Pixels:
    """A response map of any size over the darkened image; non-positive values stay dark."""
    from PIL import Image

    positive = np.maximum(np.nan_to_num(response.astype(np.float32)), 0)
    top = float(positive.max(initial=0))
    share = positive / top if top > 0 else positive
    height, width = pixels.shape[0] * factor, pixels.shape[1] * factor
    smooth = Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR)
    level = np.asarray(smooth)[..., None]
    at = np.clip(level[..., 0], 0, 1) * (len(HEAT) - 1)
    heat = np.stack([np.interp(at, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)], axis=2)
    grey = enlarge(pixels, factor).astype(np.float32).mean(axis=2, keepdims=True) * 0.45
    weight = np.clip(level * 1.4, 0, 0.9)
    drawn: Pixels = np.clip(grey * (1 - weight) + heat * weight, 0, 255).astype(np.uint8)
    return drawn


def draw_point(pixels: Pixels, row: int, column: int, factor: int = 1) -> Pixels:
    """A ringed cross at the centre of pixel (``row``, ``column``) of the picture before enlarging."""
    canvas = pixels.copy()
    y, x = int((row + 0.5) * factor), int((column + 0.5) * factor)
    v, u = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    away = np.hypot(v - y, u - x)
    arm = max(3, 2 * factor, max(canvas.shape[:2]) // 40)
    canvas[(away > arm - 1.5) & (away < arm + 1.5)] = 0
    canvas[abs(away - arm) < 0.9] = 255
    canvas[away < 1.8] = 255
    return canvas


def encode_picture(pixels: Pixels, file_format: str = "PNG") -> bytes:
    """The picture as a PNG or, smaller and with loss, as a JPEG."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=file_format, optimize=True, quality=80)
    return buffer.getvalue()


def preview(pixels: Pixels, masks: Iterable[Mask], side: int = 640) -> bytes:
    """A PNG of masks over a picture, reduced or enlarged by a whole number to about ``side`` pixels.

    Each mask is reduced as it comes, so that hundreds of masks of a large photo need little memory.
    """
    longest = max(pixels.shape[:2])
    step = -(-longest // side)
    return encode_picture(
        draw_masks(
            pixels[::step, ::step],
            [mask[::step, ::step].copy() for mask in masks],
            factor=max(1, side // longest // 2),
        )
    )


def data_uri(pixels: Pixels, file_format: str = "PNG") -> str:
    """The picture in a ``data:`` URI, in one of the formats of :func:`encode_picture`."""
    coded = base64.b64encode(encode_picture(pixels, file_format)).decode()
    return f"data:image/{file_format.lower()};base64,{coded}"
