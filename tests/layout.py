"""Writes the list of files in docs/architecture.md, a line for each from its first sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PARTS = ("prep", "pcnet", "benchmarks")
MARKER = "<!-- make layout writes the rest of this page -->"


def first_sentence(path: Path) -> str:
    """What a source file says that it is for, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r": python (?:-m benchmarks\.|benchmarks/).*", ".", sentence)


def packages() -> list[Path]:
    """The folders with sources, parents first."""
    return sorted({path.parent for part in PARTS for path in (ROOT / part).rglob("*.py")})


def architecture() -> str:
    """The page: its written part, then a section for each folder with a row for each file."""
    written = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    lines = [written + MARKER, "", "## Every file", "", f"`cli.py`: {first_sentence(ROOT / 'cli.py')}"]
    for folder in packages():
        lines += ["", f"### {folder.relative_to(ROOT).as_posix()}", ""]
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
