"""What the README and docs tell people to type is there: commands, options, files, errors; some is run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

import cli
from tests.remedies import problem
from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"pcnet-prep": cli.prep_app, "pcnet": cli.pcnet_app}
BLOCK = re.compile(r"(<!-- run -->\n)?```(\w*)\n(.*?)```", re.DOTALL)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shell_lines(text: str) -> Iterator[str]:
    """The lines of a page that are typed into a shell: fenced blocks, and indented ones."""
    for _, language, block in BLOCK.findall(text):
        if language in ("", "sh", "console", "bash"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"^    ((?:pcnet|make|python|\.venv).*)$", text, re.MULTILINE)


def calls(line: str) -> Iterator[list[str]]:
    """The calls of our programs in a shell line, those in a quoted argument too."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return
    ends = [at for at, word in enumerate(words) if word in (";", "&&", "|", "&")]
    for start, end in pairwise([-1, *ends, len(words)]):
        command = [word for word in words[start + 1 : end] if word != "..."]
        if command and Path(command[0]).name in PROGRAMS:
            yield [Path(command[0]).name, *command[1:]]
        yield from (call for word in command if " " in word for call in calls(word))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_is_one_that_the_programs_take(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [call for line in shell_lines(text) for call in calls(line)]
    found += [call for span in re.findall(r"`((?:pcnet|pcnet-prep) [^`]+)`", text) for call in inline(span)]
    assert [(" ".join(call), why) for call in found if (why := problem(call))] == []


def inline(span: str) -> Iterator[list[str]]:
    """What is strange in a command that prose mentions: its name or an option; the rest may be left out."""
    program, *words = shlex.split(span)
    group = typer.main.get_command(PROGRAMS[program])
    known = {word for word in words if not word.startswith("-")} & set(group.commands)  # type: ignore[attr-defined]
    options = {o for name in known for p in group.commands[name].params for o in p.opts}  # type: ignore[attr-defined]
    strange = [
        word for word in words if word.startswith("--") and word not in options | {"--help", "--debug"}
    ]
    if words[:1] and words[0] not in known and not words[0].startswith("-"):
        yield [program, words[0]]
    elif strange:
        yield [program, *sorted(known), *strange]


def test_the_parser_of_this_test_sees_what_is_wrong() -> None:
    assert problem(["pcnet-prep", "sam", "--no-such-option", "1"])
    assert problem(["pcnet-prep", "scores"])
    assert problem(["pcnet", "train", "--epochs", "many"])
    assert problem(["pcnet-prep", "sam", "--gpus", "2"]) is None
    assert list(calls("ray exec x.yaml '~/bin/pcnet-prep sam --x 1' && pcnet eval ...")) == [
        ["pcnet-prep", "sam", "--x", "1"],
        ["pcnet", "eval"],
    ]
    assert list(inline("pcnet eval --nothing")) == [["pcnet", "eval", "--nothing"]]
    assert list(inline("pcnet-prep scores")) == [["pcnet-prep", "scores"]]
    assert list(inline("pcnet eval --out")) == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_scripts_and_targets_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for script in re.findall(
        r"(?:python|sbatch|ray up|ray exec|ray down).* ((?:benchmarks|docs)/[\w./-]+)", text
    ):
        assert (ROOT / script).is_file(), script
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE):
        assert "".join(target) in targets


def runnable(page: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [(language, block) for run, language, block in BLOCK.findall(text) if run]


@pytest.mark.slow
def test_the_blocks_that_say_so_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    # What a reader of these pages has: the data root under its usual name, and expressions of their own.
    (tmp_path / "coco").symlink_to("scenes/coco")
    (tmp_path / "photos").symlink_to("scenes/coco/train2014")
    (tmp_path / "mine.jsonl").write_text(
        '{"sent": "the red circle", "image": "COCO_train2014_000000000001.jpg"}\n'
    )
    pages = ("index.md", "reading.md", "other-models.md", "datasets.md", "report.md", "exports.md")
    blocks = [block for page in pages for block in runnable(page)]
    assert [language for language, _ in blocks] == ["sh", "sh", *["python"] * 5, *["sh"] * 5]
    for language, block in blocks:
        for line in block.splitlines() if language == "sh" else [f"python -c {shlex.quote(block)}"]:
            program, *arguments = shlex.split(line)
            if program == "python":
                exec(compile(arguments[1], "docs", "exec"), {"__name__": "docs"})
            else:
                assert PROGRAMS[program](arguments, standalone_mode=False) in (None, 0), line
    assert {path.name for path in tmp_path.glob("*.html")} == {"store.html", "run.html", "report.html"}
    assert (tmp_path / "runs/scenes/val/metrics.json").is_file()


def test_every_message_of_the_troubleshooting_is_in_the_source() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    pieces = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(pieces) > 30
    sources = [ROOT / "cli.py", *(ROOT / "prep").rglob("*.py"), *(ROOT / "pcnet").rglob("*.py")]
    trees = [parsed(path) for path in sources]
    told = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [text for text in told if isinstance(text, str)]
    assert [piece for piece in pieces if not any(piece in text for text in texts)] == []


SLURM = """
scontrol() { printf 'node1\\nnode2\\nnode3\\n'; }
sleep() { :; }
source() { echo "source $*"; }
python() { echo "${NODES_ALIVE:-3}"; }
srun() { echo "srun $*"; }
pcnet-prep() { echo "pcnet-prep $*"; }
"""


def test_the_slurm_script_starts_ray_on_every_node_and_runs_our_commands() -> None:
    path = ROOT / "docs/examples/slurm.sbatch"
    text = path.read_text(encoding="utf-8")
    head = re.findall(r"^#SBATCH --([\w-]+)=\S+$|^#SBATCH --(requeue)$", text, re.MULTILINE)
    assert len(head) == text.count("\n#SBATCH")
    assert text.index("#SBATCH") < text.index("set -euo")  # Slurm reads no more of them after a command
    job = {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "32"}
    job |= {"SLURM_JOB_NODELIST": "node[1-3]", "PATH": "/usr/bin:/bin", "DATASET": "refcoco+"}
    done = subprocess.run(
        ["bash", "-c", SLURM + text], env=job, capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    started = sorted(line for line in lines if line.startswith("srun"))
    assert ["--head" in line and "--nodelist=node1" in line for line in started] == [True, False]
    assert "--nodes=2" in started[1]
    assert "--address=node1:6379" in started[1]
    found = [line.split() for line in lines if line.startswith("pcnet-prep")]
    assert [call[1] for call in found] == ["phrases", "sam", "verify"]
    assert [problem(call) for call in found] == [None] * 3
    assert all(call[-4:] == ["--ray-address", "auto", "--gpus", "24"] for call in found[:2])
    assert lines[0].endswith(".venv/bin/activate")
    late = subprocess.run(
        ["bash", "-c", SLURM + text], env={**job, "NODES_ALIVE": "2"}, capture_output=True, text=True,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert late.returncode == 1
    # Ray runs in the background, so its lines may come last.
    said = [line for line in late.stdout.splitlines() if not line.startswith("srun")]
    assert said[-1] == "Ray has 2 of 3 nodes"


def test_the_ray_cluster_file_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    path = ROOT / "docs/examples/ray-cluster.yaml"
    validate_config(prepare_config(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert "pcnet-prep[all]" in path.read_text(encoding="utf-8")


def test_every_page_is_in_the_sites_navigation() -> None:
    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from leaves(inner)

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(leaves(site["nav"])) == pages


def test_the_pages_of_the_commands_are_up_to_date() -> None:
    from tests.command_pages import FOLDER, pages

    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")} == pages(), (
        "make layout"
    )


def test_every_option_has_its_group() -> None:
    from prep.commands.help import GROUPS

    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    used = {
        option.name
        for app in PROGRAMS.values()
        for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for option in command.params
        if option.param_type_name == "option"
    }
    assert used <= set(named)
    assert set(named) - used == {"help"}
