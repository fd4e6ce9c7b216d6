"""Makes masks of the same photos with segment-anything, transformers and this project, as whole processes.

python benchmarks/photos.py --images ../shared/data/coco/train2014 --count 2

ViT-B with seeded random weights (transformers' model is as large, but its weights are others), one thread.
Every mask passes the thresholds and the suppression, so all are ragged, as no trained model's are. Of each
command: CPU seconds and wall seconds of the whole process, with imports and loading, its peak memory, and the
CPU seconds in the image encoder, in the mask decoder and in the rest; minimum, median and maximum.

``scripts/amg.py`` of segment-anything is not in its wheel: the program here does what that script does with
``--convert-to-rle``, a JSON file for each photo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

Spent = dict[str, float]  # CPU seconds of all threads, by network


def timed(run: Callable[..., Any], name: str, spent: Spent) -> Callable[..., Any]:
    """The function, adding its CPU seconds to ``spent``."""

    def call(*given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return run(*given, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - start

    return call


def photos(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def with_segment_anything(work: Path, points: int, spent: Spent) -> None:
    """What ``scripts/amg.py`` does: OpenCV reads the photo, the generator's records go to a JSON file."""
    import cv2
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    sam = sam_model_registry["vit_b"](checkpoint=str(work / "sam_vit_b.pth"))
    sam.image_encoder.forward = timed(sam.image_encoder.forward, "encoder", spent)
    sam.mask_decoder.forward = timed(sam.mask_decoder.forward, "decoder", spent)
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=points, pred_iou_thresh=0.0, stability_score_thresh=0.0,
        box_nms_thresh=1.0, output_mode="coco_rle",
    )  # fmt: skip
    for path in photos(work / "photos"):
        masks = generator.generate(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        (work / "out" / f"{path.stem}.json").write_text(json.dumps(masks))


def with_transformers(work: Path, points: int, spent: Spent) -> None:
    """The mask-generation pipeline, its masks as run lengths in a JSON file for each photo."""
    import numpy as np
    import torch
    from pycocotools import mask as coco
    from transformers import SamImageProcessorFast, SamModel, pipeline

    model = SamModel.from_pretrained(work / "hf").eval()
    model.vision_encoder.forward = timed(model.vision_encoder.forward, "encoder", spent)
    model.mask_decoder.forward = timed(model.mask_decoder.forward, "decoder", spent)
    with torch.inference_mode():
        generate = pipeline("mask-generation", model=model, image_processor=SamImageProcessorFast())
        for path in photos(work / "photos"):
            found = generate(
                str(path), points_per_crop=points, points_per_batch=64, pred_iou_thresh=0.0,
                stability_score_thresh=0.0, crops_nms_thresh=1.0,
            )  # fmt: skip
            runs = [coco.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in found["masks"]]
            masks = [
                {"segmentation": one | {"counts": one["counts"].decode()}, "predicted_iou": float(score)}
                for one, score in zip(runs, found["scores"], strict=True)
            ]
            (work / "out" / f"{path.stem}.json").write_text(json.dumps(masks))


def with_pcnet_prep(work: Path, points: int, spent: Spent) -> None:
    """The command that users type, into a store."""
    from cli import prep_main
    from prep.proposals.sam.decoder import Decoder
    from prep.proposals.sam.encoder import ExactEncoder

    ExactEncoder.__call__ = timed(ExactEncoder.__call__, "encoder", spent)  # type: ignore[method-assign]
    Decoder.__call__ = timed(Decoder.__call__, "decoder", spent)  # type: ignore[method-assign]
    command = ["sam", "--preset", "sam", "--model", "vit_b", "--quiet", "--box-nms-thresh", "1"]
    command += ["--pred-iou-thresh", "0", "--stability-score-thresh", "0"]
    command += ["--points-per-side", str(points), "--checkpoint", str(work / "sam_vit_b.pth")]
    command += ["--images", str(work / "photos"), "--store", str(work / "out")]
    sys.argv = ["pcnet-prep", *command]
    try:
        prep_main()
    except SystemExit as ended:
        if ended.code:
            raise


CONTENDERS = {
    "segment-anything": with_segment_anything,
    "transformers": with_transformers,
    "pcnet-prep": with_pcnet_prep,
}


def write_weights(work: Path, pipeline: bool) -> None:
    """Seeded random weights of ViT-B: a checkpoint of segment-anything, and a folder for the ``pipeline``."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"]().state_dict(), work / "sam_vit_b.pth")
    if pipeline:
        from transformers import SamConfig, SamModel

        SamModel(SamConfig()).save_pretrained(work / "hf")


def masks_of(out: Path) -> dict[str, list[str]]:
    """The run lengths in what a contender wrote, sorted, by photo."""
    if (out / "proposals").exists():
        from prep.cache.store import open_store

        rows = open_store(str(out)).stage("proposals").reader().read(["image", "masks"]).to_pylist()
        return {Path(row["image"]).stem: sorted(one["counts"] for one in row["masks"]) for row in rows}
    return {
        path.stem: sorted(one["segmentation"]["counts"] for one in json.loads(path.read_text()))
        for path in out.glob("*.json")
    }


def measure(name: str, work: Path, given: argparse.Namespace) -> dict[str, list[str]]:
    """Print the line of one contender; its masks."""
    from peers import Watched, fresh, spread

    command = [sys.executable, __file__, "--side", name, "--work", str(work), "--points", str(given.points)]
    runs, shares = [], []
    for _ in range(given.repeats):
        fresh(work / "out")
        runs.append(Watched(command).finish())
        shares.append(json.loads((work / "shares.json").read_text()))
    parts = {part: [share[part] for share in shares] for part in ("encoder", "decoder")}
    parts["rest"] = [run.seconds - sum(share.values()) for run, share in zip(runs, shares, strict=True)]
    found = masks_of(work / "out")
    print(
        f"{name}: CPU s {spread([run.seconds for run in runs])} ("
        + ", ".join(f"{part} {spread(seconds)}" for part, seconds in parts.items())
        + f"); wall s {spread([run.wall for run in runs])}; MiB {spread([run.peak for run in runs], 0)}; "
        f"{sum(map(len, found.values()))} masks",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photos (default: photos of scikit-image)")
    parser.add_argument("--count", type=int, default=2, help="how many photos")
    parser.add_argument("--points", type=int, default=8, help="points per side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    for name in ("--side", "--work"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        spent: Spent = {"encoder": 0.0, "decoder": 0.0}
        CONTENDERS[given.side](Path(given.work), given.points, spent)
        Path(given.work, "shares.json").write_text(json.dumps(spent))
        return
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "photos").mkdir()
        copy_photos(given.images, work / "photos", given.count)
        write_weights(work, "transformers" in given.only)
        found = {contender: measure(contender, work, given) for contender in given.only}
    if {"segment-anything", "pcnet-prep"} <= found.keys():
        theirs, ours = found["segment-anything"], found["pcnet-prep"]
        equal = sum(len(set(ours[photo]) & set(masks)) for photo, masks in theirs.items())
        print(f"{equal} of {sum(map(len, theirs.values()))} masks of segment-anything are also ours")


def copy_photos(source: Path | None, folder: Path, count: int) -> None:
    """The first photos of a folder, or of scikit-image."""
    if source:
        for path in sorted(source.glob("*.jpg"))[:count]:
            shutil.copy(path, folder)
        return
    from PIL import Image
    from skimage import data

    for name in ("astronaut", "coffee", "chelsea", "rocket")[:count]:
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
