"""The README's tree names every source file, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_tree_has_a_line_for_every_file() -> None:
    tree = re.search(r"```tree\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree
    named = [line.split()[0] for line in tree[1].splitlines() if line and not line.startswith(" ")]
    there = [ROOT / "cli.py", *(ROOT / "prep").rglob("*.py"), *(ROOT / "pcnet").rglob("*.py")]
    modules = {str(path.relative_to(ROOT)) for path in there if path.name != "__init__.py"}
    sources = [name for name in named if name.endswith(".py") and not name.startswith("benchmarks")]
    assert sorted(sources) == sorted(modules)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
