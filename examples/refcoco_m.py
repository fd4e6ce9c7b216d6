"""Writes RefCOCO-M as a JSONL file and images that `--input` reads, from the dataset's Parquet files.

RefCOCO-M (moondream/refcoco-m on Hugging Face, MIT licence) has the expressions of RefCOCO's val split (unc)
with masks drawn anew: one row per image, with its objects under `samples`. docs/datasets.md has the commands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def lines(row: dict[str, Any], image: str) -> Iterator[dict[str, Any]]:
    """A line for each sentence of each object of an image; `ref_id` is the id of the object."""
    for sample in row["samples"]:
        for sentence in sample["sentences"]:
            yield {
                "sent": sentence,
                "image": image,
                "image_id": row["image_id"],
                "ref_id": sample["id"],
                "split": "val",
                "split_by": "unc",
                "mask": sample["mask"],
                "box": sample["bbox"],
            }


def main() -> None:
    """Write the folder that is named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parquet", type=Path, help="folder with the Parquet files of the dataset")
    parser.add_argument("out", type=Path, help="folder for refcoco-m.jsonl and images/")
    given = parser.parse_args()
    files = sorted(given.parquet.glob("*.parquet"))
    if not files:
        raise SystemExit(
            f"{given.parquet} has no Parquet file. Download the dataset as docs/datasets.md says."
        )
    (given.out / "images").mkdir(parents=True, exist_ok=True)
    images = sentences = 0
    with (given.out / "refcoco-m.jsonl").open("w", encoding="utf-8") as out:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(
                batch_size=16
            ):  # images are inside: keep few in memory
                for row in batch.to_pylist():
                    image = f"images/{Path(row['file_name']).name}"
                    (given.out / image).write_bytes(row["image"]["bytes"])
                    images += 1
                    for line in lines(row, image):
                        out.write(json.dumps(line) + "\n")
                        sentences += 1
    print(f"{sentences:,} expressions of {images:,} images: {given.out / 'refcoco-m.jsonl'}")


if __name__ == "__main__":
    main()
