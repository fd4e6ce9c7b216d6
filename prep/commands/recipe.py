"""`pcnet-prep run`: runs the commands in a configuration file, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from prep.commands import options as shared
from prep.commands.outcome import NOTHING_USABLE
from prep.commands.output import emit, say
from prep.errors import MissingInputError, PrepError

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
    """Run phrases, sam and score as configured in a file, and print the training command.

    All flags are checked before the first command runs. With --json, each command prints one line.
    """
    worst = 0
    for parsed, line in _parsed(context, config, flags or [], plan=plan, as_json=as_json):
        if parsed.info_name == "train":
            emit({"train": line}, [f"$ {line}"], as_json)
            continue
        say(f"$ {line}", to_stderr=as_json)
        try:
            with parsed:
                parsed.command.invoke(parsed)
        except typer.Exit as ended:
            worst = max(worst, ended.exit_code)
            if ended.exit_code == NOTHING_USABLE:
                break
        except MissingInputError as error:
            if not plan:
                raise
            emit({"not yet": str(error)}, [f"missing input: {error}"], as_json)
    if worst:
        raise typer.Exit(worst)


def _parsed(
    context: typer.Context, config: Path, flags: Sequence[str], *, plan: bool, as_json: bool
) -> list[tuple[typer.Context, str]]:
    """The command of each section, parsed and checked, with its command line.

    ``context.obj`` returns the commands that may have a section, in the order in which they run.
    """
    from prep.commands.recipe_file import command_line, read_configuration

    commands: dict[str, Any] = context.obj()
    steps = []
    for section in read_configuration(config, flags, commands):
        name, program = section.command, "pcnet" if section.command == "train" else "pcnet-prep"
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
        steps.append((parsed, command_line(section, commands[name], program)))
    return steps
