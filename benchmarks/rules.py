"""Compares the rules with two baselines, accuracy and speed: python benchmarks/rules.py [EXPRESSIONS.jsonl].

On the gold set: accuracy of the head, F1 of the cues, and coverage of the expression by the phrases. On real
expressions, if a JSONL file with ``sent`` and ``dataset`` is given or is next to the checkout: the rate of
each violation per dataset, and expressions per second of the whole stage on one core.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prep.phrases.checks import CHECKS, reading, violations
from prep.phrases.clip_tokens import count_tokens
from prep.phrases.rules.decompose import break_up
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import guess, stem
from prep.phrases.stage import RulesStage
from prep.records import Expression

ROOT = Path(__file__).resolve().parents[1]
GOLD = ROOT / "tests" / "prep" / "phrases" / "rules" / "gold.jsonl"
REAL = ROOT.parent / "shared" / "data" / "expressions.jsonl"

# Words without content. All others count, so that the score is independent of the rules' word classes.
_STOP = {
    *(
        "a",
        "an",
        "the",
        "this",
        "that",
        "which",
        "who",
        "whose",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "it",
    ),
    *("there", "of", "to", "in", "on", "at", "and", "or", "by", "from", "for", "with", "her", "his", "its"),
    *("object", "one", "please", "sorry", "thanks", "lol", "ok", "haha"),
}
_PREPOSITION = re.compile(
    r"\s+(?=(?:with|in|on|at|near|next|behind|beside|under|above|between|by|of|from|to|inside|over)\b)"
)

Decomposer = Callable[[str], Sequence[str]]


def content(text: str) -> frozenset[str]:
    """The lemmas of the content words of ``text``."""
    words = re.findall(r"[^\W_]+", text.lower().replace("'s", ""))
    return frozenset(stem(word) for word in words if word not in _STOP)


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


def main() -> None:
    print_gold(load(GOLD))
    real = Path(sys.argv[1]) if len(sys.argv) > 1 else REAL
    if not real.is_file():
        print(f"\n{real} is missing: real expressions are skipped")
        return
    rows = load(real)
    print_speed(rows)
    print_violations(rows)


if __name__ == "__main__":
    main()
