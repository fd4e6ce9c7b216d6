"""The files for contributors and for those who cite: they parse, and say what the project says elsewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
YAML = [ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_yaml_file_parses(path: Path) -> None:
    assert isinstance(load(path), dict)


def test_the_citation_has_what_its_format_requires() -> None:
    told = load(ROOT / "CITATION.cff")
    assert told.keys() >= {"cff-version", "message", "title", "authors"}
    assert told["cff-version"] == "1.2.0"
    assert (told["type"], told["title"]) == ("software", PROJECT["name"])
    assert (str(told["version"]), told["license"]) == (PROJECT["version"], PROJECT["license"])
    for entry in [told, *told["references"]]:
        assert entry.keys() >= {"type", "title", "authors"}
        for author in entry["authors"]:
            assert author.keys() >= {"name"} or author.keys() >= {"family-names", "given-names"}


def test_ci_calls_targets_that_are_there_on_the_pythons_that_are_declared() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    job, lowest = jobs["test"], jobs["lowest"]
    steps = [*job["steps"], *lowest["steps"]]
    called = [word for step in steps for word in re.findall(r"make ([\w-]+)", step.get("run", ""))]
    assert called == ["check", "test", "real", "test-lowest"]
    assert all(re.search(rf"^{name}:", MAKEFILE, re.MULTILINE) for name in called)
    oldest = min(job["strategy"]["matrix"]["python"], key=lambda text: tuple(map(int, text.split("."))))
    assert PROJECT["requires-python"] == f">={oldest}"
    (python,) = [step["with"]["python-version"] for step in lowest["steps"] if "with" in step]
    assert python == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    """A raised bound needs a new .ci/lowest.txt."""
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.lstrip().startswith("#"))

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)]

    for dependency in PROJECT["dependencies"]:
        name, bound = dependency.split(">=")
        size = len(numbers(bound))
        # The first release of a bound may have a later number: ftfy 6.1 is 6.1.0, regex 2023.0 is 2023.3.22.
        assert numbers(pins[name])[: size - (name == "regex")] == numbers(bound)[: size - (name == "regex")]


def test_hooks_are_programs_of_the_test_extra() -> None:
    wanted = {re.split(r"[\[<>=]", line)[0] for line in PROJECT["optional-dependencies"]["test"]}
    for repository in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        for hook in repository["hooks"]:
            assert hook["entry"].split()[0].removeprefix(".venv/bin/") in wanted


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=str)
def test_issue_forms_have_what_they_need(path: Path) -> None:
    form = load(path)
    assert form.keys() >= {"name", "description", "body"}
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["attributes"]["label"] for part in form["body"])
