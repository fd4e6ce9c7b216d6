"""Weak supervision, shown in the imports: what trains can reach nothing that reads a ground truth."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
READERS = {
    f"prep.datasets.{name}"
    for name in ("truth", "coco_json", "segmentation", "catalogue", "refer", "jsonl", "expected_counts")
}
JUDGES = {"pcnet.evaluation.evaluate", "pcnet.evaluation.dataset", "pcnet.evaluation.predict"}


def file_of(module: str) -> Path | None:
    """The source of a module of this project."""
    stem = ROOT.joinpath(*module.split("."))
    found = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return found[0] if found else None


def imported(module: str) -> set[str]:
    """What a module imports anywhere, in functions too; for typing only does not count."""
    path = file_of(module)
    if path is None:
        return set()
    found = set()
    waiting: list[ast.AST] = [parsed(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: this walk would miss it"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting.extend(ast.iter_child_nodes(node))
    return found


def reachable(start: str) -> set[str]:
    """Every module and library that ``start`` can load, packages' ``__init__`` included."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        parts = module.split(".")
        waiting += [".".join(parts[:n]) for n in range(1, len(parts))]
        # A package's own imports are lazy (PEP 562): they happen when a name is asked for, not on the way
        # past.
        if (file_of(module) or Path()).name != "__init__.py":
            waiting += imported(module)
    return seen


@pytest.mark.parametrize(
    "start",
    [
        "training.trainer",
        "training.setup",
        "data.table",
        "data.collate",
        "data.sampler",
        "losses",
        "model.pcnet",
    ],
)
def test_no_ground_truth_is_reachable_from_training(start):
    assert file_of(f"pcnet.{start}") is not None
    found = reachable(f"pcnet.{start}")
    assert not found & (READERS | JUDGES)
    assert not any(name.split(".")[0] == "pycocotools" for name in found)


def test_the_walk_would_see_it():
    assert "prep.datasets.truth" in reachable("pcnet.evaluation.evaluate")
    assert any(name.startswith("pycocotools") for name in reachable("pcnet.evaluation.dataset"))


@pytest.mark.slow
def test_a_process_that_trains_has_loaded_none_of_it():
    code = (
        "import sys, pcnet.training.trainer\n"
        f"print(sorted(({READERS | JUDGES | {'pycocotools'}!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
