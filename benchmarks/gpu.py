"""Runs every GPU measurement of this project in one command: ``python benchmarks/gpu.py --out results``.

The steps run in order, each in its own process with a time limit. A step that fails or takes too long is
reported and the next one starts. Each step prints one line per measurement and writes ``<step>.json`` into
the output folder; ``summary.json`` says which steps passed. Weights are seeded and random, so nothing is
downloaded.

    python benchmarks/gpu.py --dry-run --out results      # the same code on a CPU, with small shapes

Wheels that a bare GPU machine needs besides torch, torchvision, triton, numba, pyarrow, transformers and
scikit-image (sizes of the files): segment-anything 1.0 (36 KB), pycocotools 2.0.11 (0.4 MB),
open_clip_torch 3.3 (1.5 MB), ftfy 6.3 (45 KB), wcwidth 0.9 (0.8 MB). The step ``vllm`` also needs vLLM and is
skipped without it; set VLLM_USE_FLASHINFER_SAMPLER=0 where vLLM is installed without FlashInfer.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

Result = dict[str, Any]


# Measuring


class Measure:
    """The settings of one step: its device, and small shapes for a dry run."""

    def __init__(self, dry_run: bool, images: Path | None, models: Sequence[str]) -> None:
        self.dry_run, self.images, self.models = dry_run, images, models
        self.device = "cpu" if dry_run else "cuda"
        self.repeats = 1 if dry_run else 5

    def synchronize(self) -> None:
        """Wait for the device, so that a host clock may be read."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int | None = None, warm: int = 1) -> Result:
        """Minimum, median and maximum wall seconds of ``work``, after ``warm`` warm-up runs."""
        return self.compare({"": work}, repeats, warm)[""]

    def compare(
        self, contenders: dict[str, Callable[[], Any]], repeats: int | None = None, warm: int = 1
    ) -> dict[str, Result]:
        """The same for several functions, which take turns."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(warm + (repeats or self.repeats)):
            for name, work in contenders.items():
                self.synchronize()
                start = time.perf_counter()
                work()
                self.synchronize()
                if turn >= warm:
                    times[name].append(time.perf_counter() - start)
        return {
            name: {
                "min": min(taken),
                "median": statistics.median(taken),
                "max": max(taken),
                "runs": len(taken),
            }
            for name, taken in times.items()
        }

    def photos(self, count: int) -> list[Any]:
        """RGB arrays from the folder of ``--images``, or synthetic ones."""
        import proposals

        options = argparse.Namespace(images=self.images, count=count, seed=0)
        photos: list[Any] = proposals.load_photos(options)
        return [photo[:48, :64] for photo in photos[:1]] if self.dry_run else photos


# The steps, in order


def step_device(measure: Measure) -> Result:
    """The limits of this GPU: memory bandwidth, and matrix products in float32, TF32 and bfloat16."""
    import torch

    size, length = (64, 1 << 16) if measure.dry_run else (8192, 1 << 30)
    found: Result = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if measure.device == "cuda":
        found["name"] = torch.cuda.get_device_name(0)
    source = torch.randn(length, device=measure.device)
    target = torch.empty_like(source)
    taken = measure.seconds(lambda: target.copy_(source))["median"]
    found["copy_tb_per_s"] = 2 * source.numel() * source.element_size() / taken / 1e12
    for name, dtype, precision in (
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(size, size, device=measure.device).to(dtype) for _ in range(2))
        taken = measure.seconds(lambda a=a, b=b: a @ b)["median"]  # type: ignore[misc]
        found[f"{name}_tflops"] = 2 * size**3 / taken / 1e12
    print(
        f"{found.get('name', 'CPU')}: copy {found['copy_tb_per_s']:.2f} TB/s, matrix products "
        + ", ".join(f"{name} {found[f'{name}_tflops']:.0f} TFLOP/s" for name in ("fp32", "tf32", "bf16"))
    )
    return found


def step_kernel(measure: Measure) -> Result:
    """The Triton kernel vs. torch's two resizes on the same device: counts, bits, guard band, speed."""
    import numpy as np
    import torch

    from prep.proposals.sam import kernels_gpu
    from prep.proposals.sam.crops import resized
    from prep.proposals.sam.postprocess import Thresholds, count, settled_edges
    from prep.proposals.sam.upsample import geometry, reference

    low = 32 if measure.dry_run else 256
    sizes = [(1, 1), (7, 5), (40, 61)]
    if not measure.dry_run:
        sizes += [
            (427, 640),
            (480, 640),
            (640, 480),
            (375, 500),
            (612, 612),
            (534, 800),
            (1200, 1800),
            (1024, 1024),
        ]
    values = Thresholds.of(0.0, 1.0).values
    edges = settled_edges(values)
    logits = _logits(low, 6 if measure.dry_run else 96).to(measure.device)
    rows = []
    for size in sizes:
        inside = resized(size, 4 * low)
        plan = geometry(low, 4 * low, inside, size, torch.device(measure.device))

        def full(plan: Any = plan) -> list[Any]:
            out = []
            for start in range(0, len(logits), 3):
                out.append(reference(logits[None, start : start + 3], plan.mid, plan.inside, plan.size)[0])
            return out

        def counted() -> None:
            for group in full():
                _counts_by_torch(group, values)

        found = kernels_gpu.measure(logits, plan, values, edges)
        expected = [count(one.cpu().numpy(), values) for group in full() for one in group]
        close = found[:, 7] > 0
        kinds = [int(close[kind::3].sum()) for kind in range(3)]
        wrong = sum(not _same_counts(f, e) for f, e, c in zip(found, expected, close, strict=True) if not c)
        seconds = measure.compare(
            {
                "resizes": full,
                "torch": counted,
                "triton": lambda plan=plan: kernels_gpu.measure(logits, plan, values, edges),  # type: ignore[misc]
            }
        )
        row = {
            "size": size,
            "masks": len(logits),
            "orders": plan.orders if plan.band == 0.0 else None,
            "bits_equal": kernels_gpu.agrees(plan, logits.device),
            "recomputed": dict(zip(KINDS, kinds, strict=True)),
            "wrong": int(wrong),
            "seconds": seconds,
            "ratio": seconds["torch"]["median"] / seconds["triton"]["median"],
            "ratio_to_resizes": seconds["resizes"]["median"] / seconds["triton"]["median"],
        }
        rows.append(row)
        print(
            f"{size[0]} x {size[1]}: orders {row['orders']}, every bit equal: {row['bits_equal']};"
            f" {row['wrong']} of {row['masks']} wrong, recomputed {row['recomputed']}"
            f" of {len(logits) // 3} each; {row['ratio']:.1f}x torch's resizes and counts,"
            f" {row['ratio_to_resizes']:.1f}x its resizes alone"
        )
    if any(row["wrong"] for row in rows):
        raise SystemExit(
            f"FAILED: the kernel's counts differ from torch's: {np.array([r['wrong'] for r in rows])}"
        )
    return {"rows": rows}


KINDS = ("smooth", "noisy", "ragged")


def _counts_by_torch(pixels: Any, values: Any) -> None:
    """The same numbers by torch's operations on the device: three counts, and the first and last row and
    column.
    """
    for value in values.tolist():
        (pixels > value).sum((1, 2)).cpu()
    inside = pixels > float(values[1])
    for axis in (1, 2):
        along = inside.any(axis).to(pixels.dtype)
        along.argmax(1).cpu()
        along.flip(1).argmax(1).cpu()


def _logits(low: int, number: int) -> Any:
    """Discs with no, little and much noise, alternating, (number, low, low) float32."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:low, :low] / low
    masks = []
    for index in range(number):
        disc = 40 * (rng.uniform(0.05, 0.4) - np.hypot(x - rng.random(), y - rng.random()))
        masks.append(disc + (0, 0.3, 3)[index % 3] * rng.standard_normal((low, low)))
    return torch.tensor(np.stack(masks), dtype=torch.float32)


def _same_counts(found: Any, expected: Any) -> bool:
    """Whether the numbers of a mask agree: the counts, and the box if the mask is not empty."""
    return list(found[:3]) == list(expected[:3]) and (
        expected[2] == 0 or list(found[3:7]) == list(expected[3:7])
    )


def step_sam(measure: Measure) -> Result:
    """``sam`` exact and fast vs. the reference generator, ViT-B then ViT-H, with 64 and 1,024 points."""
    rows = []
    models = ("tiny",) if measure.dry_run else measure.models
    ceilings = _ceilings(measure)
    for name in models:
        network = _network(name, measure.device)
        photos = measure.photos(1 if name == "vit_h" else 2)
        rows.append(_ragged(measure, name, network, photos[0]))
        for photo in photos:
            for side in (2,) if measure.dry_run else (8, 32):
                rows.append(_whole(measure, name, network, photo, side, ceilings))
    return {"ceilings": ceilings, "rows": rows}


def _ceilings(measure: Measure) -> Result:
    """TFLOP/s of a large matrix product in float32 and bfloat16."""
    with contextlib.redirect_stdout(None):
        return step_device(measure)


def _network(name: str, device: str) -> Any:
    """A segment_anything model with seeded random weights; ``tiny`` has the same modules, but narrow."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    with torch.device(device):
        if name == "tiny":
            # The package exports a function under this module's name.
            model = importlib.import_module("segment_anything.build_sam")._build_sam(
                encoder_embed_dim=32, encoder_depth=2, encoder_num_heads=2, encoder_global_attn_indexes=[1]
            )
        else:
            model = sam_model_registry[name]()
    return model.to(device).eval()


def _ragged(measure: Measure, name: str, network: Any, photo: Any) -> Result:
    """Agreement with the reference on the ragged masks of random weights, and of fast with exact."""
    import proposals

    from prep.proposals.sam.fidelity import Differences

    side = 1 if measure.dry_run else 6
    settings = proposals.RAGGED | {"points_per_side": side}
    exact = proposals.ours(
        network, model="vit_b" if name == "tiny" else name, device=measure.device, **settings
    )
    mine = exact.propose([photo])[0]
    equal, of = proposals.same(mine, proposals.official(network, **settings)(photo))
    fast = proposals.ours(
        network, model=exact.options.model, device=measure.device, fidelity="fast", **settings
    )
    differences = Differences()
    differences.add(mine, fast.propose([photo])[0], photo.shape[:2], exact.options)
    row = {
        "model": name,
        "what": "ragged",
        "size": photo.shape[:2],
        "points": side**2,
        "equal": equal,
        "masks": of,
        "recomputed": exact.recomputed,
        "measured": exact.measured,
        "decoder_agrees": exact._decode.agrees,
        "fast_against_exact": differences.summary(),
    }
    print(
        f"{name} ragged: {equal} of {of} masks equal, {exact.recomputed} of {exact.measured} recomputed, "
        f"shared decoder pass bitwise equal: {exact._decode.agrees}; fast: {differences}"
    )
    return row


def _whole(measure: Measure, name: str, network: Any, photo: Any, side: int, ceilings: Result) -> Result:
    """Whole images, as many as are encoded at once. The encoder and decoder run; smooth logits then replace
    the random ones.
    """
    import proposals

    from prep.proposals.sam.settings import SamSettings

    images = 1 if measure.dry_run else SamSettings().images_per_batch

    batch = min(64, side**2)
    settings: Result = {"points_per_side": side, "points_per_batch": batch}
    logits, iou = (part.to(measure.device) for part in proposals.stand_in(photo, side))
    probe = proposals.ours(
        network, model="vit_b" if name == "tiny" else name, device=measure.device, **settings
    )
    threshold = _quantile(probe, photo)
    settings["pred_iou_thresh"] = threshold
    contenders: dict[str, Callable[[], Any]] = {}
    generators: Result = {}
    reference = copy.copy(network)
    reference._modules = dict(network._modules)
    one_by_one = proposals.scripted_official(reference, proposals.Script(logits, iou, batch), photo, settings)
    contenders["reference"] = lambda: [one_by_one() for _ in range(images)]
    for fidelity in ("exact", "fast"):
        generator = proposals.ours(
            network, model=probe.options.model, device=measure.device, fidelity=fidelity, **settings
        )
        generator.propose([photo])  # compiles, and compares the two decoder passes
        generator._decode = proposals.Scripted(proposals.Script(logits, iou, batch), generator._decode)
        if fidelity == "fast":
            generator._exact = generator._encode, generator._decode
        generator.recomputed = generator.measured = 0
        generators[fidelity] = generator
        contenders[fidelity] = lambda g=generator: g.propose([photo] * images)  # type: ignore[misc]
    found = {key: work() for key, work in contenders.items()}
    equal, of = proposals.same(
        *([mask for masks in found[key] for mask in masks] for key in ("exact", "reference"))
    )
    memory = {key: _peak(measure, work) for key, work in contenders.items()}
    repeats = 3 if name == "vit_h" and side == 32 else measure.repeats
    seconds = measure.compare(contenders, repeats, warm=1)
    row: Result = {
        "model": name,
        "what": "whole",
        "size": photo.shape[:2],
        "images": images,
        "points": side**2,
        "equal": equal,
        "masks": of,
        "decoder_agrees": generators["exact"]._decode.real.agrees,
        "recomputed": generators["exact"].recomputed,
        "measured": generators["exact"].measured,
        "seconds": seconds,
        "gpu_gib": memory,
        "ratio_exact": seconds["reference"]["median"] / seconds["exact"]["median"],
        "ratio_fast": seconds["reference"]["median"] / seconds["fast"]["median"],
        "encoder_seconds": _encoders(measure, generators, photo, images),
    }
    if name == "vit_h":
        work = images * (5.96 + 3.71 * side**2 / 1024)  # TFLOP of the encoder and the decoder
        row["share_of_bound"] = {
            "exact": work / seconds["exact"]["median"] / ceilings["fp32_tflops"],
            "fast": work / seconds["fast"]["median"] / ceilings["bf16_tflops"],
        }
    print(
        f"{name} {photo.shape[0]} x {photo.shape[1]}, {side**2} points: {equal} of {of} equal;"
        f" images/s, {images} at once: reference {images / seconds['reference']['median']:.2f},"
        f" exact {images / seconds['exact']['median']:.2f} ({row['ratio_exact']:.1f}x),"
        f" fast {images / seconds['fast']['median']:.2f} ({row['ratio_fast']:.1f}x); seconds of the encoder"
        f" for an image {row['encoder_seconds']}; shared decoder pass bitwise equal {row['decoder_agrees']};"
        " GiB "
        + ", ".join(f"{key} {value:.2f}" for key, value in memory.items())
        + f"; fraction of peak FLOP/s {row.get('share_of_bound')}"
    )
    return row


def _quantile(generator: Any, photo: Any) -> float:
    """A threshold that 40% of the random weights' predicted IoUs pass."""
    import torch

    from prep.proposals.sam.encoder import shrink

    with torch.inference_mode():
        features = generator._encode([shrink(photo, 1024)])[0]
        iou = generator._decode.reference(features, generator._prompts(0, photo.shape[:2])[0])[1]
    return float(iou.flatten().quantile(0.6))


def _peak(measure: Measure, work: Callable[[], Any]) -> float:
    """Peak GPU memory of ``work`` in GiB; 0 on a CPU."""
    import torch

    if measure.device == "cpu":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    work()
    return float(torch.cuda.max_memory_allocated()) / 2**30


def _encoders(measure: Measure, generators: Result, photo: Any, images: int) -> Result:
    """Median seconds of each image encoder for one of ``images`` encoded at once."""
    import torch

    from prep.proposals.sam.device import reduced_precision
    from prep.proposals.sam.encoder import shrink

    pixels = [shrink(photo, 1024)] * images
    out = {}
    for name, generator in generators.items():
        # The precision is one of the things for which the encoder is compiled anew.
        precision = reduced_precision(generator._device) if name == "fast" else contextlib.nullcontext()
        with torch.inference_mode(), precision:
            seconds = measure.seconds(lambda g=generator: g._encode(pixels), 3)  # type: ignore[misc]
            out[name] = round(seconds["median"] / images, 4)
    return out


def step_sam2(measure: Measure) -> Result:
    """A random SAM 2.1 through ``hf:`` vs. transformers' own pipeline: equal masks, seconds."""
    import numpy as np
    import torch
    import transformers as hf
    from PIL import Image

    from prep.masks import rle
    from prep.proposals.hf import HfGenerator, HfSettings

    photo = measure.photos(1)[0]
    side = 2 if measure.dry_run else 4
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        hf.Sam2Model(hf.Sam2Config()).save_pretrained(folder)
        hf.Sam2ImageProcessor().save_pretrained(folder)
        settings = HfSettings(
            points_per_side=side,
            pred_iou_thresh=-100.0,
            stability_score_thresh=0.0,
            stability_score_offset=0.01,
            device=measure.device,
        )
        generator = HfGenerator(folder, settings)
        generator.open()
        pipeline = hf.pipeline("mask-generation", model=folder, device=measure.device)

        def reference() -> Any:
            return pipeline(
                Image.fromarray(photo),
                points_per_crop=side,
                pred_iou_thresh=-100.0,
                points_per_batch=64,
                stability_score_thresh=0.0,
                stability_score_offset=0.01,
                crops_nms_thresh=0.7,
            )

        masks = [np.asarray(mask) for mask in reference()["masks"]]
        found = generator.propose([photo])[0]
        equal = sum(
            proposal.counts == rle.compress(rle.encode(mask))
            for proposal, mask in zip(found, masks, strict=False)
        )
        seconds = measure.compare({"reference": reference, "ours": lambda: generator.propose([photo])}, 3)
    row = {"points": side**2, "equal": equal, "masks": max(len(masks), len(found)), "seconds": seconds}
    print(
        f"SAM 2.1 (random, transformers' default sizes), {side**2} points: {equal} of {row['masks']} equal; "
        f"pipeline {seconds['reference']['median']:.3f} s, ours {seconds['ours']['median']:.3f} s"
    )
    return row


def step_training(measure: Measure) -> Result:
    """Training steps of ``paper`` and ``plus``: RN50, 320 px, batch 36, bfloat16 and float32."""
    import torch

    from pcnet.config import ClipSizes, ModelConfig
    from pcnet.model.pcnet import PCNet
    from pcnet.recipes import recipe
    from pcnet.training.objective import step_losses

    size, side = (2, 64) if measure.dry_run else (36, 320)
    small = ClipSizes(64, 64, (1, 1, 1, 1), 16, 77, 512, 64, 2)
    rows = []
    for name in ("paper", "plus"):
        settings = recipe(name)
        clip = small if measure.dry_run else ClipSizes()
        torch.manual_seed(0)
        config = ModelConfig(
            "clip",
            settings.comprehension,
            settings.stages,
            64 if measure.dry_run else 1024,
            settings.gain,
            clip=clip,
        )
        model = PCNet(config, settings).to(measure.device).train()
        batch = _batch(size, side, settings).to(measure.device)
        optimizer = torch.optim.AdamW([p for group in model.parameter_groups() for p in group], lr=5e-5)
        for half in (True, False):

            def step(
                model: Any = model,
                batch: Any = batch,
                half: bool = half,
                settings: Any = settings,
                optimizer: Any = optimizer,
            ) -> None:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(measure.device, dtype=torch.bfloat16, enabled=half):
                    outputs = model(
                        batch.images, **batch.texts(settings.needs_partners, settings.needs_opposites)
                    )
                outputs.logits = tuple(one.float() for one in outputs.logits)
                total = step_losses(settings, outputs, batch)["total"]
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

            memory = _peak(measure, step)
            seconds = measure.seconds(step, 1 if measure.dry_run else 15, warm=0 if measure.dry_run else 3)
            rate = size / seconds["median"]
            row = {"recipe": name, "bf16": half, "images_per_s": rate, "seconds": seconds, "gpu_gib": memory}
            rows.append(row)
            kind = "bf16" if half else "fp32"
            print(f"{name} {kind}: {rate:.0f} images/s, step {seconds['median']:.3f} s, {memory:.1f} GiB")
        del model, optimizer
    rows.append(_train_end_to_end(measure))
    return {"rows": rows}


def _batch(size: int, side: int, settings: Any) -> Any:
    """A batch of random pixels, tokens and proposals with all inputs that the recipe needs."""
    import torch
    import training

    batch = training.random_batch(size, side)
    extra = training.random_batch(size, 8)
    batch.opposite_expression_ids, batch.opposite_phrase_ids = extra.expression_ids, extra.phrase_ids
    batch.has_opposite = torch.ones(size, dtype=torch.bool)
    phrases = [batch.phrase_ids, batch.partner_phrase_ids, batch.opposite_phrase_ids]
    wide = [ids[:, :1].expand(-1, 4, -1) if ids is not None else None for ids in phrases]
    batch.phrase_ids, batch.partner_phrase_ids, batch.opposite_phrase_ids = wide
    batch.clip_scores = torch.rand(batch.grid.shape[:2])
    return batch


def _train_end_to_end(measure: Measure) -> Result:
    """The trainer on a synthetic store: data loading, bf16, checkpoint, and a second run that resumes."""
    import training

    from pcnet.training.setup import TrainConfig
    from pcnet.training.trainer import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, store = training.make_store(folder, 20 if measure.dry_run else 200)
        common: Result = {
            "store": store,
            "data": str(data),
            "out": str(folder / "run"),
            "encoder": "tiny",
            "recipe": "plus",
            "device": measure.device,
            "quiet": True,
            "steps": 4 if measure.dry_run else 200,
        }
        done = train(TrainConfig(**common))
        again = train(TrainConfig(**common))
    row = {
        "what": "trainer, tiny encoder, 64 px",
        "steps": done.steps,
        "seconds": done.seconds,
        "resumed_steps": again.steps,
        "losses": done.losses,
    }
    print(f"trainer, tiny encoder: {done.steps / done.seconds:.1f} steps/s over {done.steps} steps")
    return row


def step_vllm(measure: Measure) -> Result:
    """The phrases stage with a model of Mistral-7B's size and dummy weights; needs vLLM and a GPU."""
    if measure.dry_run or importlib.util.find_spec("vllm") is None:
        print("skipped: vLLM is not installed" if not measure.dry_run else "skipped: needs a GPU")
        return {"skipped": True}
    command = [sys.executable, str(ROOT / "benchmarks" / "phrases.py"), "gpu", "--settings", "default", "fp8"]
    command += ["--rows", "6000", "--rounds", "2"]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():  # printed as it comes: what was measured before a failure counts
            print(line, end="", flush=True)
            lines.append(line)
    if running.returncode:
        raise SystemExit(f"FAILED: {' '.join(command)} ended with exit code {running.returncode}")
    return {"output": lines}


def step_scores(measure: Measure) -> Result:
    """CLIP ViT-B/32 (random weights): crops encoded, texts encoded and crops cut per second."""
    import numpy as np

    from prep.masks import rle
    from prep.scores.stage import Clip, ScoreSettings, cut

    photo = measure.photos(1)[0]
    number, repeats = (1, 1) if measure.dry_run else (256, 3)
    height, width = photo.shape[:2]
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(number):
        mask = np.zeros((height, width), np.bool_)
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[y : y + height // 3, x : x + width // 3] = True
        masks.append(rle.encode(mask))
    settings = ScoreSettings(weights="", device=measure.device)
    clip = Clip(settings.model, settings.weights, settings.device)
    crops = cut(photo, masks, clip.side, clip.fill, settings)
    texts = [f"the red cup number {k}" for k in range(number)]
    taken = {
        "cut": measure.seconds(lambda: cut(photo, masks, clip.side, clip.fill, settings), repeats),
        "images": measure.seconds(lambda: clip.encode_images(crops), repeats),
        "texts": measure.seconds(lambda: clip.encode_texts(texts), repeats),
    }
    rates = {name: number / value["median"] for name, value in taken.items()}
    print("ViT-B/32: " + ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items()))
    return {"per_s": rates, "seconds": taken}


# Running the steps

STEPS: dict[str, tuple[Callable[[Measure], Result], int]] = {  # each step with its time limit in seconds
    "device": (step_device, 60),
    "kernel": (step_kernel, 120),
    "sam": (step_sam, 420),
    "sam2": (step_sam2, 120),
    "training": (step_training, 150),
    "vllm": (step_vllm, 600),
    "scores": (step_scores, 60),
}


def run_step(options: argparse.Namespace) -> None:
    """Run one step in this process and write its JSON."""
    measure = Measure(options.dry_run, options.images, options.models)
    started = time.perf_counter()
    found = STEPS[options.step][0](measure)
    found["wall_seconds"] = time.perf_counter() - started
    (options.out / f"{options.step}.json").write_text(json.dumps(found, indent=1, default=str))


def run_all(options: argparse.Namespace) -> int:
    """Run every chosen step in its own process; return the number of failures."""
    environment = os.environ | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    if options.dry_run:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    summary: Result = {}
    for name in options.steps:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-P", __file__, "--step", name, "--out", str(options.out)]
        command += ["--dry-run"] if options.dry_run else []
        command += ["--images", str(options.images)] if options.images else []
        command += ["--models", *options.models]
        started, limit = time.perf_counter(), STEPS[name][1] * (5 if options.dry_run else 1)
        try:
            code = subprocess.run(command, env=environment, timeout=limit, check=False).returncode
            summary[name] = "passed" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            summary[name] = f"stopped after {limit} s"
        print(f"== {name}: {summary[name]}, {time.perf_counter() - started:.0f} s", flush=True)
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1))
    return sum(outcome != "passed" for outcome in summary.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for the JSON files")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--images", type=Path, help="folder of photos (default: synthetic ones)")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["vit_b", "vit_h"],
        choices=("vit_b", "vit_l", "vit_h"),
        help="SAM models of the step sam",
    )
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU with small shapes")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        run_step(options)
        return 0
    return 1 if run_all(options) else 0


if __name__ == "__main__":
    sys.exit(main())
