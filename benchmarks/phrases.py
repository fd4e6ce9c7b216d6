"""Compares the phrases stage with plain ``LLM.generate``, and times the rules: python -m benchmarks.phrases.

``engine`` trains a tiny Mistral on some expressions and runs it both ways in one vLLM engine, alternating,
on the same prompts: all distinct, and with the repeats of real RefCOCO expressions if they are next to the
checkout. ``rules --rows N`` writes N expressions to a store, runs again with nothing to do, and prints the
peak memory. ``gpu`` measures a model of Mistral-7B's size with dummy weights on a GPU, ours vs. plain, under
several settings. Ratios are comparable across machines; rates are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "expressions.jsonl"
sys.path.insert(0, str(ROOT))

# One H200 in bf16 with a prefix cache, 15 question tokens and 30 response tokens per expression.
ROOFLINE = 832.0
# Characters that the prompt drops but the content key keeps: distinct keys for the same prompt.
MARKS = ("<", ">", "[", "]", "{", "}", "|", "\\")

MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def expressions(texts: Sequence[str]) -> list[Any]:
    from prep.records import Expression

    return [
        Expression(f"{n:032x}", "bench", "none", "train", n, n, n, f"{n % 20000}.jpg", text)
        for n, text in enumerate(texts)
    ]


def distinct(number: int) -> list[str]:
    """``number`` texts with distinct keys that the trained model answers correctly."""
    from tests.prep.phrases.tiny import LESSONS

    lessons = list(LESSONS)
    texts = []
    for n in range(number):
        mark, rest = "", n // len(lessons)
        while rest:
            mark, rest = mark + MARKS[rest % len(MARKS)], rest // len(MARKS)
        texts.append(f"{lessons[n % len(lessons)]} {mark}".strip())
    return texts


def with_real_repeats(number: int) -> list[str] | None:
    """About ``number`` texts that repeat as RefCOCO's do, in the same order; None without RefCOCO.

    A fraction of the distinct expressions is sampled by hash with all their occurrences, so that the share of
    repeats is that of the whole dataset.
    """
    from prep.cache.keys import normalise_text

    if not REAL.is_file():
        return None
    lines = map(json.loads, REAL.read_text("utf-8").splitlines())
    sents = [normalise_text(line["sent"]) for line in lines if line.get("dataset") == "refcoco"]
    every = max(1, round(len(sents) / number))
    ranks: dict[str, int] = {}
    kept = [sent for sent in sents if zlib.crc32(sent.encode()) % every == 0]
    for sent in kept:
        ranks.setdefault(sent, len(ranks))
    words = distinct(len(ranks))
    return [words[ranks[sent]] for sent in kept]


def ours(stage: Any, texts: Sequence[str], unit: int) -> tuple[float, dict[str, Any]]:
    """Seconds of a whole run with an empty store, and its report."""
    from prep.cache.store import open_store
    from prep.engine.local import Engine
    from prep.phrases.job import run_llm

    with tempfile.TemporaryDirectory() as folder:
        items = expressions(texts)
        started = time.perf_counter()
        with open_store(folder, create=True).stage("phrases").writer(stage.settings()) as writer:
            engine, cache = Engine(stage), Path(folder) / "cache"
            summary = run_llm(items, engine=engine, writer=writer, cache=cache, unit_size=unit)
        seconds = time.perf_counter() - started
    return seconds, summary.extra["report"]


def plain(stage: Any, texts: Sequence[str]) -> float:
    """Seconds of one ``LLM.generate`` on the same prompts in the same engine, from text to text."""
    from vllm import SamplingParams

    engine = stage.engine
    parameters = SamplingParams(temperature=0.0, max_tokens=stage.sampling.max_tokens)
    started = time.perf_counter()
    prompts = [{"prompt_token_ids": ids} for ids in engine.chat.questions(texts)]
    engine.llm.generate(prompts, parameters, use_tqdm=False)
    return time.perf_counter() - started


def side_by_side(stage: Any, name: str, texts: Sequence[str], unit: int, rounds: int) -> tuple[float, float]:
    """Print both rates and their ratio, the best of ``rounds`` alternating runs each; our seconds, ratio."""
    ours(stage, texts[:200], unit)
    plain(stage, texts[:200])
    pairs = [(ours(stage, texts, unit), plain(stage, texts)) for _ in range(rounds)]
    (mine, report), other = min((pair[0] for pair in pairs), key=lambda p: p[0]), min(p[1] for p in pairs)
    engine = report["engine"]
    print(
        f"{name}: {len(texts)} expressions, {engine['asked']} requests, {engine['retried']} retries, "
        f"prefix cache {engine['prefix_cache_hit_rate']:.1%}\n"
        f"  ours {len(texts) / mine:,.0f}/s   LLM.generate {len(texts) / other:,.0f}/s   "
        f"ratio {other / mine:.2f}   (rounds: "
        f"{', '.join(f'{plainly / own:.2f}' for (own, _), plainly in pairs)})\n"
        f"  seconds per step {report['seconds']}",
        flush=True,
    )
    return mine, other / mine


def engine(arguments: argparse.Namespace) -> None:
    from tests.prep.phrases.tiny import taught_model, vllm_stage

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(arguments.model or folder)
        if arguments.model is None:
            taught_model(model)
        stage = vllm_stage(model)
        stage.open()
        side_by_side(stage, "distinct", distinct(arguments.rows), arguments.unit, arguments.rounds)
        repeated = with_real_repeats(arguments.rows)
        if repeated is None:
            print("RefCOCO's repeats: skipped, no real expressions next to the checkout")
        else:
            side_by_side(stage, "RefCOCO's repeats", repeated, arguments.unit, arguments.rounds)
        stage.close()


def rules(arguments: argparse.Namespace) -> None:
    from prep.cache.store import open_store
    from prep.phrases.rules_job import run_rules
    from prep.phrases.stage import rules_settings

    texts = _many(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        stage = open_store(folder, create=True).stage("phrases")
        for name in ("first run", "second run"):
            with stage.writer(rules_settings()) as writer:
                started, busy = time.perf_counter(), time.process_time()
                chosen = {"rows": arguments.rows}
                summary = run_rules(_streamed(texts, arguments.rows), writer=writer, selection=chosen)
                seconds, busy = time.perf_counter() - started, time.process_time() - busy
            rates = f", {summary.done / seconds:,.0f}/s, {summary.done / busy:,.0f} per second of CPU time"
            rate = rates if summary.done else ""
            print(f"rules, {name}: {summary.total} expressions, {summary.done} done in {seconds:.2f} s{rate}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB for {arguments.rows} expressions")


def _many(number: int) -> list[str]:
    """Real expressions if available, else at most 20,000 composed ones."""
    if REAL.is_file():
        return [str(json.loads(line)["sent"]) for line in REAL.read_text("utf-8").splitlines()]
    draw = random.Random(0)
    colours, things = (
        ["red", "blue", "green", "small", "tall"],
        ["woman", "man", "dog", "car", "cup", "chair"],
    )
    places = ["on the left", "near the window", "behind the table", "second from the right", "in the back"]
    return [
        f"{draw.choice(colours)} {draw.choice(things)} {draw.choice(places)} {draw.randrange(9)}"
        for _ in range(min(number, 20_000))
    ]


def _streamed(texts: Sequence[str], number: int) -> Iterator[Any]:
    from prep.records import Expression

    for n in range(number):
        yield Expression(
            f"{n:032x}", "bench", "none", "train", n, n, n, f"{n % 20000}.jpg", texts[n % len(texts)]
        )


def gpu(arguments: argparse.Namespace) -> None:
    """Measure every setting in its own engine; responses end at 30 tokens, without retries."""
    import torch

    from prep.phrases.engines.base import Sampling
    from prep.phrases.engines.vllm import VllmStage
    from prep.phrases.engines.vllm_boot import VllmOptions
    from prep.phrases.models import Model
    from prep.phrases.prompt import load_prompt
    from tests.prep.phrases.tiny import make_tokenizer

    base: dict[str, Any] = {"load_format": "dummy", "dtype": "bfloat16", "retry": False}
    settings: dict[str, dict[str, Any]] = {
        "default": {},
        "no prefix cache": {"prefix_caching": False},
        "256 sequences": {"max_num_seqs": 256},
        "512 sequences": {"max_num_seqs": 512},
        "1,536 sequences": {"max_num_seqs": 1536},
        "8,192 tokens per step": {"max_num_batched_tokens": 8192},
        "32,768 tokens per step": {"max_num_batched_tokens": 32768},
        "fp8": {"quantization": "fp8"},
        "no async scheduling": {"extra": (("async_scheduling", False),)},
        "cascade attention": {"extra": (("disable_cascade_attn", False),)},
    }
    wanted = arguments.settings or list(settings)
    print(f"{torch.cuda.get_device_name(0)}; roofline of one H200 in bf16: {ROOFLINE:.0f}/s")
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(Path(folder), size=4000)
        (Path(folder) / "config.json").write_text(json.dumps(MISTRAL_7B))
        words = sorted({text for text in _many(arguments.rows) if text.strip()})
        texts = [f"{words[n % len(words)]} {n // len(words) or ''}".strip() for n in range(arguments.rows)]
        for name in wanted:
            options = VllmOptions(**{**base, **settings[name]})
            model = Model("vllm", "dummy-mistral-7b", folder, "sha256:dummy")
            stage = VllmStage(model, load_prompt(), Sampling(max_tokens=30), options)
            stage.open()
            best, _ = side_by_side(stage, name, texts, arguments.unit, arguments.rounds)
            print(f"  fraction of the roofline {arguments.rows / best / ROOFLINE:.0%}", flush=True)
            stage.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    for function, rows, unit in ((engine, 3000, 1024), (rules, 380_000, 0), (gpu, 20_000, 2048)):
        command = commands.add_parser(function.__name__)
        command.add_argument("--rows", type=int, default=rows, help="expressions")
        if unit:
            command.add_argument("--unit", type=int, default=unit, help="expressions per unit")
            command.add_argument("--rounds", type=int, default=3, help="runs of each side; the best counts")
        command.set_defaults(run=function)
    commands.choices["engine"].add_argument("--model", help="model folder made by tests/prep/phrases/tiny.py")
    commands.choices["gpu"].add_argument("--settings", nargs="*", help="only these settings")
    arguments = parser.parse_args(sys.argv[1:] or ["engine"])
    arguments.run(arguments)


if __name__ == "__main__":
    main()
