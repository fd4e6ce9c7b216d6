"""Which GPUs a process may use, found without importing torch."""

from __future__ import annotations

import os
import subprocess


def visible_gpus() -> int:
    """How many NVIDIA GPUs this process sees: ``CUDA_VISIBLE_DEVICES`` if set, else what the driver lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([device for device in named.split(",") if device.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
