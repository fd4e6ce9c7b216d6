"""Pictures against brute force on small masks; a page that loads nothing and shows hostile text inertly."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco

from prep import pictures
from prep.demo.page import Figure, Page, Sample, render
from prep.masks import rle

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(masks)
def test_the_outline_is_what_touches_the_outside(mask: np.ndarray) -> None:
    padded = np.pad(mask, 1)
    for (row, column), inside in np.ndenumerate(mask):
        around = padded[[row, row + 2, row + 1, row + 1], [column + 1, column + 1, column, column + 2]]
        assert pictures.outline(mask)[row, column] == (inside and not around.all())


@given(masks, st.integers(1, 4))
def test_enlarging_keeps_every_pixel(mask: np.ndarray, factor: int) -> None:
    large = pictures.enlarge(mask, factor)
    assert large.shape == (mask.shape[0] * factor, mask.shape[1] * factor)
    assert (large[::factor, ::factor] == mask).all()
    assert large.sum() == mask.sum() * factor**2


def test_a_stored_mask_is_drawn_where_it_is() -> None:
    mask = np.zeros((6, 7), dtype=bool)
    mask[1:4, 2:5] = True
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (rle.decode_counts(counts, 6, 7) == mask).all()
    grey = np.full((6, 7, 3), 100, dtype=np.uint8)
    drawn = pictures.draw_masks(grey, [mask], [(200, 0, 0)])
    assert (drawn[~mask] == 100).all()
    assert (drawn[pictures.outline(mask)] == (200, 0, 0)).all()
    assert (drawn[2, 3] == (135, 65, 65)).all()


@pytest.mark.parametrize("level", [0.0, -3.0, float("nan")])
def test_a_map_without_response_is_dark_everywhere(level: float) -> None:
    pixels = np.full((4, 4, 3), 100, dtype=np.uint8)
    drawn = pictures.draw_response(pixels, np.full((2, 2), level), 2)
    assert drawn.shape == (8, 8, 3)
    assert (drawn == 45).all()


def test_the_map_is_brightest_where_the_response_is() -> None:
    response = np.zeros((4, 4), dtype=np.float16)
    response[3, 0] = 2.5
    drawn = pictures.draw_response(np.full((16, 16, 3), 90, dtype=np.uint8), response, 2)
    row, column = np.unravel_index(int(drawn.sum(axis=2).argmax()), drawn.shape[:2])
    assert row >= 24
    assert column < 8


def test_a_data_uri_holds_the_picture() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    head, data = pictures.data_uri(pixels).split(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(BytesIO(base64.b64decode(data)))) == pixels).all()
    head, data = pictures.data_uri(pixels, "JPEG").split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (5, 4)


HOSTILE = "<script>alert(1)</script>\"'&\u202eevil\U0001f600" + "x" * 5000


def _page(text: str) -> str:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 2:5] = True
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    response = np.eye(4)
    full = Sample(text, text, [text, "b"], pixels, [mask], mask, [response, response], mask, (3, 3), 1.0)
    bare = Sample(text, text, [], pixels, [], mask)
    figures = [Figure(text, 3, model=50.0, random_baseline=25.0, oracle=90.0)]
    return render(Page(text, text, figures, [full, bare], [(text, text, 1.5)]))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_is_shown_and_nothing_more() -> None:
    hostile, plain = _Tags(), _Tags()
    hostile.feed(_page(HOSTILE))
    plain.feed(_page("plain"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert "script" not in {tag for tag, _ in hostile.tags}
    assert HOSTILE in hostile.text


def test_the_page_loads_nothing_from_anywhere() -> None:
    page = _page("a red circle")
    assert not re.search(r"https?://|url\(|@import|<link|<script", page)
    assert "default-src 'none'" in page
    tags = _Tags()
    tags.feed(page)
    pictures_in_it = [attributes for tag, attributes in tags.tags if tag == "img"]
    # image, proposals, two stages, prediction and truth of the one; image and truth of the other.
    assert len(pictures_in_it) == 8
    assert all(str(attributes["src"]).startswith("data:image/png;base64,") for attributes in pictures_in_it)
    assert all(attributes["alt"] for attributes in pictures_in_it)
    assert "hit, IoU 100%" in page
