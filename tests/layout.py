"""Writes docs/architecture.md, a line for every source file from its first sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PARTS = ("prep", "pcnet", "benchmarks")
HEAD = """# How the code is laid out

A stage turns items into rows and knows neither the store nor Ray. The runner leaves out what is done, the
engine hands out the rest, and the store commits each unit once. `CONTRIBUTING.md` has the rules, and
`tests/test_architecture.py` checks which part may import which. Tests mirror these folders.

`make layout` writes this page from the first sentence of each file; a test fails where it is out of date.
"""


def first_sentence(path: Path) -> str:
    """What a source file says that it is for, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r": python benchmarks/.*", ".", sentence)


def packages() -> list[Path]:
    """The folders with sources, parents first."""
    return sorted({path.parent for part in PARTS for path in (ROOT / part).rglob("*.py")})


def architecture() -> str:
    """The page: a section for each folder, in it a row for each file."""
    lines = [HEAD, f"`cli.py`: {first_sentence(ROOT / 'cli.py')}"]
    for folder in packages():
        lines += ["", f"## {folder.relative_to(ROOT).as_posix()}", ""]
        if (folder / "__init__.py").exists():
            lines += [first_sentence(folder / "__init__.py"), ""]
        modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if modules:
            lines += ["| file | what it is for |", "|---|---|"]
        for path in modules:
            sentence = first_sentence(path).replace("|", "\\|")
            lines.append(f"| `{path.name}` | {sentence} |")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(architecture(), encoding="utf-8")
