"""Reads and validates the prompt file, and inserts an expression that cannot break out of its quotes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from prep.cache.keys import normalise_text
from prep.errors import PrepError
from prep.inputs import read_plain

DEFAULT = Path(__file__).parent / "prompts" / "v1.txt"
SECTIONS = ("instruction", "constraints", "examples", "question")
SLOT = "{expression}"
# The longest expression of RefCOCO, RefCOCO+, RefCOCOg and RefClef has fewer than 250 characters.
MAX_EXPRESSION_CHARS = 400
MAX_PROMPT_CHARS = 20_000

# The schema of the retry's structured output; :func:`prep.phrases.parse.parse` reads it like any answer.
ANSWER_SCHEMA: dict[str, object] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": 100},
    "minItems": 1,
    "maxItems": 5,
}

_VERSION = re.compile(r"version:\s*([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s*")
_HEADING = re.compile(r"== *([a-z]+) *==\s*")
# Characters used by chat templates, markup and the prompt's own quoting. They are removed from expressions.
_STRUCTURAL = str.maketrans({**dict.fromkeys('<>[]{}|`\\"“”„«»', " "), **dict.fromkeys("‘’", "'")})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A validated prompt.

    ``prefix`` comes before the expression (the same for all, so an engine can keep it in its prefix cache),
    ``suffix`` after it. ``sha256`` is that of the file's bytes; it and ``version`` identify the prompt in
    keys and manifests.
    """

    version: str
    sha256: str
    prefix: str
    suffix: str

    def question(self, text: str) -> str:
        """The variable part: the sanitised expression and the suffix."""
        return quotable(text) + self.suffix

    def render(self, text: str) -> str:
        """The whole prompt for one expression; the same for texts that are equal after normalisation."""
        return self.prefix + self.question(text)


def quotable(text: str) -> str:
    """``text`` made safe between double quotes: one line, lower case, no markup, bounded length."""
    line = " ".join(normalise_text(text).translate(_STRUCTURAL).split())
    if len(line) <= MAX_EXPRESSION_CHARS:
        return line
    cut = line[:MAX_EXPRESSION_CHARS]
    return cut.rsplit(" ", 1)[0] if " " in cut else cut


def load_prompt(path: Path | None = None) -> Prompt:
    """Read and validate a prompt file; ``None`` is the one of this package.

    The file starts with ``version: NAME``, followed by the sections ``== instruction ==``, ``== constraints
    ==``, ``== examples ==`` and ``== question ==`` in this order, each with text. The last contains
    ``{expression}`` once, between double quotes; no other section contains it. Raises PrepError with the file
    name and the error in it.
    """
    file = DEFAULT if path is None else path
    data = _read(file)
    text = _decode(file, data)
    version, sections = _split(file, text)
    body = "\n\n".join(sections[name] for name in SECTIONS)
    _check_slot(file, sections)
    prefix, suffix = body.split(SLOT)
    return Prompt(version, hashlib.sha256(data).hexdigest(), prefix, suffix)


def _error(file: Path, what: str) -> PrepError:
    return PrepError(f"{file}: {what}.", f"Copy {DEFAULT} and change its text, keeping its headings.")


def _read(file: Path) -> bytes:
    try:
        return read_plain(file, 4 * MAX_PROMPT_CHARS)
    except OSError as error:
        raise PrepError(
            f"{file}: the prompt cannot be read ({error.strerror}).", "Give a file with --prompt."
        ) from error


def _decode(file: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _error(file, f"byte {error.start} is not UTF-8") from error
    if len(text) > MAX_PROMPT_CHARS:
        raise _error(file, f"{len(text)} characters, more than {MAX_PROMPT_CHARS}")
    if "\0" in text:
        raise _error(file, "holds a NUL character")
    return text


def _split(file: Path, text: str) -> tuple[str, dict[str, str]]:
    first, _, rest = text.lstrip("\n").partition("\n")
    match = _VERSION.fullmatch(first)
    if match is None:
        raise _error(file, f"the first line must be 'version: NAME', it is {first[:60]!r}")
    sections: dict[str, list[str]] = {}
    for number, line in enumerate(rest.split("\n"), start=2):
        heading = _HEADING.fullmatch(line)
        if heading:
            name = heading[1]
            if name not in SECTIONS or name in sections:
                raise _error(file, f"line {number}: section {name!r} is unknown or occurs twice")
            sections[name] = []
        elif sections:
            next(reversed(sections.values())).append(line)
        elif line.strip():
            raise _error(file, f"line {number}: text before the first section")
    if tuple(sections) != SECTIONS:
        raise _error(
            file, f"the sections must be {', '.join(SECTIONS)}; found {', '.join(sections) or 'none'}"
        )
    joined = {name: "\n".join(lines).strip("\n") for name, lines in sections.items()}
    empty = [name for name in SECTIONS if not joined[name].strip()]
    if empty:
        raise _error(file, f"section {empty[0]!r} is empty")
    return match[1], joined


def _check_slot(file: Path, sections: dict[str, str]) -> None:
    for name in SECTIONS:
        wanted = 1 if name == "question" else 0
        if sections[name].count(SLOT) != wanted:
            raise _error(file, f"section {name!r} must contain {SLOT} {'once' if wanted else 'nowhere'}")
    if f'"{SLOT}"' not in sections["question"]:
        raise _error(file, f'{SLOT} must be between double quotes: "{SLOT}"')
