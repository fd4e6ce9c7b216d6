"""Compares run-length encoding and decoding of masks with pycocotools, and with hotcoco if it is installed.

    python benchmarks/masks.py

One thread, 480 x 640 pixels: smooth masks as of a trained SAM, and ragged ones. CPU seconds per mask, the
median of the runs; contenders run in shuffled order.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from pycocotools import mask as coco
from scipy.ndimage import gaussian_filter

from prep.masks import rle

HEIGHT, WIDTH = 480, 640


def masks(kind: str, count: int) -> list[np.ndarray]:
    """Seeded masks, uint8 (H, W) in C order."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        field = rng.normal(size=(HEIGHT, WIDTH))
        if kind == "smooth":
            field = gaussian_filter(field, rng.uniform(8, 30))
        made.append((field > np.quantile(field, rng.uniform(0.5, 0.95))).astype(np.uint8))
    return made


def race(contenders: dict[str, Callable[[Any], Any]], inputs: list[Any], runs: int) -> dict[str, float]:
    """Median CPU microseconds of a call, by contender."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(inputs[0])  # compiles
    for _ in range(runs):
        for name in random.sample(list(contenders), len(contenders)):
            start = time.process_time()
            for one in inputs:
                contenders[name](one)
            times[name].append((time.process_time() - start) / len(inputs) * 1e6)
    return {name: median(values) for name, values in times.items()}


def main(count: int = 40, runs: int = 5) -> None:
    for kind in ("smooth", "ragged"):
        rows = masks(kind, count if kind == "smooth" else max(1, count // 8))
        columns = [np.asfortranarray(mask) for mask in rows]
        texts = [rle.counts_of(mask) for mask in rows]
        assert texts == [coco.encode(mask)["counts"].decode() for mask in columns]
        theirs = {"pycocotools": lambda mask: coco.encode(np.asfortranarray(mask))}
        decoders = {
            "ours": lambda text: rle.decode_counts(text, HEIGHT, WIDTH),
            "pycocotools": lambda text: coco.decode({"size": [HEIGHT, WIDTH], "counts": text.encode()}),
        }
        try:
            from hotcoco import mask as hot
        except ImportError:
            print("hotcoco is not installed", file=sys.stderr)
        else:
            theirs["hotcoco"] = lambda mask: hot.encode(np.asfortranarray(mask))
            decoders["hotcoco"] = lambda text: hot.decode({"size": [HEIGHT, WIDTH], "counts": text.encode()})
        for order, inputs in (("C", rows), ("F", columns)):
            say(f"{kind}, encode from {order} order", race({"ours": rle.counts_of, **theirs}, inputs, runs))
        say(f"{kind}, decode", race(decoders, texts, runs))


def say(what: str, times: dict[str, float]) -> None:
    others = ", ".join(
        f"{name} {value:.0f} us ({value / times['ours']:.2f}x)"
        for name, value in times.items()
        if name != "ours"
    )
    print(f"{what}: ours {times['ours']:.0f} us, {others}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
