"""Writes docs/commands/, from the programs' own options, and the columns in docs/store.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

import cli
from prep.cache.schema import ROW_OF, STAGES, column_table
from prep.commands.help import grouped

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "commands"
STORE_PAGE = ROOT / "docs" / "store.md"
COLUMNS = "<!-- make layout writes the columns -->"
PROGRAMS = {"pcnet-prep": cli.prep_app, "pcnet": cli.pcnet_app}


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    made = {}
    for program, app in PROGRAMS.items():
        group: Any = typer.main.get_command(app)
        for name, command in group.commands.items():
            made[f"{program}-{name}.md"] = "\n".join(page(program, name, command)) + "\n"
    return made


def page(program: str, name: str, command: Any) -> Iterator[str]:
    """The lines of a command's page: what it does, how it is called, and its options by group."""
    context = typer.Context(command, info_name=f"{program} {name}")
    yield f"<!-- make layout writes this page -->\n\n# {program} {name}\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield f"{cell(paragraph)}\n"
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{' '.join(usage.split())}\n```"
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    if arguments:
        yield from table("argument", arguments, context)
    for title, options in grouped(command.params):
        if shown := [one for one in options if not one.hidden and one.name != "help"]:
            yield f"\n## {title}"
            yield from table("option", shown, context)


def table(kind: str, parameters: Sequence[Any], context: Any) -> Iterator[str]:
    """A table with a row for each parameter: its names with the value that it takes, and what it means."""
    yield f"\n| {kind} | meaning |\n|---|---|"
    for one in parameters:
        names, meaning = one.get_help_record(context)
        meaning = re.sub(r"\[default: (.*?)\]", r"Default: \1.", meaning)
        meaning = re.sub(r"\[(\S+<=x<=\S+|x>=\S+)\]", r"Range: \1.", meaning)
        meaning = re.sub(r"([\d.]+)<=x<=([\d.]*\d)", r"\1 to \2", meaning)
        meaning = re.sub(r"x>=([\d.]*\d)", r"at least \1", meaning)
        # As code, an option stays on one line: it would break at its hyphens.
        meaning = re.sub(r"(?<![\w`-])(--[a-z][\w-]*)(?![^`]*`[^`]*$)", r"`\1`", cell(meaning))
        yield f"| <code>{cell(names.replace(' range>', '>'))}</code> | {meaning} |"


def cell(text: str) -> str:
    """Text in a table's cell, on one line."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def store_page() -> str:
    """docs/store.md with the columns of every table between its two markers."""
    before, _, after = STORE_PAGE.read_text(encoding="utf-8").split(COLUMNS)
    tables = [f"### {name}\n\nA row is {ROW_OF[name]}.\n\n{column_table(name)}\n" for name in STAGES]
    return f"{before}{COLUMNS}\n\n" + "\n".join(tables) + f"\n{COLUMNS}{after}"


if __name__ == "__main__":
    STORE_PAGE.write_text(store_page(), encoding="utf-8")
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
