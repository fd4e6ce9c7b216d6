"""Compares the readers with plain library calls, side by side: python benchmarks/readers.py [rows]."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prep.cache.keys import row_id
from prep.datasets.catalogue import open_jsonl
from prep.datasets.coco_json import read_instances
from prep.datasets.ordinals import Ordinals
from prep.datasets.pickles import loads


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        pickles(rows)
        annotations(Path(folder), rows)
        lines(Path(folder), rows)
        identities(rows)


def pickles(rows: int) -> None:
    """The restricted reader vs. pickle.loads, on references like RefCOCO's."""
    words = ["man", "on", "the", "left"]
    refs = [
        {
            "sent_ids": [at],
            "file_name": f"COCO_train2014_{at:012d}_{at}.jpg",
            "ann_id": at,
            "ref_id": at,
            "image_id": at,
            "split": "train",
            "category_id": 1,
            "sentences": [
                {"tokens": list(words), "raw": "man on the left", "sent_id": at, "sent": "man on the left"}
            ],
        }
        for at in range(rows)
    ]
    data = pickle.dumps(refs, protocol=2)
    theirs, ours = best(lambda: pickle.loads(data)), best(lambda: loads(data))
    print(f"pickle of {rows:,} references: {ours:.2f} s, pickle.loads {theirs:.2f} s ({ours / theirs:.1f}x)")


def annotations(folder: Path, rows: int) -> None:
    """The element-by-element reader vs. json.loads: time and peak memory."""
    path = folder / "instances.json"
    polygon = [[float(at % 640) + 0.25 for at in range(60)]]
    images = [{"id": at, "file_name": f"{at}.jpg", "height": 480, "width": 640} for at in range(rows // 10)]
    objects = [{"id": at, "image_id": at % max(rows // 10, 1), "segmentation": polygon} for at in range(rows)]
    path.write_text(json.dumps({"images": images, "annotations": objects}))
    theirs, ours = best(lambda: json.loads(path.read_text())), best(lambda: read_instances(path))
    most_theirs, most_ours = peak(lambda: json.loads(path.read_text())), peak(lambda: read_instances(path))
    print(
        f"instances.json of {path.stat().st_size / 1e6:.0f} MB: {ours:.2f} s and {most_ours / 1e6:.0f} MB, "
        f"json.loads {theirs:.2f} s and {most_theirs / 1e6:.0f} MB "
        f"({ours / theirs:.1f}x the time, {most_ours / most_theirs:.2f}x the memory)"
    )


def lines(folder: Path, rows: int) -> None:
    """Reading the expressions of a JSONL file vs. a loop of json.loads and the same hash per line."""
    path = folder / "mine.jsonl"
    path.write_text(
        "".join(f'{{"sent": "cup number {at}", "image": "{at // 3}.jpg"}}\n' for at in range(rows))
    )

    def plain() -> None:
        with path.open() as file:
            for line in file:
                entry = json.loads(line)
                row_id("mine", "", None, None, entry["image"], entry["sent"], 0)

    theirs, ours = best(plain), best(lambda: sum(1 for _ in open_jsonl(path).expressions()))
    print(
        f"JSONL of {rows:,} lines: {rows / ours:,.0f} rows/s, json.loads and hash only {rows / theirs:,.0f} "
        f"({ours / theirs:.1f}x the time)"
    )


def identities(rows: int) -> None:
    """Memory for distinguishing equal rows vs. a set of the row IDs."""
    hashes = [int(row_id("d", "", at, None, None, "x", 0)[:16], 16) for at in range(rows)]

    def ours() -> Ordinals:
        ordinals = Ordinals()
        for start in range(0, rows, 4096):
            ordinals.assign(hashes[start : start + 4096])
        return ordinals

    held, of_strings = kept(ours), kept(lambda: {f"{value:032x}" for value in hashes})
    print(
        f"identities of {rows:,}: {held / rows:.1f} bytes per row, a set of strings {of_strings / rows:.1f}"
        f" ({held / of_strings:.2f}x)"
    )


def best(call: Callable[[], Any], times: int = 3) -> float:
    """The minimum CPU time of several runs in seconds, which other processes affect little."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def peak(call: Callable[[], Any]) -> int:
    """The peak memory of a call in bytes."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def kept(call: Callable[[], Any]) -> int:
    """The memory of a call's result in bytes."""
    tracemalloc.start()
    result = call()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return size


if __name__ == "__main__":
    main()
