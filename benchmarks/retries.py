"""Compares ways to ask a model again: python -m benchmarks.retries --llm MODEL [--number N] [--save FILE].

Every expression is asked once. Those whose response fails a check and cannot be repaired are asked again in
three ways: ``words``, the second turn that says what is wrong, under a JSON schema; ``grammar``, the first
question again under a grammar of the expression's own words; and ``both``. Prints what becomes of all
expressions in each way, the share of the prompt from the prefix cache, and seconds (only comparable with each
other). The expressions are a seeded draw from real ones that are not labelled; ``--save`` writes the
responses of ``words``, for ``python -m benchmarks.kinds --answers FILE``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.labels import EXPRESSIONS, GOLD_REAL, load_expressions
from prep.phrases.checks import MAX_PHRASES
from prep.phrases.engines.base import whole_lines
from prep.phrases.engines.vllm import VllmStage
from prep.phrases.engines.vllm_boot import VllmOptions
from prep.phrases.fallback import needs_retry, settle
from prep.phrases.models import resolve
from prep.phrases.prompt import ANSWER_SCHEMA, load_prompt, quotable

SEED = 14
# Drawn in turn, so that the few expressions of the small ones are all used.
DATASETS = ("refcoco+", "grefcoco", "refcocos", "refcocog", "refclef", "refcoco")
MAX_WORDS = 12  # of a line, as the prompt says
LEVELS = ("llm", "repaired", "retry", "retry repaired", "rules", "expression")

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


class Said(NamedTuple):
    """A response, and its tokens: of the prompt, of those from the prefix cache."""

    text: str
    prompt: int
    cached: int


def drawn(rows: Sequence[dict[str, str]], number: int) -> list[str]:
    """``number`` expressions without those that are labelled, as equal a share of each dataset as it has."""
    labels = [json.loads(line)["row"] for line in GOLD_REAL.read_text("utf-8").splitlines()]
    used = {rows[row]["sent"] for row in labels}
    generator, chosen = random.Random(SEED), list[str]()
    for left, dataset in zip(range(len(DATASETS), 0, -1), DATASETS, strict=True):
        texts = sorted({row["sent"] for row in rows if row["dataset"] == dataset} - used)
        chosen += generator.sample(texts, min(len(texts), (number - len(chosen)) // left))
        used.update(chosen)
    return chosen


def grammar(text: str, *, as_json: bool) -> str:
    """One to five lines, or a JSON list, of the words of ``text``, "the" and "object"; in EBNF."""
    words = list(dict.fromkeys([*_WORD.findall(quotable(text)), "the", "object"]))
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
    parameters = [SamplingParams(**common, structured_outputs=form) for form in forms or [None] * len(prompts)]
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


def levels(texts: Sequence[str], raws: Sequence[list[str]]) -> Counter[str]:
    """How many expressions are stored from each level."""
    count: Counter[str] = Counter()
    for text, own in zip(texts, raws, strict=True):
        found = settle(text, own)
        late = found.source == "repaired" and len(found.rejected) > 1
        count["retry repaired" if late else found.source] += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", required=True, help="a model folder, a GGUF file or a Hugging Face ID")
    parser.add_argument("--number", type=int, default=100, help="expressions to ask about")
    parser.add_argument("--save", type=Path, help="write the responses of `words` to this JSONL file")
    options = parser.parse_args()
    texts = drawn(load_expressions(EXPRESSIONS), options.number)
    stage = VllmStage(resolve(options.llm), load_prompt(), options=VllmOptions(dtype="float32"))
    stage.open()
    firsts = ask(stage, stage.engine.chat.questions(texts))
    raws = [[said.text] for said in firsts]
    failed = [at for at, text in enumerate(texts) if needs_retry(text, firsts[at].text)]
    print(f"{stage.model.name}: {len(texts)} real expressions, {len(failed)} asked again")
    print(f"{'':10}" + "".join(f"{level:>16}" for level in LEVELS) + f"{'prefix cache':>14}{'seconds':>9}")
    chosen = [texts[at] for at in failed]
    for name, (prompts, forms) in ways(stage, chosen, [firsts[at].text for at in failed]).items():
        start = time.monotonic()
        said = ask(stage, prompts, forms)
        seconds = time.monotonic() - start
        for at, one in zip(failed, said, strict=True):
            raws[at] = [firsts[at].text, one.text]
        count = levels(texts, raws)
        share = sum(one.cached for one in said) / max(1, sum(one.prompt for one in said))
        shares = "".join(f"{count[level] / len(texts):16.1%}" for level in LEVELS)
        print(f"{name:10}{shares}{share:14.1%}{seconds:9.1f}", flush=True)
        if name == "words" and options.save:
            rows = [
                {"expression": text, "answer": own[0], "retry": own[1] if len(own) > 1 else None}
                for text, own in zip(texts, raws, strict=True)
            ]
            options.save.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    stage.close()


if __name__ == "__main__":
    main()
