"""The picture of a prediction: panels in order, captions above them, the mask as an outline."""

from __future__ import annotations

import numpy as np
import pytest

from pcnet.evaluation.picture import GAP, draw
from pcnet.metrics import peak
from prep import pictures

HEIGHT, WIDTH = 40, 60  # enlarged by 4 to 240 pixels of width


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def panels(drawn: np.ndarray, count: int) -> list[np.ndarray]:
    """The panels of a picture, without their captions."""
    assert drawn.shape[1] == count * 240 + (count - 1) * GAP
    return [drawn[-4 * HEIGHT :, n * (240 + GAP) : n * (240 + GAP) + 240] for n in range(count)]


def captions(drawn: np.ndarray, count: int) -> list[np.ndarray]:
    top = drawn.shape[0] - 4 * HEIGHT
    return [drawn[:top, n * (240 + GAP) : n * (240 + GAP) + 240] for n in range(count)]


def test_panels_are_the_image_the_responses_and_the_outline(image):
    stages = np.random.default_rng(1).normal(size=(2, HEIGHT, WIDTH)).astype(np.float32)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:50] = True
    shown = panels(draw(image, "the red dog", ["the dog", "the red dog"], stages, mask), 4)
    assert np.array_equal(shown[0], pictures.enlarge(image, 4))
    for response, panel in zip(stages, shown[1:3], strict=True):
        expected = pictures.draw_point(pictures.draw_response(image, response, 4), *peak(response), factor=4)
        assert np.array_equal(panel, expected)
    changed = (shown[3] != shown[0]).any(axis=2)
    blue = (shown[3] == pictures.PREDICTION).all(axis=2)
    assert blue[4 * 10, 4 * 10 : 4 * 50].all()  # the upper edge of the mask
    assert not changed[4 * 20, 4 * 15 : 4 * 45].any()  # its inside shows the image
    assert not changed[: 4 * 8].any()


def test_an_empty_mask_has_no_outline(image):
    stages, none = np.zeros((1, HEIGHT, WIDTH), np.float32), np.zeros((HEIGHT, WIDTH), bool)
    shown = panels(draw(image, "a", ["a"], stages, none), 3)
    assert np.array_equal(shown[2], shown[0])


def test_each_panel_has_its_own_caption(image):
    stages, mask = np.zeros((3, HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), bool)
    shown = captions(draw(image, "the dog", ["the dog", "the red dog"], stages, mask), 5)
    assert (
        len({one.tobytes() for one in shown}) == 5
    )  # "stage 3" repeats the first phrase, but not its number
    assert all((one == 0).any() for one in shown)


def test_a_long_caption_takes_more_lines_and_ends_with_dots(image):
    stages, mask = np.zeros((1, HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), bool)

    def strip(text: str) -> int:
        return draw(image, text, ["a"], stages, mask).shape[0] - 4 * HEIGHT

    word, line = strip("dog"), strip("dog " * 20) - strip("dog " * 10)
    assert strip("dog " * 10) > word
    assert strip("dog " * 500) == strip("dog " * 1000) < word + 4 * line + 40
    assert strip("d" * 5000) == word  # one word that fits nowhere is shortened
    assert strip("dog\x1b[31m\u202e") >= word  # controls are shown as escapes
