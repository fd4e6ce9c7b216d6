"""Compares the rules with two baselines: python -m benchmarks.rules [EXPRESSIONS.jsonl] [--before REVISION].

On the gold set: accuracy of the head, F1 of the cues, and coverage of the expression by the phrases. On real
expressions, if a JSONL file with ``sent`` and ``dataset`` is given or is next to the checkout: the same for
those that are labelled, the judgement of a model's labelled answers, the rate of each violation per dataset,
and expressions per second of the whole stage on one core, with ``--before`` beside those of a revision of
this repository, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.labels import (
    ANSWER_LABELS,
    ANSWERS,
    EXPRESSIONS,
    GOLD_REAL,
    LABELS,
    ROOT,
    best,
    content,
    decoded,
    is_right,
    labelled,
)
from prep.phrases.checks import CHECKS, reading, violations
from prep.phrases.clip_tokens import count_tokens
from prep.phrases.fallback import settle
from prep.phrases.parse import parse
from prep.phrases.rules.decompose import break_up
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import guess, stem
from prep.phrases.stage import RulesStage
from prep.records import Expression

GOLD = LABELS / "rules" / "gold.jsonl"

_PREPOSITION = re.compile(
    r"\s+(?=(?:with|in|on|at|near|next|behind|beside|under|above|between|by|of|from|to|inside|over)\b)"
)

Decomposer = Callable[[str], Sequence[str]]


def whole(text: str) -> tuple[str, ...]:
    """Baseline: the whole expression as the only phrase."""
    return (text,)


def at_prepositions(text: str) -> tuple[str, ...]:
    """Baseline: the text before the first preposition, alone and with each prepositional phrase."""
    first, *rest = _PREPOSITION.split(text)
    return (first, *(f"{first} {part}" for part in rest))[:5]


def score(gold: Sequence[dict[str, Any]], decompose: Decomposer) -> dict[str, float]:
    """Scores in [0, 1] on a gold set.

    ``head``: the first phrase has exactly the content of the gold head. ``cues``: F1 of the additional
    content of the later phrases against the gold cues. ``exact``: the head and all cues are correct.
    ``coverage``: share of the content words that occur in a phrase.
    """
    heads = exact = right = said = wanted = covered = there = 0
    for entry in gold:
        phrases = decompose(entry["text"])
        head = content(entry["head"])
        cues = Counter(content(cue) - head or content(cue) for cue in entry["cues"])
        found = Counter(content(phrase) - content(phrases[0]) for phrase in phrases[1:])
        same = sum((cues & found).values())
        named = content(phrases[0]) == head
        heads += named
        exact += named and cues == found
        right, said, wanted = right + same, said + found.total(), wanted + cues.total()
        union = frozenset().union(*map(content, phrases))
        covered, there = covered + len(content(entry["text"]) & union), there + len(content(entry["text"]))
    f1 = 2 * right / (said + wanted) if said + wanted else 1.0
    return {"head": heads / len(gold), "cues": f1, "exact": exact / len(gold), "coverage": covered / there}


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


DECOMPOSERS: dict[str, Decomposer] = {
    "rules": break_up,
    "expression alone": whole,
    "split at prepositions": at_prepositions,
}


def print_gold(gold: list[dict[str, Any]]) -> None:
    for part in ("tuned", "seen", "held"):
        rows = [entry for entry in gold if entry["part"] == part]
        print(f"\nGold set, {part}: {len(rows)} expressions")
        print(f"{'':24}{'head':>8}{'cues F1':>9}{'exact':>8}{'coverage':>10}")
        for name, decompose in DECOMPOSERS.items():
            s = score(rows, decompose)
            print(f"{name:24}{s['head']:8.1%}{s['cues']:9.1%}{s['exact']:8.1%}{s['coverage']:10.1%}")
    print(f"\nRules by type of expression, all parts\n{'':24}{'n':>8}{'head':>9}{'cues F1':>8}{'exact':>10}")
    for kind in dict.fromkeys(entry["kind"] for entry in gold):
        rows = [entry for entry in gold if entry["kind"] == kind]
        s = score(rows, break_up)
        print(f"{kind:24}{len(rows):8}{s['head']:9.0%}{s['cues']:8.0%}{s['exact']:10.0%}")


def print_labelled(texts: list[str]) -> None:
    """The rules on real expressions labelled by reading; the errors in ``held`` were never looked at.

    ``fresh`` is a later draw, whose errors were looked at once its first score was printed.
    """
    print("\nLabelled real expressions")
    print(f"{'':24}{'n':>8}{'head':>8}{'cues F1':>9}{'exact':>8}{'grounded':>10}")
    for part in ("work", "held", "fresh"):
        scores, grounded = [], 0
        for label, text in labelled(GOLD_REAL, texts):
            if label["part"] == part:
                phrases = break_up(text)
                scores.append(best(phrases, decoded(text, label["readings"])))
                grounded += CHECKS["not_extractive"](text, phrases)
        n, heads = len(scores), sum(named for named, *_ in scores)
        right, said, wanted = (sum(column) for column in list(zip(*scores, strict=True))[1:])
        exact = sum(named and r == s == w for named, r, s, w in scores)
        f1 = 2 * right / (said + wanted)
        print(f"{part:24}{n:8}{heads / n:8.1%}{f1:9.1%}{exact / n:8.1%}{grounded / n:10.1%}")


def print_answers(answers: list[dict[str, Any]]) -> None:
    """What becomes of a model's answers that were labelled by reading."""
    count: Counter[str] = Counter()
    for label, text in labelled(ANSWER_LABELS, [answer["expression"] for answer in answers]):
        answer, good = answers[label["row"]], label["verdict"] == "accept"
        found = settle(text, [raw for raw in (answer["answer"], answer["retry"]) if raw is not None])
        valid = not violations(text, parse(answer["answer"]))
        count.update({"good": good, "false rejections": good and not valid})
        count.update({"bad": not good, "false acceptances": valid and not good})
        count.update({"kept": found.source in ("llm", "repaired", "retry"), found.source: 1})
        count["right"] += is_right(found.phrases, decoded(text, label["readings"]))
    n = len(answers)
    print(f"\nLabelled answers of a model: {n}")
    print(f"false rejections {count['false rejections']} of {count['good']} that are right as they are")
    print(f"false acceptances {count['false acceptances']} of {count['bad']} that are not")
    print(
        f"kept {count['kept'] / n:.1%} (as they were {count['llm']}, repaired {count['repaired']}), ", end=""
    )
    print(f"rules {count['rules']}; stored phrases right {count['right'] / n:.1%}")


def print_violations(rows: list[dict[str, Any]]) -> None:
    texts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        texts[row["dataset"]].append(row["sent"])
    for name, decompose in DECOMPOSERS.items():
        print(f"\nViolations on real expressions: {name}")
        print(f"{'':18}" + "".join(f"{dataset:>10}" for dataset in texts))
        counts = {dataset: Counter[str]() for dataset in texts}
        for dataset, sentences in texts.items():
            for text in sentences:
                failed = violations(text, tuple(decompose(text)))
                counts[dataset].update(failed or ("none",))
        print(f"{'expressions':18}" + "".join(f"{len(sentences):10}" for sentences in texts.values()))
        for check in ("none", *CHECKS):
            shares = [counts[dataset][check] / len(texts[dataset]) for dataset in texts]
            if any(shares):
                print(f"{check:18}" + "".join(f"{share:10.2%}" for share in shares))


def forget() -> None:
    """Clear the caches of the rules and checks."""
    for cache in (reading, analyse, count_tokens, guess, stem, read):
        cache.cache_clear()


def stage_seconds(items: list[Expression]) -> float:
    """CPU seconds of a new stage for all ``items``."""
    forget()
    stage = RulesStage()
    start = time.process_time()
    for i in range(0, len(items), 2048):
        stage.process(stage.load(items[i : i + 2048]))
    return time.process_time() - start


def print_speed(rows: list[dict[str, Any]]) -> None:
    stage = RulesStage()
    stage.open()
    items = [
        Expression(str(i), row["dataset"], "", "", None, None, None, None, row["sent"])
        for i, row in enumerate(rows)
    ]
    stage.process(items[:1])
    count_tokens("the first call reads CLIP's vocabulary and loads ftfy: \u00e9")
    print("\nSpeed of the whole stage (rules, checks, keys, Arrow rows) on one core")
    print(f"{'':18}{'rows':>10}{'rows/s':>10}")
    for dataset in ("all", *dict.fromkeys(item.dataset for item in items)):
        chosen = [item for item in items if dataset in ("all", item.dataset)]
        if len(chosen) < 1000:
            continue
        # The best of five with empty caches: other work on the machine can only slow it down.
        seconds = min(stage_seconds(chosen) for _ in range(5))
        print(f"{dataset:18}{len(chosen):10}{len(chosen) / seconds:10.0f}")
    print("\nWithout the stage: each distinct text decomposed and checked once")
    texts = list(dict.fromkeys(item.text for item in items))
    rates = {}
    for name, decompose in DECOMPOSERS.items():
        forget()
        start = time.process_time()
        for text in texts:
            violations(text, tuple(decompose(text)))
        rates[name] = len(texts) / (time.process_time() - start)
        print(f"{name:24}{rates[name]:10.0f} /s{rates[name] / rates['rules']:8.2f}x the rules")


def print_speed_beside(real: Path, revision: str) -> None:
    """Rows per second of the stage now and at ``revision``: three processes each, the best counts."""
    rates: dict[str, list[tuple[float, ...]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, capture_output=True, check=True
        ).stdout
        archive = Path(folder) / "tree.tar"
        archive.write_bytes(packed)
        with tarfile.open(archive) as tree:
            tree.extractall(folder, filter="data")
        for _ in range(3):
            for name, place in (("before", folder), ("now", str(ROOT))):
                command = [sys.executable, "-c", _MEASURE, str(real)]
                told = subprocess.check_output(command, cwd=place, env={**os.environ, "PYTHONPATH": place})
                rates[name].append(tuple(map(float, told.split())))
    print(f"\nRows/s of the whole stage, now and at {revision}: all, refcocog")
    for name, measured in rates.items():
        print(f"{name:10}" + "".join(f"{max(column):10.0f}" for column in zip(*measured, strict=True)))


# Runs in a checkout of any version, so it uses only what all have.
_MEASURE = """
import json, sys
from benchmarks.rules import Expression, RulesStage, count_tokens, stage_seconds
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
items = [Expression(str(i), r["dataset"], "", "", *[None] * 4, r["sent"]) for i, r in enumerate(rows)]
RulesStage().process(items[:1]), count_tokens("\\u00e9")
for chosen in (items, [item for item in items if item.dataset == "refcocog"]):
    print(len(chosen) / min(stage_seconds(chosen) for _ in range(3)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("expressions", nargs="?", type=Path, default=EXPRESSIONS)
    parser.add_argument("--before", metavar="REVISION", help="measure the speed of this revision too")
    options = parser.parse_args()
    print_gold(load(GOLD))
    if not options.expressions.is_file():
        print(f"\n{options.expressions} is missing: real expressions are skipped")
        return
    rows = load(options.expressions)
    if options.expressions == EXPRESSIONS:
        print_labelled([row["sent"] for row in rows])
        print_answers(load(ANSWERS))
    if options.before:
        print_speed_beside(options.expressions, options.before)
    print_speed(rows)
    print_violations(rows)


if __name__ == "__main__":
    main()
