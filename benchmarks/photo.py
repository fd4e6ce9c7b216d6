"""Draws the README's picture: phrases and proposals of a real photo, and response maps of the demo's model.

    make demo && python benchmarks/photo.py --demo demo --out docs/photo.png

The photo is one of scikit-image's test images: "coffee" by Rachel Michetti, CC0. Its phrases are by rules and
its proposals by segments, without any weights. The maps are not of this photo: the only model that is trained
here without downloads is the demo's, which knows coloured shapes, so they are of a scene of the demo: the
first validation expression with a relation that the model hits; ``--miss`` draws the first that it misses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcnet.evaluation.picture import draw
from prep import pictures
from prep.cache import open_store
from prep.masks import rle
from prep.phrases import decompose
from prep.proposals import propose

Pixels = npt.NDArray[np.uint8]

PHOTO, TEXT = "coffee", "the small spoon to the right of the cup"
WIDTH, GAP, FONT_SIZE, LINE = 1000, 8, 16, 22  # pixels
COLOURS = 200  # of the palette, which keeps the file small


def photo_row(text: str) -> Pixels:
    """The photo beside its proposals, below its expression and phrases."""
    from skimage import data

    pixels = getattr(data, PHOTO)()
    (masks,) = propose([pixels], "segments")
    phrases = decompose(text)
    height, width = pixels.shape[:2]
    decoded = [rle.decode_counts(one.counts, height, width) for one in masks]
    title = [
        f"A photo, without any weights: {len(masks)} proposals by segments, phrases by rules",
        f"{text}:   {'   |   '.join(phrases.phrases)}",
    ]
    return _captioned(title, _wide(_beside(pixels, pictures.draw_masks(pixels, decoded))))


def scene_row(demo: Path, hit: bool) -> Pixels:
    """A validation scene of the demo: image, map of each stage with its phrase, and the chosen proposal."""
    import pyarrow.parquet as pq

    from prep.images import read_rgb

    rows = pq.read_table(demo / "evaluation" / "samples.parquet").to_pylist()
    row = next(row for row in rows if bool(row["point"]) is hit and "relation" in row["groups"])
    phrases = _first(demo, "phrases", "row_id", row["row_id"])["phrases"]
    proposals = _first(demo, "proposals", "image", row["image"])
    stages = np.load(demo / "evaluation" / "stages" / f"{row['row_id']}.npy", allow_pickle=False)
    size = proposals["height"], proposals["width"]
    mask = rle.decode_counts(proposals["masks"][row["proposal"]]["counts"], *size)
    pixels = np.asarray(read_rgb(demo / "data" / "coco" / row["image"]))
    whole = np.stack([_resized(one.astype(np.float32), size) for one in stages])
    title = [
        "A validation scene of the demo, and the model that `make demo` trains without any mask as a label"
    ]
    return _captioned(title, _wide(draw(pixels, row["expression"], phrases, whole, mask)))


def _first(demo: Path, table: str, key: str, value: str) -> dict[str, Any]:
    import pyarrow.compute as pc

    found = open_store(demo / "prepared").stage(table).reader().read(filter=pc.field(key) == value)
    return dict(found.to_pylist()[0])


def _resized(response: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    from PIL import Image

    return np.asarray(Image.fromarray(response).resize(size[::-1], Image.Resampling.BILINEAR))


def _captioned(lines: list[str], panel: Pixels) -> Pixels:
    """A panel below its caption, in black on white."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (panel.shape[1], LINE * len(lines) + 4), "white")
    for number, line in enumerate(lines):
        place = (2, 1 + number * LINE)
        ImageDraw.Draw(strip).text(place, line, fill="black", font=ImageFont.load_default(FONT_SIZE))
    return np.concatenate([np.asarray(strip), panel])


def _beside(*panels: Pixels) -> Pixels:
    white = np.full((panels[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, white)][:-1], axis=1)


def _wide(pixels: Pixels) -> Pixels:
    """A row at the width of the picture."""
    from PIL import Image

    height = round(pixels.shape[0] * WIDTH / pixels.shape[1])
    return np.asarray(Image.fromarray(pixels).resize((WIDTH, height), Image.Resampling.LANCZOS))


def main() -> None:
    """Write the picture and print what it shows."""
    from PIL import Image

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="the folder that `make demo` wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/photo.png"))
    parser.add_argument("--text", default=TEXT, help="the expression about the photo")
    parser.add_argument("--miss", action="store_true", help="draw a scene that the model misses")
    args = parser.parse_args()
    steps = json.loads((args.demo / "demo.json").read_text("utf-8"))["steps"]
    rows = [
        photo_row(args.text),
        np.full((GAP, WIDTH, 3), 255, dtype=np.uint8),
        scene_row(args.demo, not args.miss),
    ]
    picture = Image.fromarray(np.concatenate(rows)).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes; the scene's model was trained for {steps:,} steps")


if __name__ == "__main__":
    main()
