"""Writes the log of a run: settings, losses and validations; shows a progress bar."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pcnet.training.boards import Board
from prep.cache.files import explained
from prep.display import tell
from prep.engine.progress import duration, progress
from prep.files import appending, write_whole

CSV_NAME = "losses.csv"
VALIDATION_NAME = "validation.csv"
SETTINGS_NAME = "settings.json"
_FLUSH_SECONDS = 2.0
_EPOCH_SECONDS = 2.0


class RunLog:
    """The log of one run's steps.

    A resumed run first drops the rows logged after its checkpoint, so that the file equals that of an
    uninterrupted run. The wall time of each step is in the last column, separate from the reproducible
    values. The losses and validations also go to ``boards``. Unless ``quiet``, ``intro`` is printed first,
    and a line at the end of each epoch.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        *,
        start: int,
        total: int,
        per_epoch: int = 0,
        boards: Sequence[Board] = (),
        intro: str = "",
        quiet: bool = False,
    ) -> None:
        self._total, self._per_epoch, self._quiet = total, per_epoch, quiet
        self._began = self._said = time.monotonic()
        if intro and not quiet:
            tell(intro)
        self.path = folder / CSV_NAME
        self.columns = ("step", "epoch", "lr", *columns, "seconds")
        _cut(self.path, self.columns, start)
        self._validation = folder / VALIDATION_NAME
        if self._validation.exists():
            _cut(self._validation, _header(self._validation), start)
        self._file = appending(self.path)
        self._csv = csv.writer(self._file)
        self._boards = boards
        self._start = start
        self._closing = contextlib.ExitStack()
        self._bar = self._closing.enter_context(progress("training", total, quiet=quiet))
        self._last = self._flushed = time.monotonic()

    def step(self, number: int, epoch: int, lr: float, losses: Mapping[str, float]) -> None:
        """Log one finished step; ``number`` counts from 1."""
        now = time.monotonic()
        values = [losses[name] for name in self.columns[3:-1]]
        self._csv.writerow([number, epoch, repr(lr), *(repr(v) for v in values), f"{now - self._last:.4f}"])
        for board in self._boards:
            board.add({**{f"loss/{name}": value for name, value in losses.items()}, "lr": lr}, number)
        note = f"loss {losses.get('total', 0.0):.4f}"
        self._bar.update(number - self._start, reused=self._start, note=note)
        self._last = now
        ends = self._per_epoch > 0 and number % self._per_epoch == 0
        if ends and not self._quiet and (now - self._said > _EPOCH_SECONDS or number == self._total):
            self._say_epoch(number, now, note)
        if now - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def _say_epoch(self, number: int, now: float, note: str) -> None:
        """Print where the run is; epochs of less than :data:`_EPOCH_SECONDS` share a line."""
        self._said = now
        seconds = (now - self._began) / max(1, number - self._start)
        epochs = -(-self._total // self._per_epoch)
        line = (
            f"epoch {number // self._per_epoch:,} of {epochs:,}: {note}, step {number:,} of {self._total:,}, "
            f"{1 / seconds:,.1f} steps/s, {duration(seconds * (self._total - number))} left"
        )
        tell(line)

    def metrics(self, number: int, values: Mapping[str, float | None]) -> None:
        """Log a validation as a row of validation.csv; a metric that is ``None`` is left empty."""
        if not self._validation.exists() or not _header(self._validation):
            _append(self._validation, ["step", *values])
        _append(self._validation, [number, *("" if v is None else repr(v) for v in values.values())])
        known = {f"validation/{name}": float(value) for name, value in values.items() if value is not None}
        for board in self._boards:
            board.add(known, number)

    def flush(self) -> None:
        """Flush the log to the operating system; called before each checkpoint."""
        with explained("write", str(self.path)):
            self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        self._file.close()
        for board in self._boards:
            board.close()
        self._closing.close()


def write_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Write ``settings.json``, the settings of the run, for readers and for `pcnet report`."""
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    with explained("write", str(folder / SETTINGS_NAME)):
        write_whole(folder / SETTINGS_NAME, text.encode())


def _append(path: Path, row: Sequence[object]) -> None:
    with appending(path) as handle:
        csv.writer(handle).writerow(row)


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as handle:
        return next(csv.reader(handle), [])


def _cut(path: Path, columns: Sequence[str], start: int) -> None:
    """Keep only the header and the rows of the first ``start`` steps."""
    kept: list[list[str]] = []
    if start and path.exists():
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.reader(handle))[1:]
        kept = [row for row in rows if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= start]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *kept])
    write_whole(path, text.getvalue().encode())
