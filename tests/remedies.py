"""Finds the commands in a message, and what the programs' parsers have against them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import typer

from prep.errors import PrepError

ROOT = Path(__file__).resolve().parents[1]
QUOTED = re.compile(r"`([^`]+)`")
# A command that is not in backticks is the end of a line, after a colon; or it is named, without options.
AT_THE_END = re.compile(r": ((?:pcnet-prep|pcnet|pip) .+)$", re.MULTILINE)
BARE = re.compile(r"(?:Run|run|with) ((?:pcnet-prep|pcnet|pip) [a-z].*)")


def problem(call: list[str]) -> str | None:
    """What the program's own parser has against a call; None where it would be taken."""
    import cli

    app = {"pcnet-prep": cli.prep_app, "pcnet": cli.pcnet_app}[call[0]]
    group = typer.main.get_command(app)
    try:
        with group.make_context(call[0], call[1:]) as context:
            name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
            command.make_context(name, rest, parent=context)
    except PrepError:  # it was read, and names a file that only the reader has
        return None
    except Exception as error:
        if type(error).__name__ == "Exit":  # --help and --version
            return None
        return error.format_message() if hasattr(error, "format_message") else repr(error)
    return None


def commands(text: str) -> Iterator[str]:
    """The commands in a message that are to be typed as they stand; not patterns such as `[--flag ...]`."""
    yield from (one for one in QUOTED.findall(text) if re.match(r"(pcnet-prep|pcnet|pip) ", one))
    rest = QUOTED.sub("``", text)
    found = AT_THE_END.findall(rest)
    yield from (one for one in found if "[--" not in one)
    for line in rest.splitlines():
        for one in BARE.findall(line):
            if not any(end in one for end in found):
                yield one.removesuffix(".")


def wrong(text: str) -> list[str]:
    """The commands of a message that cannot be typed, each with the reason."""
    found = []
    for command in commands(text):
        try:
            words = shlex.split(command)
        except ValueError as error:
            found.append(f"{command}: {error}")
            continue
        why = _not_installed(words) if words[0] == "pip" else problem(words)
        if why:
            found.append(f"{command}: {why}")
    return found


def untidy(message: str, remedy: str) -> list[str]:
    """What is wrong with the form of an error as the user sees it, with its values.

    Each part is a sentence; a message may begin with a value (a path, a row) and end in a list of lines, a
    remedy may end in a command or a path to copy.
    """
    found = []
    for text in (message, *([remedy] if remedy != "" else [])):
        if not isinstance(text, str) or not text.strip():
            found.append(f"{text!r} is no sentence")
            continue
        first, last = text.split()[0], text.rstrip("'\"`)")[-1]
        if text is remedy and first[0].islower():
            found.append(f"{text!r} does not start with a capital letter")
        if text.isupper():
            found.append(f"{text!r} is all in capitals")
        copied = list(commands(text)) or "/" in text.split()[-1] or any(part in text for part in ("\n", ": "))
        if last not in ".?" and not copied:
            found.append(f"{text!r} does not end with a full stop")
    return found


def _not_installed(words: list[str]) -> str | None:
    """What is wrong with a `pip install`: an extra that the project does not have."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if words[1:2] != ["install"] or len(words) < 3:
        return "not pip install WHAT"
    for word in words[2:]:
        named = re.fullmatch(r"pcnet-prep\[(.+)\]", word)
        if named and (unknown := set(named[1].split(",")) - set(extras)):
            return f"no extra {', '.join(sorted(unknown))}"
    return None
