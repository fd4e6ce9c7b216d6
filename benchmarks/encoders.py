"""Compares ways to run SAM's image encoder faster on a CPU: their time, and how far their masks differ.

    python -m benchmarks.encoders --images photos/ --threads 2
    python -m benchmarks.encoders --model vit_h --repeats 1 --ways autocast ours

Weights are random (seeded). The embedding of each way is compared with that of the reference's encoder, and
so are the masks that the reference's decoder makes of it: logits above 0 at 256 x 256, of a grid of points.
The contenders take turns in one process whose allocator keeps freed memory, as ours does.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.proposals import MALLOC, Times, load_photos, race, random_model

if TYPE_CHECKING:
    import torch

# An image (3, h, w), uint8, becomes its embedding (1, 256, 64, 64), float32.
Encode: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"


def reference(
    model: Any, change: Callable[[Any], Any] = lambda encoder: encoder, low: bool = False
) -> Encode:
    """The reference's encoder, changed; ``low`` under autocast to bfloat16."""
    import torch

    from prep.proposals.sam.encoder import prepared

    encoder = change(model.image_encoder)

    def encode(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found: torch.Tensor = encoder(prepared(model, image)[None])
        return found.float()

    return encode


def ours(model: Any) -> Encode:
    """The encoder of `--fidelity fast`."""
    from prep.proposals.sam.fast_cpu import CpuEncoder

    encoder = CpuEncoder(model)
    return lambda image: encoder([image])[0]


def channels_last(encoder: Any) -> Any:
    """A copy whose convolutions have their channels last in memory."""
    import torch

    return copy.deepcopy(encoder).to(memory_format=torch.channels_last)


def compiled(encoder: Any) -> Any:
    """`torch.compile`, which needs a C++ compiler on a CPU."""
    import torch

    return torch.compile(encoder)


def int8(encoder: Any) -> Any:
    """Dynamic quantisation of all linear layers: int8 weights and inputs, scaled when they are seen."""
    import torch

    return torch.ao.quantization.quantize_dynamic(encoder, {torch.nn.Linear}, dtype=torch.qint8)


WAYS: dict[str, Callable[[Any], Encode]] = {
    "reference": reference,
    "channels_last": lambda model: reference(model, channels_last),
    "compile": lambda model: reference(model, compiled),
    "autocast": lambda model: reference(model, low=True),
    "autocast_compile": lambda model: reference(model, compiled, low=True),
    "int8": lambda model: reference(model, int8),
    "ours": ours,
}


def masks_of(model: Any, features: Any, side: int) -> Any:
    """The masks (3 side**2, 256, 256), bool, of a grid of points by the reference's decoder."""
    import torch

    from prep.proposals.sam.crops import grid
    from prep.proposals.sam.decoder import Decoder

    decoder = Decoder(model, 4, 1)
    points = torch.as_tensor(grid(side), dtype=torch.float64) * model.image_encoder.img_size
    logits, _ = decoder.reference(features, decoder.prompts(points))
    return logits.flatten(0, 1) > 0


def ious(masks: Any, expected: Any) -> list[float]:
    """The IoU of each mask with its counterpart; two empty masks have 1."""
    both, either = (masks & expected).flatten(1).sum(1), (masks | expected).flatten(1).sum(1)
    return [int(one) / int(all_) if all_ else 1.0 for one, all_ in zip(both, either, strict=True)]


def measure(options: argparse.Namespace, photo: Any) -> None:
    """Print a line for every way on one photo."""
    import torch

    from prep.proposals.sam.encoder import shrink

    image, model = shrink(photo, 1024), random_model(options)
    names = list(dict.fromkeys(["reference", *options.ways]))
    contenders, first = dict[str, Callable[[], torch.Tensor]](), dict[str, float]()
    for name in names:
        contenders[name] = partial(WAYS[name](model), image)
        start = time.perf_counter()
        contenders[name]()
        first[name] = time.perf_counter() - start
    times, found = race(contenders, options.repeats, options.device)
    expected = found["reference"]
    wanted = masks_of(model, expected, options.points)
    print(f"{photo.shape[0]} x {photo.shape[1]}, {options.model}, {torch.get_num_threads()} threads")
    for name in names:
        shares = ious(masks_of(model, found[name], options.points), wanted)
        error = float((found[name] - expected).norm() / expected.norm())
        print(
            f"  {name:17} {in_seconds(times, name)}, the first time {first[name]:.2f}; embedding differs by "
            f"{error:.1e}; IoU > 0.99 of {sum(iou > 0.99 for iou in shares)} of {len(shares)} masks"
        )


def in_seconds(times: dict[str, Times], name: str) -> str:
    """How many times as fast as the reference, and minimum, median and maximum, on both clocks."""
    told = []
    for number, clock in enumerate(("wall", "CPU")):
        span, base = (sorted(run[number] for run in times[one]) for one in (name, "reference"))
        told.append(
            f"{clock} {median(base) / median(span):.2f}x, {span[0]:.2f} {median(span):.2f} {span[-1]:.2f} s"
        )
    return "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photos (default: synthetic ones)")
    parser.add_argument("--count", type=int, default=1, help="how many photos")
    parser.add_argument("--model", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--points", type=int, default=6, help="points per side of the compared masks")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.set_defaults(device="cpu", seed=0)
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.encoders", *sys.argv[1:]], os.environ | MALLOC
        )
    import torch

    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    with torch.inference_mode():
        for photo in load_photos(options):
            measure(options, photo)


if __name__ == "__main__":
    main()
