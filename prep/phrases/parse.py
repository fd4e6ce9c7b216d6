"""Parses the phrases from a language model's answer: lists, JSON, preambles, truncated ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from prep.cache.keys import normalise_text

MAX_CHARS = 20_000
MAX_PHRASES = 32
# A line with more words is a sentence about the answer, not a phrase.
MAX_WORDS = 40

_SPECIAL = re.compile(r"</?s>|\[/?INST\]|<\|[^|<>]{0,40}\|>|<(?:start|end)_of_turn>|</?think>", re.IGNORECASE)
_FENCE = re.compile(r"^\s*(?:```|~~~)[\w+-]*\s*$")
_MARKER = re.compile(
    r"\s*(?:>\s*)?(?:(?:phrase|cue|line|step)\s*#?\d{1,2}\s*[.):\-–]\s*|\(?\d{1,2}\s*[.):]\)?(?!\d)\s*|\[\d{1,2}\]\s*"
    r"|\(?[a-hA-H]\)\s+|[-*•‣◦▪·–—+]\s+|#{1,6}\s+)",
    re.IGNORECASE,
)
_INLINE = re.compile(r"(?:(?<=\s)|(?<=[.;,]))(?=\(?\d{1,2}[.)]\s*[A-Za-z\"'*])")
_PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|okay|ok|absolutely|yes|here(?:'s| is| are)|here you go|"
    r"the (?:short )?phrases|phrases|output|answers?|result|response|decomposition|target(?= phrases))\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:phrases|output|answer|response|result)\s*:\s*", re.IGNORECASE)
_AFTERWORD = re.compile(
    r"(?:\(?note\b|explanation\b|i hope\b|let me know\b|please (?:let|note)\b|in this\b|these phrases\b|"
    r"this (?:expression|decomposition|answer)\b|if you\b|each phrase\b|as an ai\b|"
    r"i(?:'m| am) (?:sorry|unable)\b|"
    r"i (?:cannot|can't)\b)",
    re.IGNORECASE,
)
# Some models go on and generate the next question; what follows is not about this expression.
_NEXT_QUESTION = re.compile(
    r"[\s#*]*(?:expression|input|question|user|human|sentence|example)\s*\d*\s*:", re.IGNORECASE
)
_JSON = re.compile(r'(?=(?:\[\s*+){1,7}["{\]]|\{\s*+")')
_JSON_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"(\s*:)?')
_QUOTES = "\"'`“”‘’„«»"
# No phrase ends with these; one can end with "on": "the bench the boy sits on".
_DANGLING = {"a", "an", "the", "her", "his", "its", "of", "and", "or", "who", "that", "which", "whose"}


def parse(raw: str) -> list[str]:
    """The phrases in a model's answer, in order, lower case, without duplicates; empty if there are none.

    Never raises. The result is not validated: see :func:`prep.phrases.checks.violations`.
    """
    text = _SPECIAL.sub("\n", raw[:MAX_CHARS].replace("\r\n", "\n").replace("\r", "\n"))
    text = text.replace("**", "").replace("__", "")
    found = _from_json(text)
    items = found if found is not None else list(_from_lines(text))
    phrases: dict[str, None] = {}
    for item in items:
        phrase = _clean(item)
        if phrase and len(phrase.split()) <= MAX_WORDS:
            phrases.setdefault(phrase)
    result = list(phrases)[:MAX_PHRASES]
    while len(result) > 1 and result[-1].split()[-1] in _DANGLING:
        result.pop()
    return result


def _clean(item: str) -> str:
    line = item.replace("`", "")
    previous = None
    while line != previous:
        previous = line
        line = line.strip().strip(_QUOTES).strip().rstrip(".,;:!*").lstrip(",;:.!*").strip()
    phrase = normalise_text(line)
    return phrase if any(c.isalnum() for c in phrase) else ""


def _from_json(text: str) -> list[str] | None:
    """The strings of a JSON answer, also of a truncated one; None if the answer is not JSON."""
    lines = [line for line in text.split("\n") if not _FENCE.match(line)]
    body = "\n".join(lines).strip()
    label = _LABEL.match(body)
    body = body[label.end() :] if label else body
    start = _json_start(body)
    if start is None:
        return None
    body = body[start:]
    try:
        value, end = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError):
        strings = [match[1] for match in _JSON_STRING.finditer(body) if not match[2]]
        return [_unescape(s) for s in strings] or None
    strings = list(_strings(value, 0))
    # An answer that is nothing but JSON has no lines to read, even if it has no strings.
    return strings if strings or (start == 0 and end == len(body)) else None


def _json_start(body: str) -> int | None:
    """Where a JSON list or object starts: at the beginning, on a line of its own or after a colon."""
    for match in _JSON.finditer(body):
        before = body[: match.start()]
        text = before.rstrip()
        if not text or text.endswith(":") or "\n" in before[len(text) :]:
            return match.start()
    return None


def _unescape(string: str) -> str:
    try:
        return str(json.loads(f'"{string}"'))
    except ValueError:
        return string


def _strings(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < 6 and isinstance(value, list):
        for item in value:
            yield from _strings(item, depth + 1)
    elif depth < 6 and isinstance(value, dict):
        for item in value.values():
            yield from _strings(item, depth + 1)


def _from_lines(text: str) -> Iterator[str]:
    lines = _answer_lines(text)
    marked = [(bool(m), line[m.end() :] if m else line) for line in lines for m in [_MARKER.match(line)]]
    listed = sum(is_item for is_item, _ in marked)
    # With a list, the lines outside it are remarks; a single marked line among others is a phrase like them.
    wanted = [line for is_item, line in marked if is_item or listed < 2]
    if len(wanted) == 1 and ";" in wanted[0]:
        wanted = wanted[0].split(";")
    for line in wanted:
        if line.strip() and not _AFTERWORD.match(line.strip()):
            yield line


def _answer_lines(text: str) -> list[str]:
    """The lines that can hold phrases: without fences, preamble and generated questions, lists split up."""
    lines: list[str] = []
    for whole in text.split("\n"):
        line = whole
        stripped = line.strip().lstrip("*#").strip()
        if _FENCE.match(line) or not stripped:
            continue
        if _NEXT_QUESTION.match(line):
            if lines:
                break
            continue
        label = _LABEL.match(stripped)
        if label:
            line = stripped[label.end() :]
        elif not lines and _PREAMBLE.match(stripped):
            _, colon, line = stripped.partition(":")
            if not colon:
                continue
        elif stripped.rstrip("*").endswith(":"):
            continue
        if line.strip(" *"):
            lines.extend(part for part in _INLINE.split(line) if part.strip())
    return lines
