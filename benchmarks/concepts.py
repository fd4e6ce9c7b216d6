"""Times SAM 3 called for one image and phrase at a time, and our detector, which shares the image's features.

    python -m benchmarks.concepts               # random weights in the shape of the released model (3.4 GB)
    python -m benchmarks.concepts --model DIR   # the weights of a folder

Prints CPU seconds for one image of noise and so many phrases, first with transformers' processor and model
for each phrase, then with ours, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from prep.concepts.detectors import DetectorSettings, open_detector
from prep.concepts.found import Pixels
from prep.concepts.sam3 import Sam3Finder

PHRASES = ("a dog", "the man in blue", "red umbrella", "left cup", "tallest tree", "a bag", "a girl", "a car")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
THRESHOLD = DetectorSettings().least_score


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a folder with a SAM 3 model, instead of random weights")
    parser.add_argument("--phrases", type=int, default=3, choices=range(2, len(PHRASES) + 1))
    options = parser.parse_args()
    if options.model:
        opened = open_detector(DetectorSettings(model=options.model))
        assert isinstance(opened, Sam3Finder)
        model, processor = opened.model, opened.processor
    else:
        model, processor = random_model()
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    times = []
    for side in (one_pair_at_a_time, ours):
        started = time.process_time()
        side(model, processor, pixels, PHRASES[: options.phrases])
        times.append(time.process_time() - started)
    print(
        f"1 image, {options.phrases} phrases, {torch.get_num_threads()} threads: one pair at a time "
        f"{times[0]:.1f} CPU s, ours {times[1]:.1f} CPU s ({times[0] / times[1]:.1f}x)"
    )


def one_pair_at_a_time(model: Any, processor: Any, pixels: Pixels, phrases: Sequence[str]) -> None:
    """What transformers' documentation does, for each phrase."""
    for phrase in phrases:
        inputs = processor(images=Image.fromarray(pixels), text=phrase, return_tensors="pt")
        inputs.pop("original_sizes")
        with torch.inference_mode():
            outputs = model(**inputs)
        processor.post_process_instance_segmentation(outputs, THRESHOLD, target_sizes=[pixels.shape[:2]])


def ours(model: Any, processor: Any, pixels: Pixels, phrases: Sequence[str]) -> None:
    """The same with our detector, which knows no phrase yet."""
    Sam3Finder(model, processor, THRESHOLD, len(PHRASES)).find(pixels, phrases)


def random_model() -> tuple[Any, Any]:
    """A model in the released shape with seeded random weights; its tokenizer knows letters only."""
    from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[])
    torch.manual_seed(0)
    return Sam3Model(Sam3Config()).eval(), Sam3Processor(Sam3ImageProcessor(), tokenizer)


if __name__ == "__main__":
    main()
