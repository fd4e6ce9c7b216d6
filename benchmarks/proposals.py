"""Compares SAM's reference generator with ours in one process, on the same weights and photos; prints ratios.

    python benchmarks/proposals.py --images photos/            # every section
    python benchmarks/proposals.py --images photos/ --device cuda --model vit_h --points 32 --sections whole

Weights are random (seeded), so speed is measured on synthetic masks that look like those of trained weights:
smooth logits from the photo's colours and the distance to each point. Agreement is also measured on the
ragged masks of the random weights. Contenders run in shuffled order. The C library's allocator is tuned for
both sides; the reference code benefits more from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
RAGGED = {
    "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0, "stability_score_offset": 0.02,
    "box_nms_thresh": 1.0,
}  # fmt: skip
SECTIONS = (
    "post",
    "regions",
    "bytes",
    "memory",
    "decoder",
    "ragged",
    "whole",
    "fast",
    "post2",
    "ragged2",
    "whole2",
)


def main() -> None:
    options = arguments()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    import torch

    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    photos = load_photos(options)
    if options.alone:
        run_alone(options, photos)
        return
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    for section in options.sections:
        print(f"\n{section}")
        globals()[f"section_{section}"](options, photos)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photos (default: synthetic ones)")
    parser.add_argument("--count", type=int, default=2, help="how many photos")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--model2", default="sam2.1_hiera_t", help="SAM 2's, in the sections ending with 2")
    parser.add_argument("--points", type=int, default=8, help="points per side in the whole-image sections")
    parser.add_argument(
        "--post-points", type=int, default=32, help="points per side in the post-processing sections"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=0.0, help="peak fp32 TFLOP/s of the device")
    parser.add_argument("--peak-bf16", type=float, default=0.0, help="the same for bfloat16")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--alone", choices=("official", "ours"), help=argparse.SUPPRESS)
    return parser.parse_args()


# Photos, and synthetic logits in place of those of trained weights


def load_photos(options: argparse.Namespace) -> list[Any]:
    """RGB arrays: from the folder, or blocks of colour with texture at 534 x 800 and 1200 x 1800."""
    import numpy as np
    from PIL import Image

    if options.images:
        files = sorted(
            path for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        return [np.asarray(Image.open(path).convert("RGB")) for path in files[: options.count]]
    rng = np.random.default_rng(options.seed)
    photos = []
    for size in [(534, 800), (1200, 1800)][: options.count]:
        coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
        photos.append((smooth // 2 + rng.integers(0, 40, smooth.shape)).astype(np.uint8))
    return photos


def stand_in(photo: Any, side: int, low: int = 256, square: bool = False) -> tuple[Any, Any]:
    """Smooth logits (3 side**2, low, low) and predicted IoUs of Beta(9, 1.6), three sizes per point.

    SAM pads the photo to a square, SAM 2 stretches it (``square``).
    """
    import numpy as np
    import torch
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    from prep.proposals.sam.crops import grid, resized

    height, width = (low, low) if square else resized(photo.shape[:2], low)
    small = np.asarray(Image.fromarray(photo).resize((width, height))).astype(np.float32)
    small = np.pad(gaussian_filter(small, (3, 3, 0)), ((0, low - height), (0, low - width), (0, 0)))
    y, x = np.mgrid[:low, :low].astype(np.float32)
    logits = np.empty((3 * side * side, low, low), np.float32)
    for number, (px, py) in enumerate(grid(side)):
        column, row = int(px * width), int(py * height)
        far = np.hypot(x - column, y - row) / low
        unlike = np.sqrt(((small - small[row, column]) ** 2).sum(-1)) / 90
        for k, size in enumerate((0.08, 0.2, 0.5)):
            logits[3 * number + k] = np.clip(120 * (1 - far / size - unlike), -20, 20)
    iou = np.random.default_rng(0).beta(9, 1.6, len(logits)).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(iou)


class Script:
    """Returns the synthetic logits of one photo in batches of points, cyclically."""

    def __init__(self, logits: Any, iou: Any, batch: int) -> None:
        self.logits, self.iou = logits.unflatten(0, (-1, 3)).split(batch), iou.view(-1, 3).split(batch)
        self.at = 0

    def next(self) -> tuple[Any, Any]:
        """The next batch's logits (n, 3, L, L) and predicted IoUs (n, 3)."""
        number = self.at % len(self.logits)
        self.at += 1
        return self.logits[number], self.iou[number]


# The two contenders


def random_model(options: argparse.Namespace) -> Any:
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    return sam_model_registry[options.model]().to(options.device).eval()


def ours(network: Any, **settings: Any) -> Any:
    """Our generator, with as many threads as the reference has."""
    import torch

    from prep.proposals.sam.generator import SamGenerator, SamSettings

    threads = torch.get_num_threads()
    generator = SamGenerator(SamSettings(threads=threads, **settings), load=lambda _: network)
    generator.open()
    return generator


def official(model: Any, **settings: Any) -> Callable[[Any], list[dict[str, Any]]]:
    from segment_anything import SamAutomaticMaskGenerator

    result: Callable[[Any], list[dict[str, Any]]]
    result = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **settings).generate
    return result


def without_network(model: Any, script: Script) -> Any:
    """The model with its networks replaced by the script, which leaves the generator's own work."""
    import torch

    class Encoder(torch.nn.Module):
        img_size = model.image_encoder.img_size

        def forward(self, pixels: Any) -> Any:
            return torch.zeros((len(pixels), 1, 64, 64), device=pixels.device)

    class Prompts(torch.nn.Module):
        def forward(self, points: Any, **_: Any) -> Any:
            return points[0], None

        def get_dense_pe(self) -> None:
            return None

    class Decoder(torch.nn.Module):
        def forward(self, **_: Any) -> Any:
            return script.next()

    model.image_encoder, model.prompt_encoder, model.mask_decoder = Encoder(), Prompts(), Decoder()
    return model


def ours_without_network(model: Any, script: Script, settings: dict[str, Any]) -> Any:
    """The same for our generator: the script replaces the decoder, including its filter by predicted IoU."""
    generator = ours(model, **settings)
    without_network(model, script)
    generator._encode = lambda images: [model.image_encoder(image[None]) for image in images]
    generator._decode = Scripted(script)
    return generator


class Scripted:
    """The script with the decoder's interface; ``real``, if given, also runs, and ``mix`` times its logits
    are added.
    """

    def __init__(self, script: Script, real: Any = None, mix: float = 0.0) -> None:
        self.script, self.real, self.mix = script, real, mix

    def prompts(self, points: Any) -> Any:
        """The points' embeddings, or the points."""
        return self.real.prompts(points) if self.real else points

    def __call__(self, features: Any, prompts: Any, threshold: float) -> Any:
        """The next batch's candidates above ``threshold``."""
        from prep.proposals.sam.decoder import Decoded, passing

        logits, iou = self.script.next()
        if self.real:
            found = self.real(features, prompts, threshold)
            logits = logits.flatten(0, 1)[found.index.to(logits.device)]
            return Decoded(found.index, found.iou, logits + self.mix * found.logits if self.mix else logits)
        index = passing(iou, threshold)
        return Decoded(index.cpu(), iou.flatten()[index], logits.flatten(0, 1)[index])


# Measuring


Times = list[tuple[float, float]]  # wall seconds and CPU seconds of all threads, of each run


def race(
    contenders: dict[str, Callable[[], Any]], repeats: int, device: str
) -> tuple[dict[str, Times], dict[str, Any]]:
    """The times and the last result of each contender; the order is shuffled in every round."""
    import torch

    times: dict[str, Times] = {name: [] for name in contenders}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name in random.sample(list(contenders), len(contenders)):
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = contenders[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times, results


def pair(mine: Any, theirs: Callable[[Any], Any], photo: Any) -> dict[str, Callable[[], Any]]:
    """The two contenders on one photo."""
    return {"reference": lambda: theirs(photo), "ours": lambda: mine.propose([photo])[0]}


def same(found: list[Any], expected: list[dict[str, Any]]) -> tuple[int, int]:
    """The number of masks that are equal in every field and position, and the larger number of masks."""
    equal = 0
    for mine, theirs in zip(found, expected, strict=False):
        equal += (
            mine.counts == theirs["segmentation"]["counts"]
            and mine.area == theirs["area"]
            and list(mine.bbox) == theirs["bbox"]
            and mine.predicted_iou == theirs["predicted_iou"]
            and repr(mine.stability_score) == repr(theirs["stability_score"])
            and [list(mine.point)] == theirs["point_coords"]
            and list(mine.crop_box) == theirs["crop_box"]
        )
    return equal, max(len(found), len(expected))


def report(what: str, times: dict[str, Times], note: str = "") -> None:
    """Print the ratio of the medians, and minimum, median and maximum of each contender, on both clocks.

    On a machine with other work, only the CPU seconds are those of the contender alone.
    """
    print(f"  {what}{note}")
    for number, clock in enumerate(("wall", "CPU")):
        spans = {name: sorted(run[number] for run in runs) for name, runs in times.items()}
        ratios = ", ".join(
            f"{median(spans['reference']) / max(1e-9, median(span)):.1f}x" + f" {name}" * (name != "ours")
            for name, span in spans.items()
            if name != "reference"
        )
        shown = ", ".join(
            f"{name} {span[0]:.3f} {median(span):.3f} {span[-1]:.3f}" for name, span in spans.items()
        )
        runs = len(spans["reference"])
        print(f"    {clock}: {ratios}; seconds min, median, max of {runs}: {shown}")


def shares(generator: Any, equal: tuple[int, int]) -> str:
    recomputed = generator.recomputed / max(1, generator.measured)
    return f"; {equal[0]} of {equal[1]} masks equal; {recomputed:.1%} of {generator.measured} recomputed"


# The sections


def post_pair(options: argparse.Namespace, photo: Any, **settings: Any) -> tuple[Any, Any]:
    """Both generators on the photo's synthetic logits, without networks."""
    logits, iou = stand_in(photo, options.post_points)
    settings |= {"points_per_side": options.post_points}
    logits, iou = logits.to(options.device), iou.to(options.device)
    model = random_model(options)
    mine = ours_without_network(model, Script(logits, iou, 64), settings)
    theirs = official(without_network(random_model(options), Script(logits, iou, 64)), **settings)
    mine.propose([photo])  # compiles
    mine.recomputed = mine.measured = 0
    return mine, theirs


def section_post(options: argparse.Namespace, photos: list[Any]) -> None:
    """Everything after the decoder's logits and predicted IoUs, with the reference's thresholds."""
    for photo in photos:
        mine, theirs = post_pair(options, photo)
        times, found = race(pair(mine, theirs, photo), options.repeats, options.device)
        equal = same(found["ours"], found["reference"])
        report(f"{size_of(photo)}, {options.post_points**2} points", times, shares(mine, equal))


def section_regions(options: argparse.Namespace, photos: list[Any], area: int = 100) -> None:
    """Removal of holes and islands of fewer than 100 pixels."""
    from segment_anything.utils.amg import remove_small_regions as on_pixels

    from prep.masks import rle
    from prep.proposals.sam.small_regions import remove_small_regions as on_runs

    for photo in photos:
        mine, _ = post_pair(options, photo)
        height, width = photo.shape[:2]
        all_runs = [rle.expand(mask.counts) for mask in mine.propose([photo])[0]]
        decoded = [rle.decode(runs, height, width) for runs in all_runs]  # outside the clock

        def slow(decoded: list[Any] = decoded) -> list[Any]:
            out = []
            for whole in decoded:
                mask, first = on_pixels(whole, area, mode="holes")
                mask, second = on_pixels(mask, area, mode="islands")
                out.append((mask, first or second))
            return out

        def fast(all_runs: list[Any] = all_runs, size: tuple[int, int] = (height, width)) -> list[Any]:
            return [on_runs(runs, *size, area) for runs in all_runs]

        fast()
        times, found = race({"reference": slow, "ours": fast}, options.repeats, "cpu")
        equal = sum(
            a[0].tolist() == rle.encode(b[0]).tolist() and a[1] == b[1]
            for a, b in zip(found["ours"], found["reference"], strict=True)
        )
        report(size_of(photo), times, f"; {equal} of {len(decoded)} masks equal")


def section_bytes(options: argparse.Namespace, photos: list[Any]) -> None:
    """The size of an image's masks in three formats."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from prep.cache.schema import MASK

    for photo in photos:
        mine, _ = post_pair(options, photo)
        masks = mine.propose([photo])[0]
        height, width = photo.shape[:2]
        as_json = json.dumps(
            [
                {
                    "segmentation": {"size": [height, width], "counts": mask.counts}, "area": mask.area,
                    "bbox": mask.bbox, "predicted_iou": mask.predicted_iou, "point_coords": [mask.point],
                    "stability_score": mask.stability_score, "crop_box": mask.crop_box, "id": number,
                }
                for number, mask in enumerate(masks)
            ]
        )  # fmt: skip
        rows = [{field.name: getattr(mask, field.name) for field in MASK} for mask in masks]
        table = pa.table({"masks": pa.array([rows], pa.list_(MASK))})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.parquet"
            pq.write_table(table, path, compression="zstd", use_dictionary=False)
            parquet = path.stat().st_size
        dense = len(masks) * height * width * np.dtype(bool).itemsize
        print(
            f"  {size_of(photo)}, {len(masks)} masks: Parquet {parquet / 1024:.1f} KiB, "
            f"SA-1B JSON {len(as_json) / 1024:.1f} KiB, released .npy {dense / 1024:.0f} KiB"
        )


def section_memory(options: argparse.Namespace, photos: list[Any]) -> None:
    """Peak memory of the post-processing, each contender in its own process."""
    for name in ("official", "ours"):
        command = [sys.executable, *sys.argv, "--alone", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
        print(f"  {'reference' if name == 'official' else name}: {done.stdout.strip()}")


def run_alone(options: argparse.Namespace, photos: list[Any]) -> None:
    photo = max(photos, key=lambda pixels: pixels.shape[0] * pixels.shape[1])
    mine, theirs = post_pair(options, photo)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with gpu_peak(options.device) as peak:
        theirs(photo) if options.alone == "official" else mine.propose([photo])
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{size_of(photo)}: {more / 1024:.0f} MiB on top of what was loaded{peak()}")


@contextlib.contextmanager
def gpu_peak(device: str) -> Iterator[Callable[[], str]]:
    """The peak GPU memory in the block, as text; empty on a CPU."""
    import torch

    if device == "cpu":
        yield lambda: ""
        return
    torch.cuda.reset_peak_memory_stats()
    yield lambda: f", GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"


def section_decoder(options: argparse.Namespace, photos: list[Any]) -> None:
    """A batch of 64 points through the decoder; 40% of the masks pass the predicted IoU threshold."""
    import torch

    model = random_model(options)
    decode = ours(model, model=options.model)._decode
    with torch.inference_mode():
        features = torch.randn((1, 256, 64, 64), device=options.device)
        points = torch.rand((64, 2), dtype=torch.float64, device=options.device) * 1024
        prompts = decode.prompts(points)
        iou = decode.reference(features, prompts)[1].flatten()
        threshold = float(iou.quantile(0.6))
        decode(features, prompts, threshold)  # compares the two decoder passes
        times, _ = race(
            {
                "reference": lambda: model.mask_decoder(
                    image_embeddings=features, image_pe=model.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=prompts, multimask_output=True,
                    dense_prompt_embeddings=decode._no_mask.expand(64, -1, 64, 64),
                ),
                "ours": lambda: decode(features, prompts, threshold),
            },
            options.repeats, options.device,
        )  # fmt: skip
    report("64 points", times, f"; shared pass bitwise equal: {decode.agrees}")


def section_ragged(options: argparse.Namespace, photos: list[Any]) -> None:
    """Agreement on the masks of the random weights, 6 points per side; our time includes compilation."""
    settings = RAGGED | {"points_per_side": 6}
    model = random_model(options)
    mine, theirs = ours(model, model=options.model, **settings), official(model, **settings)
    for photo in photos:
        times, found = race(pair(mine, theirs, photo), 1, options.device)
        report(size_of(photo), times, shares(mine, same(found["ours"], found["reference"])))


def section_whole(options: argparse.Namespace, photos: list[Any]) -> None:
    """A whole image. The encoder and decoder run; smooth logits then replace the random ones."""
    settings = {"points_per_side": options.points, "points_per_batch": min(64, options.points**2)}
    for photo in photos:
        logits, iou = (part.to(options.device) for part in stand_in(photo, options.points))
        names = ["reference", "ours"] + (["fast"] if options.device != "cpu" else [])
        contenders: dict[str, Callable[[], Any]] = {}
        generators: dict[str, Any] = {}
        threshold = float("nan")
        for name in names:
            model, script = random_model(options), Script(logits, iou, settings["points_per_batch"])
            if name == "reference":
                threshold, _ = iou_quantile(model, photo, settings)
                contenders[name] = scripted_official(
                    model, script, photo, settings | {"pred_iou_thresh": threshold}
                )
                continue
            fidelity = "fast" if name == "fast" else "exact"
            generator = ours(
                model, model=options.model, fidelity=fidelity, pred_iou_thresh=threshold, **settings
            )
            generator.propose([photo])  # compiles, and compares the two decoder passes
            generator._decode = Scripted(script, generator._decode)
            generator.recomputed = generator.measured = 0
            generators[name] = generator
            contenders[name] = lambda g=generator, p=photo: g.propose([p])[0]  # type: ignore[misc]
        with gpu_peak(options.device) as peak:
            times, found = race(contenders, options.repeats, options.device)
        note = shares(generators["ours"], same(found["ours"], found["reference"]))
        report(f"{size_of(photo)}, {options.points**2} points", times, note + peak())
        bound(options, times)


def section_fast(options: argparse.Namespace, photos: list[Any]) -> None:
    """`--fidelity fast` beside the reference, and how its masks differ from the exact ones.

    The networks' own logits, scaled to a standard deviation of 2, are added to smooth ones between -20 and
    20, so that their errors move the outlines. The masks of the random weights alone are the second
    comparison.
    """
    import torch

    from prep.proposals.sam.fidelity import Differences

    settings = {"points_per_side": options.points, "points_per_batch": min(64, options.points**2)}
    for photo in photos:
        logits, iou = (part.to(options.device) for part in stand_in(photo, options.points))
        threshold, mix = iou_quantile(random_model(options), photo, settings)
        chosen = settings | {"pred_iou_thresh": threshold}
        made = {
            fidelity: ours(random_model(options), model=options.model, fidelity=fidelity, **chosen)
            for fidelity in ("exact", "fast")
        }
        script = Script(logits, iou, settings["points_per_batch"])
        contenders = {"reference": scripted_official(random_model(options), script, photo, chosen, mix)}
        for name, generator in made.items():
            generator._proposed = 1  # the first image is compared with exact, which takes its time too
            generator.propose([photo])  # compiles, and compares the two decoder passes
            generator._decode = Scripted(
                Script(logits, iou, settings["points_per_batch"]), generator._decode, mix
            )
            contenders[name] = lambda g=generator, p=photo: g.propose([p])[0]  # type: ignore[misc]
        times, found = race(contenders, options.repeats, options.device)
        equal = same(found["exact"], found["reference"])
        note = f"; exact: {equal[0]} of {equal[1]} masks equal"
        report(f"{size_of(photo)}, {options.points**2} points", times, note)
        seen = Differences()
        seen.add(found["exact"], found["fast"], photo.shape[:2], made["exact"].options)
        print(f"    smooth: {len(found['exact'])} and {len(found['fast'])} masks; {seen}")
        ragged = RAGGED | {"points_per_side": 6}
        both = [
            ours(random_model(options), model=options.model, fidelity=fidelity, **ragged)
            for fidelity in ("exact", "fast")
        ]
        both[1]._proposed = 1
        masks = [generator.propose([photo])[0] for generator in both]
        seen = Differences()
        seen.add(*masks, photo.shape[:2], both[0].options)
        print(f"    ragged: {len(masks[0])} and {len(masks[1])} masks; {seen}")
        print(f"    {', '.join(sorted(both[1]._notes())) or torch.__version__}")


def iou_quantile(model: Any, photo: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """A threshold that 40% of the random weights' predicted IoUs pass, and the factor that gives their logits
    a standard deviation of 2.
    """
    import torch

    generator = ours(model, **settings)
    with torch.inference_mode():
        from prep.proposals.sam.encoder import shrink

        features = generator._encode([shrink(photo, 1024)])[0]
        logits, iou = generator._decode.reference(features, generator._prompts(0, photo.shape[:2])[0])
    return float(iou.flatten().quantile(0.6)), 2 / float(logits.std())


def scripted_official(
    model: Any, script: Script, photo: Any, settings: dict[str, Any], mix: float = 0.0
) -> Callable[[], Any]:
    """The reference generator; its decoder runs, then the script's logits, and ``mix`` times its own,
    replace them.
    """
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self, real: Any) -> None:
            super().__init__()
            self.real = real

        def forward(self, **inputs: Any) -> Any:
            logits, iou = self.real(**inputs)
            return script.next()[0] + mix * logits if mix else script.next()[0], iou

    model.mask_decoder = Decoder(model.mask_decoder)
    generate = official(model, **settings)
    return lambda: generate(photo)


def bound(options: argparse.Namespace, times: dict[str, Times]) -> None:
    """Print images/s and, for ViT-H, the fraction of the device's peak FLOP/s."""
    for name, runs in times.items():
        value = median(wall for wall, _ in runs)
        peak = options.peak_bf16 if name == "fast" else options.peak
        share = ""
        if peak and options.model == "vit_h":
            work = 5.96 + 3.71 * options.points**2 / 1024  # TFLOP: encoder, decoder
            share = f", {work / value / peak:.0%} of its peak FLOP/s"
        print(f"    {name}: {1 / value:.3f} images/s{share}")


# SAM 2


class WithoutNetwork:
    """What both of SAM 2's generators ask of a model; the script replaces its networks."""

    image_size, directly_add_no_mem_embed = 1024, False

    def __init__(self, script: Script, device: str) -> None:
        import torch

        self.script, self.device = script, torch.device(device)
        self.sam_prompt_encoder = self
        self.maps = [torch.zeros((side**2, 1, 1), device=device) for side in (256, 128, 64)]

    def forward_image(self, pixels: Any) -> None:
        return None

    def _prepare_backbone_features(self, found: None) -> tuple[Any, ...]:
        return None, list(self.maps), None, [(256, 256), (128, 128), (64, 64)]

    def __call__(self, **prompts: Any) -> tuple[Any, Any]:
        return None, None

    def get_dense_pe(self) -> None:
        return None

    def sam_mask_decoder(self, **inputs: Any) -> tuple[Any, ...]:
        return *self.script.next(), None, None


def official2(model: Any, **settings: Any) -> Callable[[Any], list[dict[str, Any]]]:
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    result: Callable[[Any], list[dict[str, Any]]]
    result = SAM2AutomaticMaskGenerator(model, output_mode="coco_rle", **settings).generate
    return result


def ours2(network: Any, **settings: Any) -> Any:
    """Our generator of SAM 2's masks, with as many threads as the reference has."""
    import torch

    from prep.proposals.sam2.generator import Sam2Generator
    from prep.proposals.sam2.settings import Sam2Settings

    threads = torch.get_num_threads()
    generator = Sam2Generator(Sam2Settings(threads=threads, **settings), load=lambda _: network)
    generator.open()
    return generator


def random_model2(options: argparse.Namespace) -> Any:
    import torch

    from prep.proposals.sam2.weights import build

    torch.manual_seed(0)
    return build(options.model2).to(options.device).eval()


def section_post2(options: argparse.Namespace, photos: list[Any]) -> None:
    """Everything after the decoder of SAM 2, with the reference's thresholds."""
    settings = {"points_per_side": options.post_points}
    for photo in photos:
        parts = [part.to(options.device) for part in stand_in(photo, options.post_points, square=True)]
        models = [WithoutNetwork(Script(*parts, 64), options.device) for _ in range(2)]
        mine, theirs = ours2(models[0], **settings), official2(models[1], **settings)
        mine.propose([photo])  # compiles
        mine.recomputed = mine.measured = 0
        times, found = race(pair(mine, theirs, photo), options.repeats, options.device)
        equal = same(found["ours"], found["reference"])
        report(f"{size_of(photo)}, {options.post_points**2} points", times, shares(mine, equal))


def section_ragged2(options: argparse.Namespace, photos: list[Any]) -> None:
    """Agreement on the masks of SAM 2's random weights; our time includes compilation."""
    model = random_model2(options)
    cases = ({}, {"use_m2m": True}, {"multimask_output": False})
    for photo in photos:
        for case in cases:
            settings = RAGGED | {"points_per_side": 2} | case
            mine, theirs = ours2(model, model=options.model2, **settings), official2(model, **settings)
            times, found = race(pair(mine, theirs, photo), 1, options.device)
            equal = same(found["ours"], found["reference"])
            report(f"{options.model2}, {size_of(photo)}, {case}", times, shares(mine, equal))


def section_whole2(options: argparse.Namespace, photos: list[Any]) -> None:
    """A whole image. The networks of SAM 2 run; smooth logits then replace the random ones."""
    settings = {"points_per_side": options.points, "points_per_batch": min(64, options.points**2)}
    for photo in photos:
        parts = [part.to(options.device) for part in stand_in(photo, options.points, square=True)]
        models = []
        for _ in range(2):
            model, script = random_model2(options), Script(*parts, settings["points_per_batch"])
            real = model.sam_mask_decoder.forward
            model.sam_mask_decoder.forward = lambda real=real, script=script, **inputs: (
                real(**inputs) and (*script.next(), None, None)
            )
            models.append(model)
        mine, theirs = ours2(models[0], model=options.model2, **settings), official2(models[1], **settings)
        mine.propose([photo])  # compiles
        mine.recomputed = mine.measured = 0
        times, found = race(pair(mine, theirs, photo), options.repeats, options.device)
        equal = same(found["ours"], found["reference"])
        what = f"{options.model2}, {size_of(photo)}, {options.points**2} points"
        report(what, times, shares(mine, equal))


def size_of(photo: Any) -> str:
    return f"{photo.shape[0]} x {photo.shape[1]}"


if __name__ == "__main__":
    main()
