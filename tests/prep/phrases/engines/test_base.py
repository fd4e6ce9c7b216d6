"""What identifies an answer, how cut answers are read, and what a run reports."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from prep.cache.keys import answer_key, fingerprint
from prep.errors import PrepError
from prep.phrases.engines.base import (
    ANSWERS,
    DEATHS,
    Answer,
    Question,
    Sampling,
    answer_settings,
    answers_table,
    quoted_answer,
    whole_lines,
)
from prep.phrases.engines.vllm import VllmStage
from prep.phrases.engines.vllm_boot import EXPRESSION_TOKENS, VllmOptions, engine_arguments
from prep.phrases.models import Model
from prep.phrases.prompt import load_prompt
from prep.phrases.report import Clock, Report
from prep.records import PhraseSet

MODEL = Model("vllm", "org/name", "org/name", "c0ffee")
FOLDER = Model("vllm", "name", "some/folder", "sha256:abc")


def key(model: Model = MODEL, sampling: Sampling | None = None, **options: object) -> str:
    stage = VllmStage(model, load_prompt(), sampling, VllmOptions(**options))  # type: ignore[arg-type]
    return answer_key(fingerprint(stage.settings()), "red cup")


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "fp8"},
        {"dtype": "float16"},
        {"batch_invariant": True},
        {"retry": False},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(temperature=0.5, seed=1)},
        {"sampling": Sampling(max_tokens=40)},
        {"model": Model("vllm", "org/name", "org/name", "decaf")},
        {"model": Model("vllm", "org/other", "org/other", "c0ffee")},
        {"model": FOLDER},
    ],
    ids=str,
)
def test_what_changes_an_answer_changes_its_key(options: dict[str, object]) -> None:
    assert key(**options) != key()  # type: ignore[arg-type]


def test_nothing_else_changes_a_key(tmp_path: Path) -> None:
    layout = {"tensor_parallel": 2, "max_num_seqs": 7, "max_model_len": 900, "gpu_memory_utilization": 0.5}
    assert key(**layout, prefix_caching=False) == key()  # type: ignore[arg-type]
    assert key(sampling=Sampling(seed=5, top_p=0.3)) == key()  # greedy: nothing is drawn
    moved = Model("vllm", "renamed", str(tmp_path), FOLDER.commit)
    assert key(moved) == key(FOLDER)
    other = tmp_path / "prompt.txt"
    prompt = load_prompt()
    other.write_text(f"version: v1\n\n{_sections()}\nOne more rule.\n\n{_question()}", "utf-8")
    settings = answer_settings(MODEL.settings(), prompt, Sampling())
    assert answer_settings(MODEL.settings(), load_prompt(other), Sampling()) != settings


def _sections() -> str:
    return "\n\n".join(f"== {name} ==\nwords" for name in ("instruction", "constraints", "examples"))


def _question() -> str:
    return '== question ==\nExpression: "{expression}"\n'


def test_an_unopened_stage_travels() -> None:
    stage = VllmStage(MODEL, load_prompt(), options=VllmOptions(quantization="fp8"))
    copy = pickle.loads(pickle.dumps(stage))
    assert copy.settings() == stage.settings()
    with pytest.raises(RuntimeError, match="open"):
        copy.load([Question("k", "t")])


@pytest.mark.parametrize(
    ("raw", "finish", "expected"),
    [
        ("the cup\nthe red cup", "stop", "the cup\nthe red cup"),
        ("the cup\nthe red c", "length", "the cup"),
        ("the cup\nthe red cup\n", "length", "the cup"),
        ("the cu", "length", "the cu"),
        ("", "length", ""),
        ("\nthe cu", "length", "\nthe cu"),
    ],
)
def test_a_line_that_was_cut_off_is_left_out(raw: str, finish: str, expected: str) -> None:
    assert whole_lines(raw, finish) == expected


def test_the_retry_quotes_a_bounded_answer() -> None:
    assert quoted_answer("  the cup ") == "the cup"
    assert quoted_answer(" \n") == "-"
    assert len(quoted_answer("word " * 1000)) <= 400


def test_an_answer_table_has_a_row_for_every_question() -> None:
    answers = [Answer(Question("a", "x"), first="the x"), Answer(Question("b", "y"), error="prompt_too_long")]
    table = answers_table(answers, deaths=2)
    assert table.schema.equals(ANSWERS)
    assert table.schema.metadata == {DEATHS.encode(): b"2"}
    assert table.column("status").to_pylist() == ["ok", "error"]
    assert pa.Table.from_pylist([], schema=ANSWERS).equals(answers_table([]))


def test_the_engine_is_as_long_as_the_prompt_needs() -> None:
    sampling = Sampling()
    arguments = engine_arguments(FOLDER, 448, sampling, VllmOptions())
    assert 448 + 96 + EXPRESSION_TOKENS <= arguments["max_model_len"] < 448 + 96 + EXPRESSION_TOKENS + 64
    assert arguments["revision"] == FOLDER.commit
    assert None not in arguments.values()
    assert engine_arguments(FOLDER, 448, sampling, VllmOptions(max_model_len=600))["max_model_len"] == 600
    with pytest.raises(PrepError, match="--max-model-len 500 leaves no room"):
        engine_arguments(FOLDER, 448, sampling, VllmOptions(max_model_len=500))


def test_the_report_counts_every_rung_that_was_tried() -> None:
    report = Report()
    report.add_row(PhraseSet(("the cup",), "llm"))
    report.add_row(PhraseSet(("the cup",), "retry", (), (("llm", ("uncovered", "colour_lost")),)))
    report.add_row(
        PhraseSet(("a b",), "rules", ("uncovered",), (("llm", ("uncovered",)), ("retry", ("count",))))
    )
    mended = PhraseSet(("the cup", "the red cup"), "repaired", (), (("llm", ("repeated",)),), ("split",))
    report.add_row(mended)
    report.add_row(None)
    tokens = {"prompt_tokens": [10, 30], "cached_tokens": [0, 20], "output_tokens": [5, 5]}
    report.add_answers({"key": ["a", "b"], "retry": [None, "x"], "error": [None, None], **tokens}, deaths=1)
    clock = Clock("read")
    clock.to("engine")
    clock.to("write")
    figures = report.figures(clock)
    rungs = figures["rungs"]
    assert {name: (rung["tried"], rung["valid"]) for name, rung in rungs.items()} == {
        "llm": (4, 1),
        "repaired": (4, 1),
        "retry": (2, 1),
        "rules": (1, 0),
    }
    assert rungs["llm"]["violations"] == {"uncovered": 0.5, "colour_lost": 0.25, "repeated": 0.25}
    assert rungs["llm"]["share_valid"] == 0.25
    assert figures["sources"] == {"llm": 1, "retry": 1, "rules": 1, "repaired": 1}
    assert figures["repairs"] == {"split": 1}
    engine = figures["engine"]
    assert (engine["asked"], engine["retried"], engine["deaths"]) == (2, 1, 1)
    assert engine["prefix_cache_hit_rate"] == 0.5
    assert list(figures["seconds"]) == ["read", "engine"]
