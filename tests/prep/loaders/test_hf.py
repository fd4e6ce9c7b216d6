"""A store as a Hugging Face dataset: images are the stored pixels, masks fit them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prep
from prep.cache.store import Store
from prep.errors import PrepError
from tests.prep.loaders.conftest import TEXTS, photo

pytestmark = pytest.mark.slow


def test_images_and_masks_are_decoded_on_demand(store: Store, photos: Path) -> None:
    import datasets

    made = prep.to_hf(store, photos)
    assert isinstance(made, datasets.Dataset)
    assert isinstance(made.features["image"], datasets.Image)
    assert sorted(made.with_format(None)["image_path"]) == sorted(TEXTS)
    for row in made:
        assert isinstance(row["image"], Image.Image)
        masks = row["masks"]
        assert np.asarray(masks).shape == (len(masks), row["height"], row["width"])
        assert row["image"].size == (row["width"], row["height"]) == (80, 48)
    # The box is found where it is in the stored pixels, also in the photo that a viewer turns.
    by_name = {row["image_path"]: row for row in made}
    for name, side in (("a.png", 20), ("c.jpg", 30)):
        box = np.zeros((48, 80), bool)
        box[10 : 10 + side, 5:50] = True
        pixels, row = np.asarray(by_name[name]["image"]), by_name[name]
        assert np.abs(pixels.astype(int) - photo(side)).mean() < 3
        overlaps = [(mask & box).sum() / (mask | box).sum() for mask in np.asarray(row["masks"])]
        assert max(overlaps) > 0.9


def test_it_works_on_like_any_dataset(store: Store, photos: Path) -> None:
    made = prep.to_hf(store, photos, "phrases")
    assert made.num_rows == 4
    kept = made.filter(
        lambda names: [name == "a.png" for name in names], input_columns="image_path", batched=True
    )
    assert sorted(row["expression"] for row in kept) == sorted(TEXTS["a.png"])
    assert {row["image"].size for row in kept} == {(80, 48)}
    masks = prep.to_hf(store, photos).select_columns(["image_path", "masks", "height", "width"])
    assert len(masks[0]["masks"]) > 0


def test_what_cannot_be_read_is_named(store: Store, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"cannot be used: .*") as error:
        prep.to_hf(store, tmp_path)[0]
    assert "image_root" in error.value.remedy
    with pytest.raises(PrepError, match="no images"):
        prep.to_hf(store, photos, "scores")
