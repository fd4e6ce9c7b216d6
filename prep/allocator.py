"""Makes the C library keep freed memory for the next tensor, instead of returning it to the system."""

from __future__ import annotations

import ctypes
import os
import sys

from prep.devices import memory_bytes

# Parameters of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# With less memory than this, in bytes, what is freed is returned: keeping it raises the peak of SAM ViT-B by
# 1.7 GiB.
ENOUGH = 15 << 30
# By these a user sets them, or replaces the allocator.
CHOSEN = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"
)  # fmt: skip


def keep_freed_memory(device: str) -> bool:
    """Keep what this process frees from now on if it computes on a ``device`` ``cpu``; false where nothing
    was changed.

    glibc maps every block of more than 32 MiB anew and returns it when it is freed. The system must fill the
    pages of each new block with zeros: for SAM's image encoder on a CPU, this was a fifth of its time
    (docs/scale.md). Memory stays allocated until the process ends, in pieces, so its peak is higher. Nothing
    is changed on a machine (or in a container) with less than :data:`ENOUGH` memory, if the environment has
    settings of the allocator, or with another C library.
    """
    if device != "cpu" or sys.platform != "linux" or any(os.environ.get(name) for name in CHOSEN):
        return False
    if memory_bytes() < ENOUGH:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc but musl
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
