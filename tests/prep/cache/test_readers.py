"""Any Parquet reader can use a store, and pycocotools its masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco

from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store

IMAGES = 300


def pixels(number: int, index: int) -> np.ndarray:
    """The H x W mask ``index`` of image ``number``, uint8."""
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[number % 20 : number % 20 + 5 + index, index : 10 + number % 30] = 1
    return mask


def proposal(number: int) -> dict[str, Any]:
    masks = [pixels(number, index) for index in range(number % 4)]
    rows, columns = np.arange(32) * 40 // 32, np.arange(32) * 60 // 32
    small = [np.packbits(mask[rows][:, columns], bitorder="big").tobytes() for mask in masks]
    return {
        "image": f"train2014/{number:06d}.jpg",
        "image_id": number if number % 3 else None,
        "height": 40,
        "width": 60,
        "masks": [
            {
                "counts": coco.encode(np.asfortranarray(mask))["counts"].decode(),
                "area": int(mask.sum()),
                "bbox": [1.0, 2.0, 3.0, 4.0],
            }
            for mask in masks
        ],
        "grid32": b"".join(small),
        "generator": "test",
        "key": f"{number}",
        "status": "ok" if masks else "empty",
    }


def phrase(number: int) -> dict[str, Any]:
    return {
        "row_id": f"{number:032x}",
        "dataset": "refcoco",
        "split_by": "unc",
        "split": "val",
        "image": f"train2014/{number:06d}.jpg",
        "expression": f"cat {number} \u00e9\u4e2d",
        "phrases": ["cat", f"cat {number}"],
        "source": "rules",
        "llm": "rules",
        "key": f"{number}",
        "violations": [],
        "rejected": [{"source": "llm", "violations": ["empty"]}] if number % 2 else [],
        "status": "ok",
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("readers") / "prepared"
    opened = open_store(place, create=True)
    for name, make, schema in (("proposals", proposal, PROPOSALS), ("phrases", phrase, PHRASES)):
        with opened.stage(name).writer({}, commit_seconds=0) as writer:
            for start in range(0, IMAGES, 100):
                writer.write(
                    pa.Table.from_pylist([make(n) for n in range(start, start + 100)], schema=schema)
                )
    return place


def check_masks(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == IMAGES
    for row in rows:
        number = int(row["image"][-10:-4])
        for index, mask in enumerate(row["masks"]):
            decoded = coco.decode({"size": [row["height"], row["width"]], "counts": mask["counts"]})
            assert np.array_equal(decoded, pixels(number, index))


def test_duckdb(store: Path) -> None:
    import duckdb

    database = duckdb.connect()
    query = f"select image, height, width, masks from read_parquet('{store}/proposals/**/*.parquet')"
    names = ("image", "height", "width", "masks")
    check_masks([dict(zip(names, row, strict=True)) for row in database.execute(query).fetchall()])
    joined = f"""select count(*), sum(len(p.phrases))
        from read_parquet('{store}/phrases/**/*.parquet') p
        join read_parquet('{store}/proposals/**/*.parquet') m using (image)
        where octet_length(m.grid32) > 0"""
    assert database.execute(joined).fetchone() == (IMAGES * 3 // 4, IMAGES * 3 // 2)


def test_hugging_face_datasets(store: Path, tmp_path: Path) -> None:
    import datasets

    def load(stage: str) -> Any:
        files = sorted(str(path) for path in (store / stage).glob("*.parquet"))
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))

    masks = load("proposals")
    check_masks(list(masks))
    assert {row["expression"] for row in load("phrases")} == {phrase(n)["expression"] for n in range(IMAGES)}


def test_pandas_and_polars(store: Path) -> None:
    import pandas
    import polars

    check_masks(pandas.read_parquet(store / "proposals").to_dict("records"))
    frame = polars.read_parquet(store / "proposals/*.parquet")
    check_masks(frame.to_dicts())
    wanted = [phrase(n)["phrases"] for n in range(IMAGES)]
    assert polars.read_parquet(store / "phrases/*.parquet").sort("row_id")["phrases"].to_list() == wanted
    frame = pandas.read_parquet(store / "phrases").sort_values("row_id")
    assert [list(some) for some in frame["phrases"]] == wanted


def test_pyarrow_and_our_reader_agree(store: Path) -> None:
    import pyarrow.dataset as ds

    ours = open_store(store).stage("proposals").reader().read().sort_by("image")
    theirs = ds.dataset(store / "proposals", format="parquet").to_table().sort_by("image")
    assert ours.to_pylist() == theirs.to_pylist()
    check_masks(ours.to_pylist())
