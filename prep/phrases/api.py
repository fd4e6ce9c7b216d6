"""One expression at a time by a model that stays loaded, for trying things out."""

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
    """The phrases of one expression by the model that ``llm`` names, which stays loaded for the next call."""
    if llm == "rules" or unusable(text):
        return settle(text)
    from prep.phrases.engines.base import Question

    stage = _opened(llm)
    table = stage.process(stage.load([Question("", normalise_text(text))]))
    answer = table.to_pylist()[0]
    if answer["error"]:
        raise PrepError(f"{llm} gives no answer: {answer['error']}")
    return settle(
        normalise_text(text), [raw for raw in (answer["first"], answer["retry"]) if raw is not None]
    )


def decompose(text: str, llm: str = "rules") -> PhraseSet:
    """The phrases of one expression, by the rules or by the model that ``llm`` names (see ``--llm``).

    For many expressions use ``pcnet-prep phrases``, which asks once for equal texts and keeps the answers.
    """
    if llm == "rules":
        return settle(text)
    return decompose_with(text, llm)
