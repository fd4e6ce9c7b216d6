"""What every test may use: the real data beside the project, where it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from hypothesis import HealthCheck, settings

from prep.errors import PrepError
from tests.remedies import untidy, wrong

# How long a case takes says how busy the machine is, not whether the case is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# CI draws the same cases each time, so that a failure belongs to the change; `make fuzz` draws new ones.
settings.register_profile("ci", settings.get_profile("untimed"), derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "untimed")
# How threads wait, as in our programs (prep/commands/entry.py); OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Ray runs its workers at niceness 15: beside other work on the machine an engine would take minutes to start.
os.environ.setdefault("RAY_worker_niceness", "0")

# To make a program's parser takes longer than most commands, and each call of a program makes it again.
typer.main.get_command = cache(typer.main.get_command)

# What starts an engine, a server, a browser or Ray, or builds the wheel: a test that asks for one is slow.
SLOW_FIXTURES = {"taught", "vllm_server", "ray_here", "cluster", "page", "wheel", "installed"}
REPOSITORY = Path(__file__).resolve().parents[1]
PRELOADED = os.environ.get("LD_PRELOAD", "")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow fixtures, before ``-m`` chooses by the marks."""
    for item in items:
        given = getattr(item, "callspec", None)  # a parameter may have the name of a fixture
        asked = set(getattr(item, "fixturenames", ())) - set(given.params if given else ())
        if asked & SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_call() -> None:
    """Take back what vLLM preloads for its own processes: the programs of later tests are not to load it."""
    os.environ["LD_PRELOAD"] = PRELOADED


@pytest.fixture(autouse=True)
def remedies_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every error that a test provokes is written in sentences; the programs' parsers take its commands."""
    told: set[str] = set()
    badly: list[str] = []
    make = PrepError.__init__

    def noted(self: PrepError, message: str, remedy: str = "") -> None:
        make(self, message, remedy)
        if Path(sys._getframe(1).f_code.co_filename).is_relative_to(REPOSITORY / "tests"):
            return  # the test's own
        badly.extend(untidy(message, remedy))
        if "pcnet" in (text := f"{message}\n{remedy}") or "pip " in text:
            told.add(text)

    monkeypatch.setattr(PrepError, "__init__", noted)
    yield
    monkeypatch.undo()
    assert [why for text in told for why in wrong(text)] == []
    assert badly == []


@pytest.fixture(autouse=True)
def same_path_for_children() -> Iterator[None]:
    """A program that runs in the test process forbids its children to import from the current folder."""
    yield
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def python(repository: Path) -> Callable[..., str]:
    """``python(*arguments, **environment)`` runs Python with one thread in the checkout; what it prints."""

    def run(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real photos, expressions and reference numbers beside the checkout; skips where they are absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data" / "README.md").is_file():
        pytest.skip("the folder of real data beside the checkout (../shared) is absent")
    return folder
