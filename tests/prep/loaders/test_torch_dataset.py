"""A store as a dataset of PyTorch, also in the processes of a DataLoader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import prep
from prep.cache.store import Store
from prep.errors import PrepError
from tests.prep.loaders.conftest import TEXTS


def test_an_item_has_the_image_its_masks_and_its_expressions(store: Store, photos: Path) -> None:
    made = prep.TorchImages(store, photos)
    assert len(made) == 3
    assert made.samples.left_out == 1
    for item in (made[number] for number in range(3)):
        assert item["image"].dtype == torch.uint8
        assert item["image"].shape == (3, 48, 80)
        stored = Image.open(photos / item["image_path"]).convert("RGB")
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(stored))
        masks = store.masks(item["image_path"])
        assert np.array_equal(item["masks"].numpy(), np.asarray(masks))
        assert item["masks"].dtype == torch.bool
        assert item["boxes"].tolist() == masks.boxes.tolist()
        assert [one["expression"] for one in item["expressions"]] == TEXTS[item["image_path"]]
        assert item["expressions"][0]["phrases"]
    with pytest.raises(IndexError):
        made[3]
    assert made[-1]["image_path"] == made[2]["image_path"]


def test_a_split_has_its_images_and_expressions_alone(store: Store, photos: Path) -> None:
    made = prep.TorchImages(store, photos, splits=["val"])
    assert [made[0]["image_path"]] == ["c.jpg"]
    assert len(made) == 1
    with pytest.raises(PrepError, match="no expressions of the split 'testA'") as error:
        prep.TorchImages(store, photos, splits=["testA"])
    assert error.value.remedy == "Choose among: train, val."


def test_another_image_than_that_of_the_masks_is_refused(store: Store, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    Image.new("RGB", (80, 48)).save(tmp_path / "photos" / "a.png")
    made = prep.TorchImages(store, tmp_path / "photos")
    names = [sample.image for sample in made.samples]
    with pytest.raises(PrepError, match=r"a\.png cannot be used: it is not the file that the masks"):
        made[names.index("a.png")]
    (tmp_path / "photos" / "c.jpg").unlink()
    with pytest.raises(PrepError, match=r"c\.jpg cannot be used"):
        made[names.index("c.jpg")]


def _sizes(item: dict) -> tuple[str, int]:
    return item["image_path"], int(item["masks"].sum())


@pytest.mark.slow
def test_workers_of_a_loader_give_the_same(store: Store, photos: Path) -> None:
    made = prep.TorchImages(store, photos, transform=_sizes)
    loader = DataLoader(made, batch_size=2, num_workers=2, collate_fn=list, multiprocessing_context="spawn")
    assert [item for batch in loader for item in batch] == [made[number] for number in range(3)]
