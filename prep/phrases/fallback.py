"""Resolves a model's answers to phrases by a fallback chain, so every valid expression gets phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TypeAlias, TypeVar

from prep.cache.keys import normalise_text
from prep.phrases.checks import violations
from prep.phrases.parse import parse
from prep.phrases.repair import repair
from prep.phrases.rules.decompose import break_up, shorten
from prep.records import PhraseSet

Found = TypeVar("Found")


def unusable(text: str) -> str:
    """Why ``text`` cannot have phrases (its row gets ``status="error"``); empty if it can."""
    if not normalise_text(text):
        return "the expression is empty"
    if not any(map(str.isalnum, text)):
        return "the expression has no letter and no digit"
    return ""


def needs_retry(text: str, raw: str) -> bool:
    """Whether a model's first answer fails a check and cannot be repaired, so that a retry is worthwhile."""
    _, failed, (_, repairs) = _judged(text, raw)
    return bool(failed) and not repairs


# What an answer says, the checks that it fails, and what the repair made of it with the names of the repairs.
Judged: TypeAlias = tuple[Found, tuple[str, ...], tuple[Found, tuple[str, ...]]]


@lru_cache(maxsize=1 << 13)
def _judged(text: str, raw: str) -> Judged[tuple[str, ...]]:
    """The judgement of one answer, cached between an engine's stage and :func:`settle`."""
    phrases = tuple(parse(raw))
    failed = violations(text, phrases)
    return phrases, failed, repair(text, phrases) if failed else (phrases, ())


def first_valid(
    raws: Sequence[str], judge: Callable[[str], Judged[Found]]
) -> tuple[tuple[Found, str, tuple[str, ...]] | None, list[tuple[str, tuple[str, ...]]]]:
    """What the first valid or repaired one of a model's answers says, its level and repairs; None if none is.

    Then the levels that were rejected before, each with the checks it failed.
    """
    rejected: list[tuple[str, tuple[str, ...]]] = []
    for source, raw in zip(("llm", "retry"), raws, strict=False):
        found, failed, (mended, repairs) = judge(raw)
        if not failed:
            return (found, source, ()), rejected
        rejected.append((source, failed))
        if repairs:
            return (mended, "repaired", repairs), rejected
    return None, rejected


def settle(text: str, raws: Sequence[str] = ()) -> PhraseSet:
    """The phrases of ``text`` given the model's answers: the first one and, if any, the retry.

    The first level whose phrases pass every check is used: ``llm``, ``repaired`` (the first answer mended),
    ``retry``, ``repaired`` (the retry mended), ``rules``. If none does, the rules' phrases are used with
    their violations; if the rules find no phrase, the expression itself. ``rejected`` lists the levels
    rejected before. Never raises; a text that is :func:`unusable` has no phrases.
    """
    if unusable(text):
        return PhraseSet((), "expression", ("count",))
    level, rejected = first_valid(raws, partial(_judged, text))
    if level is not None:
        phrases, source, repairs = level
        return PhraseSet(phrases, source, (), tuple(rejected), repairs)
    phrases = break_up(text)
    if phrases:
        return PhraseSet(phrases, "rules", violations(text, phrases), tuple(rejected))
    rejected.append(("rules", ("count",)))
    phrases = (shorten(normalise_text(text)),)
    return PhraseSet(phrases, "expression", violations(text, phrases), tuple(rejected))
