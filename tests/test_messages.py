"""Every error message is a sentence with a capital and a full stop; its remedy is a sentence or a command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.remedies import commands, wrong
from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "cli.py", *sorted((ROOT / "prep").rglob("*.py")), *sorted((ROOT / "pcnet").rglob("*.py"))]
ERRORS = {"PrepError", "MissingInputError", "Interrupted"}
# Names that are written in lower case at the beginning of a sentence as well.
NAMES = ("vLLM", "point_grids ", "segments: ", "stages = ")
# A remedy may end in a command to copy, which has no full stop.
COMMAND = re.compile(r"(?:: |`)\S[^.]*$|(?:Use|Run)[^:]*: .*$|\n|--\w+(?: \w+)?$|VALUE$")


def edges(node: ast.expr) -> list[tuple[str | None, str | None]]:
    """The text at the beginning and end of a message as written; None where a value stands there."""
    if isinstance(node, ast.IfExp):
        return edges(node.body) + edges(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [(node.value, node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
        return [(str(parts[0]) if parts[0] else None, str(parts[-1]) if parts[-1] else None)]
    return []


def raised() -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """Where an error is made, its message and its remedy."""
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in ERRORS and node.args:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield where, node.args[0], node.args[1] if len(node.args) > 1 else None


def test_messages_and_remedies_are_sentences() -> None:
    found = list(raised())
    assert len(found) > 150
    wrong = []
    for where, message, remedy in found:
        for first, last in edges(message):
            if first and first[0].islower() and not first.startswith(NAMES):
                wrong.append(f"{where}: {first!r} does not start with a capital letter")
            if last and not last.endswith((".", "?")):
                wrong.append(f"{where}: {last!r} does not end with a full stop")
        for first, last in edges(remedy) if remedy else []:
            if first and first[0].islower():
                wrong.append(f"{where}: the remedy {first!r} does not start with a capital letter")
            if last and not last.endswith((".", "?")) and not COMMAND.search(last):
                wrong.append(f"{where}: the remedy {last!r} does not end with a full stop")
    assert wrong == []


def test_what_cannot_be_typed_is_noticed() -> None:
    assert list(commands("Run: pcnet-prep sam --out x\nor `pcnet eval`. See pcnet.")) == [
        "pcnet eval",
        "pcnet-prep sam --out x",
    ]
    assert wrong("Run pcnet-prep sam first.")
    assert wrong("Run: pcnet-prep score --bogus prepared")
    assert wrong("Run `pcnet-prep import --layout official`.")
    assert wrong("Run: pcnet-prep phrases --input my file.jsonl")
    assert wrong("Run pip install 'pcnet-prep[sma]'.")
    assert wrong("Run `pcnet-prep phrases --input 'my file.jsonl' --out x`, then pip install 'it'.") == []


def test_the_commands_that_stand_in_the_sources_can_be_typed() -> None:
    """Those without values; tests/conftest.py looks at those that tests provoke."""
    texts = [
        part.value
        for _, message, remedy in raised()
        for node in ast.walk(ast.Tuple([message, *([remedy] if remedy else [])]))
        for part in (node.values if isinstance(node, ast.JoinedStr) else [node])
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and "`" in part.value
    ]
    spans = [one for text in texts for one in re.findall(r"`((?:pcnet-prep|pcnet|pip) [^`{}\[]+)`", text)]
    assert len(spans) > 5
    shown = [f"`{one}`" for one in spans if not one.endswith(" --out")]
    assert [why for one in shown for why in wrong(one)] == []
