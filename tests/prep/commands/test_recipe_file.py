"""A configuration says which flags each command gets, and names what it does not know."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from prep.cache.store import read_manifest_file
from prep.commands.recipe_file import Section, command_line, read_configuration
from prep.errors import PrepError

COMMANDS: dict[str, Any] = {
    **{
        name: typer.main.get_command(cli.prep_app).commands[name]  # type: ignore[attr-defined]
        for name in ("phrases", "sam", "score")
    },
    "train": typer.main.get_command(cli.pcnet_app).commands["train"],  # type: ignore[attr-defined]
}
WHOLE = """
data: tree
dataset: [refcoco, refcoco+]
out: made
phrases:
  llm: rules
  keep-raw: true
sam:
  generator: segments
  min-area: 20
  out: elsewhere
train:
  encoder: tiny
  weight: [iad=0.5, cal=1]
"""


def read(folder: Path, text: str, *words: str) -> dict[str, dict[str, Any]]:
    path = folder / "c.yaml"
    path.write_text(text)
    return {section.command: section.flags for section in read_configuration(path, words, COMMANDS)}


def test_sections_have_their_own_flags_and_the_shared_ones(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)
    both = {"data": "tree", "dataset": ["refcoco", "refcoco+"]}
    assert list(found) == ["phrases", "sam", "train"]
    assert found["phrases"] == {**both, "out": "made", "llm": "rules", "keep_raw": True}
    assert found["sam"] == {**both, "out": "elsewhere", "generator": "segments", "min_area": "20"}
    assert found["train"]["store"] == "made"
    assert "out" not in found["train"]
    assert found["train"]["weight"] == ["iad=0.5", "cal=1"]


def test_training_takes_one_dataset_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(WHOLE)
    sections = read_configuration(path, (), COMMANDS)
    assert [s.flags["dataset"] for s in sections if s.command == "train"] == ["refcoco", "refcoco+"]


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    found = read(
        tmp_path, WHOLE, "--dataset", "refcocog", "--out=there", "--sam.min-area", "7", "--llm", "qwen3-4b",
        "--replace", "--keep-raw=false", "--split", "val", "--split", "testA",
    )  # fmt: skip
    assert found["phrases"]["dataset"] == found["sam"]["dataset"] == ["refcocog"]
    assert found["train"]["dataset"] == "refcocog"
    assert [found[name].get("out", found[name].get("store")) for name in found] == ["there"] * 3
    assert found["sam"]["min_area"] == "7"
    assert (found["phrases"]["llm"], found["phrases"]["keep_raw"]) == ("qwen3-4b", False)
    assert found["sam"]["replace"] is True
    assert found["phrases"]["split"] == ["val", "testA"]
    assert "split" not in found["train"]


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("phrase: {}", [], ["phrase is neither a section nor a shared flag", "Did you mean phrases?"]),
        ("phrases:\n  lllm: rules", [], ["phrases has no flag lllm", "Did you mean llm?"]),
        ("sam:\n  min_area: 3", [], ["sam has no flag min_area", "Did you mean min-area?"]),
        ("phrases: rules", [], ["phrases is not a section", "flag: value"]),
        ("sam:\n  model: {a: 1}", [], ["sam.model is neither"]),
        ("data: coco", [], ["has no section for a command", "phrases, sam, score, train"]),
        ("- phrases", [], ["has no sections"]),
        ("a: [", [], ["is not valid YAML", "line 1"]),
        ("sam:\nscore:", ["--model", "x"], ["sam and score", "--sam.model or --score.model"]),
        ("sam:", ["--min-ares", "3"], ["--min-ares", "Did you mean --min-area?"]),
        ("sam:", ["--score.model", "3"], ["--score.model"]),
        ("sam:", ["--min-area"], ["--min-area needs a value"]),
        ("sam:", ["vit_b"], ["'vit_b' is not a flag"]),
        ("phrases:\n  plan: true", [], ["phrases has no flag plan"]),
    ],
)
def test_what_no_command_knows_is_named(text: str, words: list[str], said: list[str], tmp_path: Path) -> None:
    with pytest.raises(PrepError) as error:
        read(tmp_path, text, *words)
    for part in said:
        assert part in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="No such file"):
        read_configuration(tmp_path / "none.yaml", (), COMMANDS)


def test_the_command_line_of_a_section_parses_to_its_flags() -> None:
    flags = {
        "data": "a tree",
        "split": ["val", "testA"],
        "keep_raw": True,
        "batch_invariant": False,
        "gpus": "2",
    }
    words = shlex.split(command_line(Section("phrases", flags), COMMANDS["phrases"], "pcnet-prep"))
    assert words[:2] == ["pcnet-prep", "phrases"]
    parsed = COMMANDS["phrases"].make_context("phrases", words[2:]).params
    by_file = COMMANDS["phrases"].make_context("phrases", [], default_map=flags).params
    assert parsed == by_file
    assert (parsed["data"], parsed["split"], parsed["gpus"]) == (Path("a tree"), ["val", "testA"], 2)
    assert "--no-batch-invariant" in words


def test_a_section_can_switch_an_option_of_sam_2_off() -> None:
    flags = {"generator": "sam2", "model": "sam2.1_hiera_b+", "use_m2m": True, "multimask_output": False}
    words = shlex.split(command_line(Section("sam", flags), COMMANDS["sam"], "pcnet-prep"))
    assert {"--use-m2m", "--no-multimask-output"} < set(words)
    parsed = COMMANDS["sam"].make_context("sam", words[2:]).params
    assert {name: parsed[name] for name in flags} == flags
    assert COMMANDS["sam"].make_context("sam", []).params["multimask_output"] is None


HOSTILE = {
    "deep list": "phrases: " + "[" * 50_000,
    "deep mapping": "{a: " * 20_000,
    "deep indentation": "\n".join(" " * depth + "- " for depth in range(3000)),
    "long number": "phrases: {workers: " + "9" * 5000 + "}",
    "no date": "phrases: {llm: 2020-99-99}",
    "tag": "phrases: {llm: !!python/object/apply:os.system [true]}",
    "alias of itself": "phrases: &a {llm: *a}",
    "merged": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
    "size": "phrases: {}\n" + "#" * (1 << 21),
    "nul": "phrases: \0",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_of_the_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"c\.yaml"):
        read(tmp_path, HOSTILE[name])


@pytest.mark.timeout(60)
def test_a_pipe_or_a_device_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(PrepError, match="cannot be read"):
            read_configuration(path, [], COMMANDS)
        with pytest.raises(PrepError, match="Cannot read"):
            read_manifest_file(path)


def test_what_yaml_reads_otherwise_is_refused_or_printed_as_it_can_be_typed(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"phrases is there more than once.*line 3"):
        read(tmp_path, "phrases:\n  llm: rules\nphrases:\n  llm: mistral-7b\n")
    with pytest.raises(PrepError, match=r"split is yes or no"):
        read(tmp_path, "split: [train, no]\nphrases:\n  llm: rules\n")
    path = tmp_path / "d.yaml"
    path.write_text('sam:\n  generator: segments\n  max-masks: 3.0\n  replace: "no"\n')
    (section,) = read_configuration(path, [], COMMANDS)
    line = command_line(section, COMMANDS["sam"], "pcnet-prep")
    assert line == "pcnet-prep sam --generator segments --max-masks 3"
