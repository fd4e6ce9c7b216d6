"""Compares ways to ask a model again: python -m benchmarks.retries --llm MODEL [--save FILE].

Every expression is asked once. Those whose response fails a check and cannot be repaired are asked again in
three ways: ``words``, the second turn that says what is wrong, under a JSON schema; ``grammar``, the first
question again under a grammar of the expression's own words; and ``both``. Prints, for all expressions, the
level they are stored from and the share of stored phrases that are right; for those from a second response,
how many have the very phrases of the rules, and how many are right where the rules are wrong (better) and the
other way round (worse); the share of the second prompts from the prefix cache, and seconds (only comparable
with each other). The expressions are the real ones that are labelled for work; ``--save`` writes the
responses of each way to FILE-<way>.jsonl, for ``python -m benchmarks.kinds --answers``.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.labels import GOLD_REAL, Row, decoded, is_right, labelled, load_expressions
from prep.phrases.checks import MAX_PHRASES, reading
from prep.phrases.engines.base import whole_lines
from prep.phrases.engines.vllm import VllmStage
from prep.phrases.engines.vllm_boot import VllmOptions
from prep.phrases.fallback import needs_retry, settle
from prep.phrases.models import resolve
from prep.phrases.prompt import ANSWER_SCHEMA, load_prompt, quotable
from prep.phrases.rules.decompose import break_up
from prep.records import PhraseSet

MAX_WORDS = 12  # of a line, as the prompt says
LEVELS = ("llm", "repaired", "retry", "retry repaired", "rules", "expression")

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


class Said(NamedTuple):
    """A response, and its tokens: of the prompt, of those from the prefix cache."""

    text: str
    prompt: int
    cached: int


def right(text: str, label: Row, phrases: Sequence[str]) -> bool:
    """Whether stored phrases are one of the label's readings."""
    return is_right(phrases, decoded(text, label["readings"]))


def grammar(text: str, *, as_json: bool) -> str:
    """One to five lines, or a JSON list, of "the" and the words of ``text``; in EBNF.

    "object" is among them where the rules find no noun: a weak model says little else where it may.
    """
    own = [*_WORD.findall(quotable(text)), "the", *([] if reading(text).target else ["object"])]
    words = list(dict.fromkeys(own))
    rules = [
        "word ::= " + " | ".join(json.dumps(word, ensure_ascii=False) for word in words),
        f'phrase ::= word (" " word){{0,{MAX_WORDS - 1}}}',
    ]
    if as_json:
        rules.append(f'root ::= "[" item ("," item){{0,{MAX_PHRASES - 1}}} "]"')
        rules.append('item ::= "\\"" phrase "\\""')
    else:
        rules.append(f'root ::= phrase ("\\n" phrase){{0,{MAX_PHRASES - 1}}}')
    return "\n".join(rules)


def ask(stage: VllmStage, prompts: list[list[int]], forms: Sequence[Any] | None = None) -> list[Said]:
    """The responses to prompts, each under its own structured output, if any."""
    from vllm import SamplingParams

    common = {"temperature": 0.0, "max_tokens": stage.sampling.max_tokens}
    parameters = [
        SamplingParams(**common, structured_outputs=form) for form in forms or [None] * len(prompts)
    ]
    tokens = [{"prompt_token_ids": ids} for ids in prompts]
    said = []
    for ids, output in zip(
        prompts, stage.engine.llm.generate(tokens, parameters, use_tqdm=False), strict=True
    ):
        found = output.outputs[0]
        text = whole_lines(found.text, str(found.finish_reason))
        said.append(Said(text, len(ids), output.num_cached_tokens or 0))
    return said


def ways(stage: VllmStage, texts: Sequence[str], firsts: Sequence[str]) -> dict[str, Any]:
    """The prompts of each way, and the structured output of each prompt."""
    from vllm.sampling_params import StructuredOutputsParams

    chat = stage.engine.chat
    again, same = chat.retries(texts, firsts), chat.questions(texts)

    def own_words(*, as_json: bool) -> list[Any]:
        return [StructuredOutputsParams(grammar=grammar(text, as_json=as_json)) for text in texts]

    schema = StructuredOutputsParams(json=ANSWER_SCHEMA, disable_any_whitespace=True)
    return {
        "words": (again, [schema] * len(texts)),
        "grammar": (same, own_words(as_json=False)),
        "both": (again, own_words(as_json=True)),
    }


def level(found: PhraseSet) -> str:
    """The level that an expression is stored from, the two repairs apart."""
    late = found.source == "repaired" and len(found.rejected) > 1
    return "retry repaired" if late else found.source


def save(path: Path, texts: Sequence[str], raws: Sequence[list[str]]) -> None:
    """Write the responses of one way as rows of ``expression``, ``answer`` and ``retry``."""
    rows = [
        {"expression": text, "answer": own[0], "retry": own[1] if len(own) > 1 else None}
        for text, own in zip(texts, raws, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def print_way(
    name: str,
    texts: Sequence[str],
    labels: Sequence[Row],
    raws: Sequence[list[str]],
    cached: float,
    seconds: float,
) -> None:
    """One line of the table: what is stored of all expressions, given the responses of one way."""
    stored = list(map(settle, texts, raws))
    rules = list(map(break_up, texts))
    good = [right(*one) for one in zip(texts, labels, [one.phrases for one in stored], strict=True)]
    by_rules = [right(*one) for one in zip(texts, labels, rules, strict=True)]
    late = [at for at, one in enumerate(stored) if level(one) in ("retry", "retry repaired")]
    counts = (
        sum(set(stored[at].phrases) == set(rules[at]) for at in late),
        sum(good[at] and not by_rules[at] for at in late),
        sum(by_rules[at] and not good[at] for at in late),
    )
    levels = Counter(map(level, stored))
    shares = "".join(f"{levels[at] / len(texts):16.1%}" for at in LEVELS)
    against = "".join(f"{number:9}" for number in counts)
    print(f"{name:10}{shares}{sum(good) / len(texts):9.1%}{against}{cached:9.1%}{seconds:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", required=True, help="a model folder, a GGUF file or a Hugging Face ID")
    parser.add_argument("--save", type=Path, help="write each way's responses to SAVE-<way>.jsonl")
    options = parser.parse_args()
    found = labelled(GOLD_REAL, [row["sent"] for row in load_expressions()])
    labels, texts = zip(*((label, text) for label, text in found if label["part"] == "work"), strict=True)
    stage = VllmStage(resolve(options.llm), load_prompt(), options=VllmOptions(dtype="float32"))
    stage.open()
    firsts = ask(stage, stage.engine.chat.questions(texts))
    raws = [[said.text] for said in firsts]
    failed = [at for at, text in enumerate(texts) if needs_retry(text, firsts[at].text)]
    print(f"{stage.model.name}: {len(texts)} real expressions, {len(failed)} asked again")
    columns = ("right", "as rules", "better", "worse", "cached", "seconds")
    print(f"{'':10}" + "".join(f"{at:>16}" for at in LEVELS) + "".join(f"{at:>9}" for at in columns))
    chosen = [texts[at] for at in failed]
    for name, (prompts, forms) in ways(stage, chosen, [firsts[at].text for at in failed]).items():
        stage.engine.llm.reset_prefix_cache()
        ask(stage, stage.engine.chat.questions(["a"]))  # the fixed part, as when the engine starts
        start = time.monotonic()
        said = ask(stage, prompts, forms)
        seconds = time.monotonic() - start
        for at, one in zip(failed, said, strict=True):
            raws[at] = [firsts[at].text, one.text]
        cached = sum(one.cached for one in said) / max(1, sum(one.prompt for one in said))
        print_way(name, texts, labels, raws, cached, seconds)
        if options.save:
            save(options.save.with_name(f"{options.save.name}-{name}.jsonl"), texts, raws)
    print_way("rules", texts, labels, [[]] * len(texts), 0.0, 0.0)
    stage.close()


if __name__ == "__main__":
    main()
