"""The progress bar: on a terminal only, with the rate of what this run did itself."""

from __future__ import annotations

import io
import sys

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


@pytest.mark.parametrize(("seconds", "words"), [(4.26, "4.3 s"), (61, "1 min 01 s"), (7300, "2 h 01 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
