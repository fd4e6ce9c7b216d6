"""prep.allocator: freed memory is used again."""

import os
import platform
import subprocess
import sys

import pytest

# Touches and frees 256 MiB as ten blocks, and prints how many pages the last five of them had to be given.
BLOCKS = """
import ctypes, resource, sys
import prep.allocator
from prep.allocator import keep_freed_memory
prep.allocator.memory_bytes = lambda: int(sys.argv[2])
print(keep_freed_memory(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 256 << 20
for number in range(10):
    if number == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * (256 << 20) // 4096


def pages_given(device: str, memory: int = 16 << 30, **environment: str) -> tuple[str, int]:
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS, device, str(memory)],
        env={**chosen, "LD_PRELOAD": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    changed, pages = done.stdout.split()
    return changed, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_are_used_again_on_a_cpu() -> None:
    assert pages_given("cuda") == ("False", pytest.approx(PAGES, rel=0.05))
    changed, pages = pages_given("cpu")
    assert changed == "True"
    assert pages < PAGES / 100


def test_a_machine_with_little_memory_gets_it_back() -> None:
    assert pages_given("cpu", memory=8 << 30) == ("False", pytest.approx(PAGES, rel=0.05))


def test_settings_of_the_environment_are_kept() -> None:
    assert pages_given("cpu", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
