"""A small store over real files: four images, one of them rotated by EXIF and one broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prep.cache.store import Store, open_store
from tests.test_cli import prep

TEXTS = {"a.png": ["the red box", "the left one"], "sub/b.jpg": ["the box"], "c.jpg": ["a box on grass"]}


def photo(side: int) -> np.ndarray:
    """A red box on grey, H x W x 3; its place tells rows from columns."""
    pixels = np.full((48, 80, 3), 200, np.uint8)
    pixels[10 : 10 + side, 5:50] = (200, 20, 20)
    return pixels


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loaders") / "photos"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(photo(20)).save(root / "a.png")
    Image.fromarray(photo(25)).save(root / "sub" / "b.jpg", quality=95)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # a viewer turns it by 90 degrees
    Image.fromarray(photo(30)).save(root / "c.jpg", quality=95, exif=rotated)
    (root / "d.jpg").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="session")
def place(photos: Path) -> Path:
    place = photos.parent / "prepared"
    lines = [
        {"sent": text, "image": image, "split": "val" if image == "c.jpg" else "train"}
        for image, texts in TEXTS.items()
        for text in texts
    ]
    listing = photos.parent / "mine.jsonl"
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prep("phrases", "--llm", "rules", "--input", listing, "--out", place)
    prep(
        "sam", "--generator", "segments", "--min-area", "20", "--images", photos, "--out", place,
        "--max-failed", "100%",
    )  # fmt: skip
    return place


@pytest.fixture
def store(place: Path) -> Store:
    return open_store(place)
