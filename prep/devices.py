"""Detects the GPUs, cores and memory available to this process, without importing torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as reported by its driver; ``memory`` in bytes."""

    name: str
    memory: int


def visible_gpus() -> int:
    """The number of NVIDIA GPUs visible to this process: ``CUDA_VISIBLE_DEVICES`` or the driver's list."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([device for device in named.split(",") if device.strip() not in ("", "-1")])
    return sum(line.startswith("GPU ") for line in _ask_driver("-L"))


def list_gpus() -> list[Gpu]:
    """Every GPU of the machine, regardless of ``CUDA_VISIBLE_DEVICES``; empty without a driver."""
    found = []
    for line in _ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader,nounits"):
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) << 20))
    return found


def _ask_driver(*arguments: str) -> list[str]:
    """The lines printed by ``nvidia-smi``; empty if it is missing or does not respond."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def cpu_cores() -> int:
    """The number of cores this process may use: Slurm's allocation, else the CPU affinity."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    allowed = getattr(os, "sched_getaffinity", None)  # available on Linux, not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def memory_bytes() -> int:
    """The memory this process may use: the machine's, or the limit of its container or job."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
