"""The documentation as a site, in a real browser: it can be searched from disk, and loads nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, find_browser

pytestmark = pytest.mark.slow
SKIPPED = (".git", ".venv", "__pycache__", "site", ".cache", "mutants", "tests", ".mypy_cache")


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("site") / "copy"
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(*SKIPPED))
    program = Path(sys.executable).with_name("zensical")
    subprocess.run([program, "build", "--strict", "--clean"], cwd=copy, check=True, timeout=120)
    return copy / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find_browser()) as opened:
        yield opened


def test_a_page_from_disk_can_be_searched(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.run("document.querySelector('.md-search__button').click()")
    find = "[...document.querySelectorAll('*')].map(e => e.shadowRoot).find(r => r?.querySelector('input'))"
    browser.wait(f"{find}?.activeElement")
    browser.call("Input.insertText", text="--points-per-side")
    browser.wait(f"{find}.textContent.includes('pcnet-prep sam')")
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_a_page_leads_on_and_keeps_options_on_one_line(site: Path, browser: Browser) -> None:
    browser.open(site / "clusters.html")
    links = browser.run(
        "[...document.querySelectorAll('a.md-footer__link')].map(a => a.getAttribute('href'))"
    )
    assert links == ["./other-models.html", "./reading.html"]
    code = "[...document.querySelectorAll('code')].find(c => c.textContent == '--gpus 8')"
    assert browser.run(f"{code}.offsetHeight < 1.9 * parseFloat(getComputedStyle({code}).lineHeight)")


def test_the_functions_have_their_arguments(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("decompose", "propose", "open_store", "load_model", "predict"):
        assert re.search(rf'id="[\w.]+\.{name}"', text), name
    assert not re.search(r":(?:func|class|data|meth|mod|attr|exc):", text)


def test_no_table_has_a_column_without_a_name(site: Path) -> None:
    unnamed = [
        page.name
        for page in site.rglob("*.html")
        if re.search(r"<th[^>]*>\s*</th>", page.read_text(encoding="utf-8"))
    ]
    assert unnamed == []
