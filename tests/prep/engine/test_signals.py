"""A request to stop: raised at once, after what must be finished, or only noted."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from prep.engine.signals import Stop, stoppable


def test_a_signal_raises_at_once_or_after_what_must_be_finished() -> None:
    with stoppable() as stop:
        with pytest.raises(Stop) as at_once:
            signal.raise_signal(signal.SIGTERM)
        finished = False
        with pytest.raises(Stop) as after, stop.later():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            finished = True
    assert finished
    assert (at_once.value.signum, after.value.signum) == (signal.SIGTERM, signal.SIGINT)


def test_a_signal_may_only_be_noted_and_the_first_one_counts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable("Stopping after this step.") as stop:
        assert stop.signum == 0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with stop.later():
            signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is before


def test_once_ignored_no_signal_raises() -> None:
    with stoppable() as stop:
        stop.ignore()
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGINT


def test_a_second_signal_ends_what_does_not_stop() -> None:
    program = (
        "import os, signal, sys, time\n"
        "from prep.engine.signals import stoppable\n"
        "with stoppable() as stop, stop.later():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)  # passed on by a launcher\n"
        "    time.sleep(1.1)\n"
        "    print('went on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "    print('stayed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "went on\n")
    assert done.stderr.splitlines() == [
        "Stopping after the rows that are being written. Again: stop at once.",
        "Stopped at once: what was finished before is kept.",
    ]
