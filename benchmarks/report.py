"""Measures the report on a large store: CPU seconds and memory of the whole command, and the page's size.

python benchmarks/report.py --rows 1000000
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from prep.cache.schema import PHRASES
from prep.cache.store import open_store

BATCH = 50_000


def rows(first: int, end: int) -> pa.Table:
    """Rows of the phrases table as the rules write them, a tenth of them with a violation."""
    texts = {number: f"the man number {number} in a red shirt on the left" for number in range(first, end)}
    shared = {
        "dataset": "mine",
        "split_by": "",
        "source": "rules",
        "llm": "rules",
        "key": "k",
        "status": "ok",
    }
    return pa.Table.from_pylist(
        [
            shared
            | {
                "row_id": hashlib.sha256(text.encode()).hexdigest()[:32],
                "split": "train" if number % 4 else "val",
                "ref_id": number,
                "sent_id": number,
                "image": f"train/{number // 20}.jpg",
                "expression": text,
                "phrases": ["the man", "the man in a red shirt", f"the man number {number} on the left"],
                "violations": [] if number % 10 else ["too_long"],
                "rejected": [],
            }
            for number, text in texts.items()
        ],
        schema=PHRASES,
    )


def main() -> None:
    """Make the store, report on it in a process of its own, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "prepared", create=True)
        with store.stage("phrases").writer({"llm": "rules"}) as writer:
            for first in range(0, count, BATCH):
                writer.write(rows(first, min(first + BATCH, count)))
        page = Path(folder) / "report.html"
        program = "import sys; from cli import prep_main; prep_main()"
        asked = ["report", str(Path(folder) / "prepared"), "--out", str(page)]
        child = subprocess.Popen([sys.executable, "-c", program, *asked], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            sys.exit("The report failed.")
        print(
            f"{count:,} rows: {used.ru_utime + used.ru_stime:.1f} CPU s with start, "
            f"{used.ru_maxrss / 1024:,.0f} MiB, page of {page.stat().st_size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
