"""Progress: a bar on a terminal, lines elsewhere, with the rate of what this run did itself."""

from __future__ import annotations

import io
import sys
import time

import pytest

from prep.engine.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False, terminal: bool = True) -> str:
    out = Terminal() if terminal else io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", out)
        patched.setenv("COLUMNS", "200")
        with progress("training", 20, quiet=quiet) as bar:
            bar.update(5, reused=10, note="loss 0.5000")
    return out.getvalue()


def test_a_bar_on_a_terminal_has_label_count_note_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch)
    assert all(part in text for part in ("training", "15/20", "loss 0.5000", "/s"))


@pytest.mark.parametrize("how", [{"quiet": True}, {"terminal": False}])
def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, how: dict) -> None:
    assert shown(monkeypatch, **how) == ""


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [100.0]
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr("prep.engine.progress.time.monotonic", lambda: now[0])
    with progress("training", 100) as bar:
        for second in range(1, 71):
            now[0] = 100.0 + second
            bar.update(second, reused=10, note="loss 0.5")
    assert out.getvalue().splitlines() == [
        "training: 40 of 100, 1.0/s, 1 min 00 s left, loss 0.5",
        "training: 70 of 100, 1.0/s, 30.0 s left, loss 0.5",
    ]


def test_a_log_gets_lines_while_nothing_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr("prep.engine.progress.LINE_SECONDS", 0.01)
    with progress("masks", 100):
        deadline = time.monotonic() + 60
        while out.getvalue().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert set(out.getvalue().splitlines()) == {"masks: 0 of 100, 0.0/s"}
    before = out.getvalue()
    time.sleep(0.1)
    assert out.getvalue() == before


@pytest.mark.parametrize(("seconds", "words"), [(4.26, "4.3 s"), (61, "1 min 01 s"), (7300, "2 h 01 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
