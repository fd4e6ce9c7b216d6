"""The arrows between the parts point one way, and ground truth stays out of training's reach."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "cli.py", *sorted((ROOT / "prep").rglob("*.py")), *sorted((ROOT / "pcnet").rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Every module and library that a file imports, inside functions too, type-only imports left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(
                f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in MODULES
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def reachable(start: str) -> set[str]:
    """The project modules that importing and running ``start`` can load."""
    seen, queue = set(), [start]
    while queue:
        name = queue.pop()
        if name in seen or name not in IMPORTS:
            continue
        seen.add(name)
        queue.extend(IMPORTS[name])
    return seen


def offenders(importer: str, forbidden: tuple[str, ...]) -> list[str]:
    def within(name: str, package: str) -> bool:
        return name == package or name.startswith(package + ".")

    return [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        if within(name, importer)
        for target in targets
        if any(within(target, package) for package in forbidden)
    ]


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("prep", ("pcnet", "cli")),
        ("pcnet", ("cli", "prep.phrases.job", "prep.proposals.stage", "prep.engine", "prep.runner")),
        ("prep.phrases", ("prep.proposals",)),
        ("prep.proposals", ("prep.phrases",)),
        ("prep.proposals.stage", ("prep.cache.store", "prep.engine", "prep.runner", "ray")),
        ("prep.phrases.stage", ("prep.cache.store", "prep.engine", "prep.runner", "ray")),
        ("prep.cache", ("prep.engine", "prep.runner", "prep.dataset", "torch", "ray")),
    ],
)
def test_arrows_point_one_way(importer: str, forbidden: tuple[str, ...]) -> None:
    assert offenders(importer, forbidden) == []


def test_only_the_engine_imports_ray() -> None:
    users = {name for name, targets in IMPORTS.items() if any(t.split(".")[0] == "ray" for t in targets)}
    assert users == {"prep.cluster", "prep.ray_start"}


@pytest.mark.parametrize("start", ["pcnet.train", "pcnet.samples", "pcnet.losses", "pcnet.model"])
def test_training_reaches_no_ground_truth(start: str) -> None:
    forbidden = {"prep.truth", "prep.annotations", "prep.dataset", "pcnet.evaluate"}
    assert start in IMPORTS
    assert reachable(start) & forbidden == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.split("\n\n")[0].endswith(".")


def test_importing_the_programs_loads_nothing_heavy() -> None:
    code = (
        "import sys, cli\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'numba', 'skimage', 'pyarrow', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
