"""What a process may use of its machine, found without importing torch: GPUs, cores and memory."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver names it; ``memory`` in bytes."""

    name: str
    memory: int


def visible_gpus() -> int:
    """How many NVIDIA GPUs this process sees: ``CUDA_VISIBLE_DEVICES`` if set, else what the driver lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([device for device in named.split(",") if device.strip() not in ("", "-1")])
    return sum(line.startswith("GPU ") for line in _ask_driver("-L"))


def list_gpus() -> list[Gpu]:
    """Every GPU of the machine, whatever ``CUDA_VISIBLE_DEVICES`` says; none where there is no driver."""
    found = []
    for line in _ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader,nounits"):
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) << 20))
    return found


def _ask_driver(*arguments: str) -> list[str]:
    """The lines that ``nvidia-smi`` prints; none where it is not there or does not answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def cpu_cores() -> int:
    """How many cores this process may use: what Slurm gave the task, else what the system lets it run on."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    allowed = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS has not
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def memory_bytes() -> int:
    """How much memory this process may use: the machine's, or what its container or job is held to."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
