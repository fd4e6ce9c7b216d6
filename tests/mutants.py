"""Change the critical files one expression at a time and print how many changes the tests notice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

MUTMUT = str(Path(sys.executable).with_name("mutmut"))
NOTICED = {
    1: "killed",
    3: "killed",
    24: "timeout",
    -24: "timeout",
    36: "timeout",
    152: "timeout",
    255: "timeout",
}


def exit_codes() -> dict[str, dict[str, int | None]]:
    """Exit code of the tests by mutant, for each file in `[tool.mutmut]`; None where it has not run."""
    found = {}
    for meta in sorted(Path("mutants").rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if codes:
            found[str(meta.relative_to("mutants").with_suffix(""))] = codes
    return found


def main(share: float, files: list[str]) -> None:
    """Run the mutants of the files (all where none is named), or a share of them drawn with seed 0."""
    # One mutant: writes all of them and finds out which test reaches which function.
    subprocess.run([MUTMUT, "run", "prep.masks.rle.x_area__mutmut_1"], check=True)
    chosen = random.Random(0)
    asked = {
        file: [name for name in sorted(codes) if chosen.random() < share]
        for file, codes in exit_codes().items()
        if not files or file in files
    }
    if not any(asked.values()):
        sys.exit(f"No mutants of {', '.join(files)}: name files that [tool.mutmut] in pyproject.toml lists.")
    subprocess.run([MUTMUT, "run", *(name for names in asked.values() for name in names)], check=True)
    codes = exit_codes()
    killed, total = 0, 0
    for file, names in asked.items():
        seen = sum(codes[file][name] in NOTICED for name in names)
        killed, total = killed + seen, total + len(names)
        print(f"{file:30} {seen:5} of {len(names)}")
        for name in names:
            if codes[file][name] not in NOTICED:
                print(f"    {MUTMUT} show {name}")
    print(f"{'all':30} {killed:5} of {total} = {killed / total:.1%}")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
