"""WebDataset tars hold the files and rows of a store, are whole or absent, and a repeated export goes on."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

import prep
from prep.cache.store import Store, open_store
from prep.errors import PrepError
from prep.loaders import web
from prep.loaders.samples import Samples
from tests.prep.loaders.conftest import TEXTS


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[f"{path.name}/{member.name}"] = file.read()
    return found


def test_tarfile_reads_it_back(store: Store, photos: Path, tmp_path: Path) -> None:
    done = prep.to_webdataset(store, photos, tmp_path / "web", images_per_tar=2)
    assert (done.images, done.expressions, done.written) == (3, 4, 2)
    assert done.left_out == {"images with an error in the store": 1}
    found = members(tmp_path / "web")
    described = {name: json.loads(data) for name, data in found.items() if name.endswith(".json")}
    assert sorted(one["image"] for one in described.values()) == sorted(TEXTS)
    assert done.masks == sum(len(one["masks"]) for one in described.values())
    for name, one in described.items():
        image = name.removesuffix("json") + one["image"].rsplit(".", 1)[1]
        assert found[image] == (photos / one["image"]).read_bytes()
        masks = store.masks(one["image"])
        rles = [mask["segmentation"] for mask in one["masks"]]
        assert np.array_equal(coco.decode(rles).transpose(2, 0, 1), np.asarray(masks))
        assert [mask["area"] for mask in one["masks"]] == masks.areas.tolist()
        assert [text["expression"] for text in one["expressions"]] == TEXTS[one["image"]]


@pytest.mark.slow
def test_webdataset_streams_it(store: Store, photos: Path, tmp_path: Path) -> None:
    import webdataset

    prep.to_webdataset(store, photos, tmp_path / "web", images_per_tar=2)
    url = str(tmp_path / "web" / "{000000..000001}.tar")
    stream = webdataset.WebDataset(url, shardshuffle=False).decode("rgb8")
    found = {item["json"]["image"]: item for item in stream}
    assert sorted(found) == sorted(TEXTS)
    samples = {sample.image: sample for sample in Samples(store, photos)}
    for image, item in found.items():
        pixels = item["png" if image.endswith("png") else "jpg"]
        assert np.array_equal(pixels, samples[image].pixels())


def test_a_repeated_export_writes_what_changed(
    store: Store, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "web"
    real = web._write

    def stopped(target: Path, *rest: object) -> dict:
        if target.name == "000001.tar":
            raise KeyboardInterrupt
        return real(target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(web, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        prep.to_webdataset(store, photos, folder, images_per_tar=1)
    monkeypatch.undo()
    assert [path.name for path in sorted(folder.glob("*"))] == ["000000.tar", "index.json"]
    done = prep.to_webdataset(store, photos, folder, images_per_tar=1)
    assert (done.written, done.unchanged, done.images) == (2, 1, 3)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = prep.to_webdataset(store, photos, tmp_path / "other", images_per_tar=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()} == whole
    assert again.images == 3
    done = prep.to_webdataset(store, photos, folder, images_per_tar=1, splits=["val"])
    assert (done.images, done.written, done.unchanged) == (1, 1, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["000000.tar", "index.json"]


def test_images_that_cannot_be_read_are_left_out_until_they_can(
    place: Path, photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "a.png").write_bytes(b"changed")
    store = open_store(place)
    done = prep.to_webdataset(store, root, tmp_path / "web")
    assert done.images == 2
    reason = "an image cannot be used: it is not the file that the masks in the store were made of."
    assert done.left_out[reason] == 1
    shutil.copy(photos / "a.png", root / "a.png")
    done = prep.to_webdataset(store, root, tmp_path / "web")
    assert (done.images, done.written) == (3, 1)
    assert prep.to_webdataset(store, root, tmp_path / "web").unchanged == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"000000.tar": {}}', '{"000000.tar": 3}'])
def test_files_of_others_are_not_touched(store: Store, photos: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "000000.tar").write_bytes(b"mine")
    with pytest.raises(PrepError, match=r"000000\.tar is not of this export"):
        prep.to_webdataset(store, photos, tmp_path)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(PrepError, match="is not"):
        prep.to_webdataset(store, photos, tmp_path)
    assert (tmp_path / "000000.tar").read_bytes() == b"mine"
