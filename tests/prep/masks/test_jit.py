"""Machine code of an old helper is never used again, and unchanged code is not compiled again."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from prep.masks import jit

ROOT = Path(__file__).resolve().parents[3]
HELPER = "from prep.masks.jit import inlined\n{constant}\n@inlined\ndef helper(x):\n    return x + {added}\n"
KERNEL = """
from numbahelper import FACTOR, helper
from prep.masks.jit import compiled

@compiled
def kernel(x):
    return FACTOR * helper(x)
"""


def load(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as a new process has it."""
    jit._sources.cache_clear()
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, name, module)
    spec.loader.exec_module(module)
    return module


def write(path: Path, text: str) -> None:
    """A file with the same time as before: a checkout of files within a second, or one that keeps times."""
    path.write_text(text)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_a_kernel_is_compiled_again_when_a_helper_in_another_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    write(tmp_path / "kernel.py", KERNEL)

    def run(constant: str, added: int) -> tuple[int, int]:
        """The kernel's result for 1, and how often its machine code was found on disk."""
        write(tmp_path / "numbahelper.py", HELPER.format(constant=constant, added=added))
        load(tmp_path, "numbahelper", monkeypatch)
        kernel = load(tmp_path, "kernel", monkeypatch).kernel
        return kernel(1), sum(kernel.stats.cache_hits.values())

    assert run("FACTOR = 10", 1) == (20, 0)
    assert run("FACTOR = 10", 1) == (20, 1)
    assert run("FACTOR = 10", 2) == (30, 0)  # of the same size and time
    assert run("FACTOR = 20", 2) == (60, 0)
    assert run("FACTOR = 10", 1) == (20, 1)


def test_kernels_take_helpers_and_constants_from_their_own_folder() -> None:
    """What else they import must not become part of the machine code: errors and types do not."""
    allowed = {"prep.masks.jit", "prep.errors"}
    kernels = [
        path
        for path in sorted((ROOT / "prep").rglob("*.py"))
        if "prep.masks.jit"
        in {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
    ]
    assert len(kernels) > 4
    foreign = set()
    for path in kernels:
        own = ".".join(path.relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prep."):
                assert node.module is not None
                if node.module not in allowed and node.module.rpartition(".")[0] != own:
                    foreign |= {(path.name, alias.name) for alias in node.names}
    # A type, and functions that the kernels of the file of SAM 2 do not call: its Python does.
    assert foreign == {("small_regions.py", name) for name in ("Runs", "rle", "intervals", "regions")}
