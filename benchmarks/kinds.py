"""Prints what becomes of expressions by dataset and by kind: python -m benchmarks.kinds [EXPRESSIONS.jsonl].

For the rules: the share of expressions whose phrases pass every check, and of those stored whole because the
rules find no phrase; then the same for triplets (``--task triplets``). For a model's stored responses
(``--answers``, rows of ``expression``, ``answer`` and ``retry``): the share that is valid as it was,
repaired, valid on retry, and replaced by the rules.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.labels import ANSWERS, EXPRESSIONS
from benchmarks.rules import load
from prep.phrases.checks import reading
from prep.phrases.fallback import settle
from prep.phrases.tasks import TASKS, Result

DATASETS = ("refcoco", "refcoco+", "refcocog", "grefcoco", "refclef", "refcocos")

# By words, apart from the first: a kind then does not depend on the rules, which are what is judged.
_SENTENCES = re.compile(r"[.!?;]\s+\w").search
_RELATION = re.compile(
    r"\b(of|behind|near|nearest|next|beside|by|under|above|below|between|against|over|closest|front) ", re.I
).search
_ORDINAL = re.compile(
    r"\b(first|second|third|fourth|fifth|sixth|last|1st|2nd|3rd|[4-9]th|\w+most)\b", re.I
).search
_NEGATION = re.compile(r"\b(not?|without|never|isn'?t|doesn'?t|don'?t|aren'?t|except)\b", re.I).search

KINDS: dict[str, Callable[[str], object]] = {
    "no head noun (by the rules)": lambda text: not reading(text).target,
    "several sentences": _SENTENCES,
    "relation": _RELATION,
    "ordinal": _ORDINAL,
    "negation": _NEGATION,
}


def groups(dataset: str, text: str) -> list[str]:
    """The lines of the table that an expression counts in: its dataset, its kinds and the total."""
    return [dataset, *(name for name, has in KINDS.items() if has(text)), "all"]


def print_table(title: str, levels: tuple[str, ...], rows: Iterable[tuple[str, str, Result]]) -> None:
    """Shares by group; ``rows`` are dataset, expression and what is stored for it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for dataset, text, found in rows:
        for group in groups(dataset, text):
            counts[group].update({"n": 1, "valid": not found.violations, found.source: 1})
    print(f"\n{title}\n{'':30}{'n':>8}{'valid':>9}" + "".join(f"{level:>12}" for level in levels))
    for group in (*DATASETS, *KINDS, "all"):
        if n := counts[group]["n"]:
            shares = "".join(f"{counts[group][level] / n:12.1%}" for level in levels)
            print(f"{group:30}{n:8}{counts[group]['valid'] / n:9.2%}{shares}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("expressions", nargs="?", type=Path, default=EXPRESSIONS)
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="a model's responses, JSONL")
    options = parser.parse_args()
    rows = load(options.expressions)
    for name, task in TASKS.items():
        print_table(
            f"Rules, {name}",
            ("rules", "expression"),
            ((row["dataset"], row["sent"], task.settle(row["sent"], [])) for row in rows),
        )
    if not options.answers.is_file():
        print(f"\n{options.answers} is missing: a model's responses are skipped")
        return
    # The responses do not name a dataset: it is that of the first expression with the same text.
    known = {row["sent"]: row["dataset"] for row in reversed(rows)}
    print_table(
        f"Responses in {options.answers.name}",
        ("llm", "repaired", "retry", "rules", "expression"),
        (
            (
                known.get(row["expression"], "unknown"),
                row["expression"],
                settle(row["expression"], [raw for raw in (row["answer"], row["retry"]) if raw is not None]),
            )
            for row in load(options.answers)
        ),
    )


if __name__ == "__main__":
    main()
