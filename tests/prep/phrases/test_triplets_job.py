"""The triplets task through the same job as the phrases: cache, resuming, engines, export."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import cli
from prep.cache.answers import AnswerCache
from prep.cache.store import open_store
from prep.cache.verify import verify
from prep.engine.local import Engine
from prep.phrases.engines.base import ANSWERS
from prep.phrases.job import ANSWER_STAGE, run_llm
from prep.phrases.models import resolve
from prep.phrases.prompt import load_prompt
from prep.phrases.tasks import TRIPLETS
from prep.phrases.triplets import OBJECT_SCHEMA, settle
from prep.records import Expression
from tests.prep.phrases.engines.test_openai import Endpoint, said

COLOURS = ("red", "blue", "green", "white", "black")
NOUNS = ("dog", "cup", "man", "horse", "bench", "car", "box", "bird")
TEXTS = [f"{colour} {noun} near the wall" for noun in NOUNS for colour in COLOURS]


def asked(body: dict[str, Any]) -> str:
    """The expression that a request asks about."""
    return str(body["messages"][0]["content"].rsplit('"', 2)[1])


def answer(text: str) -> str:
    """The right answer to one of TEXTS."""
    entity = " ".join(text.split()[:2])
    return json.dumps({"entity": entity, "relations": [[entity, "near", "the wall"]]})


def listing(folder: Path, texts: list[str]) -> Path:
    file = folder / "mine.jsonl"
    rows = [{"image": "a.jpg", "sent": text, "split": "train"} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command(llm: str, file: Path, store: Path, *more: str) -> list[str]:
    words = ["phrases", "--task", "triplets", "--llm", llm, "--input", str(file), "--store", str(store)]
    return [*words, "--concurrency", "2", *more]


def rows_of(store: Path) -> list[dict[str, Any]]:
    rows = open_store(store).stage("triplets").reader().read().to_pylist()
    return sorted(rows, key=lambda row: row["row_id"])


@pytest.mark.slow
def test_a_killed_run_asks_nothing_again_and_equal_texts_keep_their_rows(tmp_path: Path) -> None:
    """Three of four lines repeat an earlier text, in other letters: all of them have a row in the end."""
    texts = [form for text in TEXTS for form in (text, text.upper(), f" {text}", text)]
    file = listing(tmp_path, texts)

    def behave(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.02)
        return 200, said(answer(asked(body)))

    with Endpoint(behave) as endpoint:
        started = [sys.executable, "-m", "prep", *command(endpoint.llm, file, tmp_path / "store")]
        killed = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list((tmp_path / "store").rglob("cache/**/part-*.parquet")):
            assert killed.poll() is None, "the run was over before it could be killed"
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        before = Counter(map(asked, endpoint.seen))
        fingerprint = _fingerprint(tmp_path / "store")
        cache = AnswerCache(tmp_path / "store" / "cache", ANSWER_STAGE, fingerprint, ANSWERS)
        kept = len(cache)
        assert 0 < kept < len(TEXTS)
        assert cli.prep_app(command(endpoint.llm, file, tmp_path / "store"), standalone_mode=False) is None
        again = Counter(map(asked, endpoint.seen)) - before
        assert sum(again.values()) == len(TEXTS) - kept
        cli.prep_app(command(endpoint.llm, file, tmp_path / "whole"), standalone_mode=False)
        total = len(endpoint.seen)
        cli.prep_app(command(endpoint.llm, file, tmp_path / "store", "--replace"), standalone_mode=False)
        assert len(endpoint.seen) == total
    rows = rows_of(tmp_path / "store")
    assert rows == rows_of(tmp_path / "whole")
    assert Counter(row["expression"] for row in rows) == Counter(texts)
    assert {row["source"] for row in rows} == {"llm"}
    assert {row["entity"] for row in rows} == {" ".join(text.split()[:2]) for text in TEXTS}
    assert verify(open_store(tmp_path / "store")).ok


def _fingerprint(store: Path) -> str:
    """The fingerprint of the only settings whose answers are in a store's cache."""
    (folder,) = (store / "cache" / ANSWER_STAGE).iterdir()
    return folder.name


def test_a_bad_answer_is_asked_again_under_the_schema_and_then_left_to_the_rules(tmp_path: Path) -> None:
    texts = ["red dog near the wall", "blue cup near the wall", "lol"]

    def behave(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        second = len(body["messages"]) == 3
        right = second and "dog" in asked(body)
        return 200, said(
            answer(asked(body)) if right else '{"entity": "cat", "relations": [["cat", "", ""]]}'
        )

    with Endpoint(behave) as endpoint:
        cli.prep_app(
            command(endpoint.llm, listing(tmp_path, texts), tmp_path / "store", "--keep-raw"),
            standalone_mode=False,
        )
        forms = [body.get("response_format") for body in endpoint.seen]
        schemas = [form["json_schema"]["schema"] for form in forms if form]
    assert schemas == [OBJECT_SCHEMA] * 3
    rows = {row["expression"]: row for row in rows_of(tmp_path / "store")}
    assert [rows[text]["source"] for text in texts] == ["retry", "rules", "expression"]
    assert [len(json.loads(rows[text]["raw"])) for text in texts] == [2, 2, 2]
    for text in texts:
        row, expected = rows[text], settle(text, json.loads(rows[text]["raw"]))
        assert row["entity"] == expected.entity
        assert [tuple(one.values()) for one in row["relations"]] == list(expected.relations)
        assert row["prompt_version"] == "triplets-1"


@pytest.mark.slow
@pytest.mark.timeout(560)
def test_a_model_in_vllm_is_asked_for_triplets(random_mistral: Path, tmp_path: Path) -> None:
    """Random weights: no answer is right, and the retry has the schema's form."""
    from prep.phrases.engines.vllm import VllmStage
    from prep.phrases.engines.vllm_boot import VllmOptions

    items = [
        Expression(f"{n:032x}", "toy", "", "train", n, n, n, None, text)
        for n, text in enumerate([*TEXTS[:6], TEXTS[0], ""])
    ]
    options = VllmOptions(dtype="float32", max_model_len=4096)
    stage = VllmStage(
        resolve(str(random_mistral)), load_prompt(TRIPLETS.prompt), options=options, task=TRIPLETS
    )
    place = open_store(tmp_path, create=True).stage("triplets")
    with place.writer(stage.settings()) as writer, Engine(stage) as engine:
        summary = run_llm(items, engine=engine, writer=writer, cache=tmp_path / "cache", keep_raw=True)
    stage.close()
    assert summary.extra["report"]["engine"]["asked"] == 6
    assert (summary.done, summary.failed) == (8, 1)
    for row in rows_of(tmp_path):
        if row["expression"]:
            assert json.loads(row["raw"])[1].lstrip().startswith('{"entity"')
            assert (row["source"], [one["source"] for one in row["rejected"]]) == ("rules", ["llm", "retry"])
            assert row["entity"] == "the " + " ".join(row["expression"].split()[:2])
