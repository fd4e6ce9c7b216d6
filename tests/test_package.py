"""The wheel holds what the programs need and says what it needs, and the container's recipe what it names."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from PIL import Image

from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
# Parts of something that is required, of the very version that it asks for.
BROUGHT = {"triton": "torch", "llvmlite": "numba"}


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in shlex.split(line)[:-1]]


def bare(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].replace("_", "-").lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of nothing but what the Dockerfile copies."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", out, source], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the wheel in an environment that has nothing else; dependencies lie on its path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    # A folder that a .pth names is searched, but .pth files in it are not read: the checkout stays out.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "cli.py", "prep", "pcnet"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == set(tracked)


def test_its_metadata_are_the_projects(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    told = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    required = {bare(line) for line in told.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert required == {bare(line) for line in PROJECT["dependencies"]}
    assert set(told.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert told["Version"] == PROJECT["version"]
    assert f"{info}/licenses/LICENSE" in archive.namelist()


def test_whatever_is_imported_is_required() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *(
            line
            for name in ("sam", "sam2", "train", "ray", "vllm", "onnx", "loaders")
            for line in extras[name]
        ),
    ]
    required = {bare(line) for line in lines}
    distributions = packages_distributions()
    missing = set()
    for path in [ROOT / "cli.py", *(ROOT / "prep").rglob("*.py"), *(ROOT / "pcnet").rglob("*.py")]:
        for node in ast.walk(parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - {
                "cli",
                "prep",
                "pcnet",
                *sys.stdlib_module_names,
            }:
                known = {bare(name) for name in distributions.get(top, [top])} | {BROUGHT.get(top, top)}
                if not known & required:
                    missing.add((top, str(path.relative_to(ROOT))))
    assert missing == set()


def test_the_installed_programs_run_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    for program in PROJECT["scripts"]:
        done = subprocess.run(
            [installed / program, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert done.stdout == f"{program} {PROJECT['version']}\n"
        done = subprocess.run(
            [installed / program, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert "Usage" in done.stdout
    where = subprocess.run(
        [installed / "python", "-c", "import cli, prep; print(cli.__file__, prep.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout.split()  # fmt: skip
    assert all(Path(path).is_relative_to(installed.parent) for path in where)


def test_the_installed_rules_find_their_words(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps({"sent": "small brown dog under the bench"}) + "\n")
    command = [
        installed / "pcnet-prep",
        "phrases",
        "--llm",
        "rules",
        "--input",
        "mine.jsonl",
        "--out",
        "store",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "1 rows = 1 done" in done.stdout


def test_the_version_has_release_notes_and_stands_in_one_place() -> None:
    notes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", notes, re.MULTILINE)
    sources = [ROOT / "cli.py", *(ROOT / "prep").rglob("*.py"), *(ROOT / "pcnet").rglob("*.py")]
    assert [path for path in sources if "__version__ =" in path.read_text(encoding="utf-8")] == []


def test_the_container_copies_what_is_there_and_let_in() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(line[1:] for line in rules if line.startswith("!")) == sorted(copied())
    assert all((ROOT / name).exists() for name in copied())
    left_out = [line for line in rules[1:] if not line.startswith("!")]
    assert not any(fnmatch(name, rule) for name in copied() for rule in left_out)


def test_the_container_is_of_cuda_installs_the_extra_and_runs_as_nobody_special() -> None:
    assert re.search(r"^FROM nvidia/cuda:[\d.]+-runtime-", DOCKERFILE, re.MULTILINE)
    extras = re.search(r"pip install .*'/src\[(\w+)\]'", DOCKERFILE)
    assert extras
    assert extras[1] in PROJECT["optional-dependencies"]
    user = re.search(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert user
    assert user[1] != "root"
    assert re.search(rf"useradd .* {user[1]} ", DOCKERFILE[: user.start()])
    command = re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert command
    assert json.loads(command[1])[0] in PROJECT["scripts"]


# Raises for the packages of the extras what Python raises where they are not installed.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import cli
cli.{program}_main()
"""


def without_extras(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where no package of an extra can be imported."""
    names = (
        "torch", "torchvision", "transformers", "open_clip", "segment_anything", "ray", "vllm", "tensorboard",
        "huggingface_hub", "safetensors",
    )  # fmt: skip
    program, *rest = arguments
    code = BLOCKED.format(names=names, program=program)
    return subprocess.run(
        [sys.executable, "-c", code, *rest], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_rules_segments_and_the_store_need_no_extra(tmp_path: Path) -> None:
    from skimage import data

    (tmp_path / "images").mkdir()
    Image.fromarray(data.coffee()).resize((96, 64)).save(tmp_path / "images" / "1.png")
    row = {"sent": "the white cup to the left of the silver spoon", "image": "1.png"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    given = ("--input", "mine.jsonl", "--image-root", "images", "--out", "st")
    for command in (
        ("phrases", "--llm", "rules", *given),
        ("sam", "--generator", "segments", *given),
        ("status", "st"),
        ("verify", "st"),
        ("report", "st", "--out", "page.html"),
        ("doctor",),
    ):
        done = without_extras("prep", *command, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or command == ("doctor",), done.stderr
    for program, command, extra in (
        ("prep", ("phrases", "--llm", "rules", *given[:-1], "new", "--workers", "2"), "ray"),
        ("prep", ("phrases", "--llm", "mistral-7b", *given[:-1], "new"), "vllm"),
        ("prep", ("sam", *given[:-1], "new"), "sam"),
        ("prep", ("score", "--data", "images", "--out", "st"), "train"),
        ("pcnet", ("train", *given[:-2], "--store", "st"), "train"),
    ):
        done = without_extras(program, *command, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert f"Run `pip install 'pcnet-prep[{extra}]'`." in done.stderr
        assert len(done.stderr.splitlines()) <= 4  # what begins, what there is, the error and the remedy
