"""Decomposes single expressions with a model that stays loaded, for interactive use."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from prep.cache.keys import normalise_text
from prep.errors import PrepError
from prep.phrases.fallback import settle, unusable
from prep.records import PhraseSet

if TYPE_CHECKING:
    from prep.phrases.job import AnswerStage


@functools.lru_cache(maxsize=1)
def _opened(llm: str) -> AnswerStage:
    from prep.phrases.models import resolve
    from prep.phrases.prompt import load_prompt

    model, prompt = resolve(llm), load_prompt()
    stage: AnswerStage
    if model.kind == "openai":
        from prep.phrases.engines.openai import OpenAIStage

        stage = OpenAIStage(model, prompt)
    else:
        from prep.phrases.engines.vllm import VllmStage

        stage = VllmStage(model, prompt)
    stage.open()
    return stage


def decompose_with(text: str, llm: str) -> PhraseSet:
    """Decompose one expression with the model ``llm``, which stays loaded for the next call."""
    if llm == "rules" or unusable(text):
        return settle(text)
    from prep.phrases.engines.base import Question

    stage = _opened(llm)
    table = stage.process(stage.load([Question("", normalise_text(text))]))
    answer = table.to_pylist()[0]
    if answer["error"]:
        raise PrepError(f"{llm} returned no answer: {answer['error'].rstrip('.')}.")
    return settle(
        normalise_text(text), [raw for raw in (answer["first"], answer["retry"]) if raw is not None]
    )


def decompose(text: str, llm: str = "rules") -> PhraseSet:
    """Decompose one expression with the rules or with the model ``llm`` (see ``--llm``).

    For many expressions use ``pcnet-prep phrases``, which deduplicates texts and caches the answers.
    """
    if llm == "rules":
        return settle(text)
    return decompose_with(text, llm)
