"""Every cure of docs/pains.md is a command that the programs take; those that can run anywhere are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import cli
from tests.test_docs import PROGRAMS, problem

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pains.md"
ROW = re.compile(r"^\| (.+) \| (.+) \| `(pcnet(?:-prep)? .+?)` \| (.+) \|$", re.MULTILINE)
ROWS = [
    (found[0], found[1], shlex.split(found[2])) for found in ROW.findall(PAGE.read_text(encoding="utf-8"))
]
# What a command needs that a test machine has not: a language model, weights, a cluster, a trained network.
NEEDS = {"mistral-7b", "--ray-address", "--fidelity", "--points-per-batch", "train", "eval", "pseudo-png"}
RUN = [words for _, _, words in ROWS if not NEEDS & set(words)]


def test_there_are_thirty_complaints_each_with_its_thread() -> None:
    assert len(ROWS) >= 30
    assert len({complaint for complaint, _, _ in ROWS}) == len(ROWS)
    for complaint, where, _ in ROWS:
        links = re.findall(
            r"\[([\w.-]+)#(\d+)\]\((https://github\.com/[\w.-]+/([\w.-]+)/issues/(\d+))\)", where
        )
        assert links, complaint
        assert all((name, number) == (repository, issue) for name, number, _, repository, issue in links)


@pytest.mark.parametrize("words", [words for _, _, words in ROWS], ids=" ".join)
def test_every_cure_is_a_command(words: list[str]) -> None:
    assert problem(words) is None


@pytest.mark.slow
def test_the_cures_that_need_nothing_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prep.demo.dataset import write

    write(tmp_path, images=5, seed=4)
    (tmp_path / "photos").symlink_to("coco/train2014")
    photo = "COCO_train2014_000000000001.jpg"
    (tmp_path / "mine.jsonl").write_text(
        f'{{"sent": "the red circle", "image": "{photo}", "mask": [[5, 5, 30, 5, 30, 30, 5, 30]]}}\n'
        f'{{"sent": "no mask", "image": "{photo}"}}\n'
    )
    monkeypatch.chdir(tmp_path)
    assert len(RUN) >= 20
    first = [words for words in RUN if words[1] in ("phrases", "sam")]  # they make the store of the others
    for program, *arguments in [*first, *(words for words in RUN if words not in first)]:
        try:
            code = PROGRAMS[program](arguments, standalone_mode=False)
        except typer.Exit as ended:
            code = ended.exit_code
        assert code in (None, 0), arguments
    assert {path.name for path in (tmp_path / "exported").iterdir()} > {
        "coco",
        "own",
        "reclip",
        "triplets",
        "tasks",
    }
    assert (tmp_path / "held-out.txt").read_text()
    assert (tmp_path / "prepared" / "croissant.json").is_file()


def test_both_programs_are_known_here() -> None:
    assert {words[0] for _, _, words in ROWS} == set(PROGRAMS)
    assert PROGRAMS["pcnet-prep"] is cli.prep_app
