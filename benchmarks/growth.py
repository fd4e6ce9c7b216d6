"""Measures what each command costs on stores of growing size: CPU seconds and peak memory of its process.

python benchmarks/growth.py --rows 10000 100000 1000000

A JSONL file of expressions (21,000 distinct texts, some in each image) goes through the rules; then come the
same command again, opening the table for writing with the keys of all rows, and the commands on a store. Each
is a process of its own, started once before so that Python has compiled it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

OPEN = """
import sys
from prep.cache.store import open_store
from prep.phrases.stage import rules_settings
with open_store(sys.argv[1]).stage("phrases").writer(rules_settings()) as writer:
    print(len(writer.done))
"""


def write_lines(path: Path, count: int) -> None:
    """The expressions of :mod:`benchmarks.scale` as JSONL."""
    from scale import expressions

    with path.open("w", encoding="utf-8") as file:
        for one in expressions(count):
            line = {"sent": one.text, "image": one.image, "split": one.split, "ref_id": one.ref_id}
            file.write(json.dumps(line) + "\n")


def commands(lines: Path, store: Path, page: Path) -> dict[str, list[str]]:
    """The arguments of Python of each command, by the name in the table."""
    made = [
        "-m",
        "prep",
        "phrases",
        "--llm",
        "rules",
        "--quiet",
        "--input",
        str(lines),
        "--store",
        str(store),
    ]
    return {
        "phrases": made,
        "again": made,
        "open": ["-c", OPEN, str(store)],
        "status": ["-m", "prep", "status", str(store)],
        "verify": ["-m", "prep", "verify", str(store)],
        "report": ["-m", "prep", "report", str(store), "--out", str(page)],
        "compact": ["-m", "prep", "compact", str(store)],
    }


def cost(arguments: list[str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of a command, which must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise SystemExit(f"{arguments} failed:\n{said.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def grow(count: int) -> dict[str, tuple[float, float]]:
    """What each command costs with so many rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lines(folder / "lines.jsonl", count)
        asked = commands(folder / "lines.jsonl", folder / "prepared", folder / "report.html")
        return {what: cost(arguments) for what, arguments in asked.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    sizes = parser.parse_args().rows
    grow(10)
    for count in sizes:
        shown = (
            f"{what} {seconds:.1f} s {memory:,.0f} MiB" for what, (seconds, memory) in grow(count).items()
        )
        print(f"{count:,} rows: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
