"""`pcnet-prep run`: runs the commands in a configuration file, one after another."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from prep.commands import options as shared
from prep.commands.outcome import SOME_FAILED
from prep.commands.output import emit, say
from prep.commands.recipe_words import LATER
from prep.errors import MissingInputError, PrepError

if TYPE_CHECKING:
    from typer.core import TyperCommand

ConfigFile = Annotated[
    Path, typer.Argument(help="Configuration with one section per command.", metavar="FILE")
]
Flags = Annotated[
    list[str] | None,
    typer.Argument(
        help="Flags that override the file: --gpus 4, or --sam.model vit_b for one command.",
        metavar="--FLAG VALUE",
    ),
]


def run(
    context: typer.Context,
    config: ConfigFile,
    flags: Flags = None,
    plan: shared.PlanOnly = False,
    as_json: shared.Json = False,
) -> None:
    """Run phrases, sam, score, concepts, train and eval as configured in a file.

    All flags are checked before the first command runs. With --json, each command prints one line.
    """
    worst = 0
    for parsed, line in _parsed(context, config, flags or [], plan=plan, as_json=as_json):
        if parsed.info_name in LATER and plan:
            emit({parsed.info_name: line}, [f"$ {line}"], as_json)
            continue
        say(f"$ {line}", to_stderr=as_json)
        code = _invoked(parsed, plan, as_json) if parsed.info_name not in LATER else _in_child(line, as_json)
        worst = max(worst, code)
        if code not in (0, SOME_FAILED):
            break
    if worst:
        raise typer.Exit(worst)


def _invoked(parsed: typer.Context, plan: bool, as_json: bool) -> int:
    """The exit code of a command that is run in this process."""
    try:
        with parsed:
            parsed.command.invoke(parsed)
    except typer.Exit as ended:
        return ended.exit_code
    except MissingInputError as error:
        if not plan:
            raise
        emit({"not yet": str(error)}, [f"missing input: {error}"], as_json)
    return 0


def _in_child(line: str, as_json: bool) -> int:
    """The exit code of a command of `pcnet`, which is run in a process of its own: the memory of the stages
    before it is free again, and training can start further processes.
    """
    from prep.engine.child import run_child

    words = [*shlex.split(line)[1:], *(["--json"] if as_json else [])]
    return run_child([sys.executable, "-P", "-m", "pcnet", *words])


def _parsed(
    context: typer.Context, config: Path, flags: Sequence[str], *, plan: bool, as_json: bool
) -> list[tuple[typer.Context, str]]:
    """The command of each section, parsed and checked, with its command line.

    ``context.obj`` returns the commands that may have a section, in the order in which they run.
    """
    from prep.commands.recipe_file import command_line, read_configuration

    commands: dict[str, TyperCommand] = context.obj()
    steps = []
    for section in read_configuration(config, flags, commands):
        name, program = section.command, "pcnet" if section.command in LATER else "pcnet-prep"
        values = {**section.flags, "plan": plan, "as_json": as_json}
        try:
            parsed = commands[name].make_context(
                name, [], parent=context.parent, default_map=values, obj=tuple(flags)
            )
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            wrong = f"{config}: {name}: {error.format_message()}"
            raise PrepError(wrong, f"See: {program} {name} --help") from error
        # A typer.Context, which click's make_context declares as its parent class.
        steps.append((cast("typer.Context", parsed), command_line(section, commands[name], program)))
    return steps
