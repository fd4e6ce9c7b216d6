"""The README is short and its tree names what exists, docs/architecture.md every source file, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from tests.layout import PAGE, architecture

ROOT = Path(__file__).resolve().parents[1]


def test_the_tree_names_what_exists_and_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```tree\n(.*?)```", text, re.DOTALL)
    assert tree
    named = [line.split()[0] for line in tree[1].splitlines() if line]
    assert len(named) == 12
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert len(text.splitlines()) <= 150


def test_the_page_of_every_source_file_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == architecture(), "run: python tests/layout.py"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:prep|pcnet)/[\w/]+\.py)`", text))
    assert len(named) > 25
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
