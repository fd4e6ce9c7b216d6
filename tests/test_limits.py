"""The limits of the fuzz tests end what hangs and what grows, and end with their block."""

from __future__ import annotations

import contextlib
import resource

import pytest

from tests.limits import TakesTooLong, limited


def test_what_hangs_is_ended_though_it_survives_errors() -> None:
    @limited(seconds=0.1)
    def hangs() -> None:
        while True:
            with contextlib.suppress(Exception):
                sum(range(100))

    for _ in range(2):  # each call has its own
        with pytest.raises(TakesTooLong, match=r"more than 0\.1 s"):
            hangs()


def test_what_grows_is_ended_and_the_limit_with_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited(more=64 << 20):
        _ = [bytearray(64 << 20) for _ in range(64)]  # the first may fit into what was freed before
    assert len(bytearray(128 << 20)) == 128 << 20
    assert resource.getrlimit(resource.RLIMIT_AS) == before
