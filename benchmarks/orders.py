"""Shows that no mask is recomputed, whatever the number of threads and the processor's instructions.

    python benchmarks/orders.py            # every number of threads with every capability of this processor

torch interpolates in another order of operations with one thread than with several, and without AVX2.
Each line is measured in its own process: how many image sizes agree with torch bit for bit, the share of
smooth and of ragged masks that is recomputed, and the same with the guard band, as where no order agrees.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import torch
from proposals import load_photos, stand_in

from prep.proposals.sam.crops import resized
from prep.proposals.sam.postprocess import Postprocessor, Thresholds
from prep.proposals.sam.upsample import BAND, geometry

CAPABILITIES = ("default", "avx2", "avx512")
SIZES = ((480, 640), (333, 500), (534, 800), (1200, 1800), (40, 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3, 8])
    parser.add_argument("--masks", type=int, default=300, help="masks of each kind and size")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure(options.threads[0], options.masks)
        return
    print("threads, capability: sizes that agree; recomputed: smooth, ragged; with the band: smooth, ragged")
    # A capability that the processor lacks would end the process.
    native = torch.backends.cpu.get_cpu_capability().lower()
    known = CAPABILITIES[: CAPABILITIES.index(native) + 1] if native in CAPABILITIES else (native,)
    for threads in options.threads:
        for capability in known:
            command = [
                sys.executable,
                __file__,
                "--alone",
                f"--threads={threads}",
                f"--masks={options.masks}",
            ]
            chosen = {} if native not in CAPABILITIES else {"ATEN_CPU_CAPABILITY": capability}
            subprocess.run(command, check=True, env=os.environ | chosen)


def measure(threads: int, masks: int) -> None:
    """Print one line, for this process."""
    torch.set_num_threads(threads)
    smooth, _ = stand_in(load_photos(argparse.Namespace(images=None, seed=0, count=1))[0], 10)
    chosen = np.random.default_rng(0).permutation(len(smooth))[:masks]
    kinds = {
        "smooth": (smooth[chosen], 1.0),
        "ragged": (0.1 * torch.randn((min(masks, 12), 256, 256), generator=torch.manual_seed(1)), 0.02),
    }
    agreed, recomputed = 0, {(name, band): [] for band in (False, True) for name in kinds}
    for size in SIZES:
        plan = geometry(256, 1024, resized(size, 1024), size, torch.device("cpu"))
        agreed += plan.band == 0
        for (name, band), shares in recomputed.items():
            logits, offset = kinds[name]
            used = replace(plan, band=BAND) if band else plan
            shares.append(Postprocessor().measure(logits, used, Thresholds.of(0.0, offset)).recomputed.mean())
    figures = [f"{np.mean(shares):.1%}" for shares in recomputed.values()]
    agreed_of = f"{torch.backends.cpu.get_cpu_capability()}: {agreed} of {len(SIZES)}"
    print(f"{threads}, {agreed_of}; {', '.join(figures[:2])}; {', '.join(figures[2:])}", flush=True)


if __name__ == "__main__":
    main()
