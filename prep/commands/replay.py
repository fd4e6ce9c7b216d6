"""Repeats a run recorded in a manifest: reads its flags, compares settings, and runs the command again."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from prep.errors import PrepError

if TYPE_CHECKING:
    from typer.core import TyperCommand

# Options that control how a command runs, not what it produces: a manifest does not record them, and one from
# somebody else does not set them. A Ray cluster could run its own code here.
NOT_RECORDED = ("replace", "as_json", "plan", "from_manifest", "max_failed", "device", "ray_address")
# The commands whose input is the store that they write to.
READ_THE_STORE = ("score", "concepts")


def recorded_flags(path: Path, command: str) -> dict[str, object]:
    """The flags of the last run in a manifest file, by their Python names.

    :raises PrepError: if the file records no run, or the run of a command other than ``command``.
    """
    from prep.cache.store import read_manifest_file

    manifest = read_manifest_file(path)
    arguments = manifest.runs[-1].get("arguments") if manifest.runs else None
    if not arguments or "command" not in arguments:
        raise PrepError(
            f"{path} records no finished run.",
            "Give the folder of a table that a command has written.",
        )
    flags, recorded = _flags(arguments), arguments["command"]
    if recorded != command:
        raise PrepError(
            f"{path} records a run of `pcnet-prep {recorded}`, not of `{command}`.",
            f"Repeat it with: pcnet-prep {recorded} --from-manifest {shlex.quote(str(path))} --store OTHER",
        )
    return flags


def check_settings(path: Path, settings: Mapping[str, object]) -> None:
    """Check that a run with ``settings`` reproduces the rows of a manifest.

    :raises PrepError: if the settings differ; the message lists the differences.
    """
    from prep.cache.manifest import differences
    from prep.cache.store import read_manifest_file

    stored = read_manifest_file(path).settings
    if stored != settings:
        raise PrepError(
            f"This run would not reproduce {path}:\n" + "\n".join(differences(stored, settings)),
            "Use the same model, weights and options, or omit --from-manifest.",
        )


def repeat(context: typer.Context, arguments: Mapping[str, object], store: str) -> None:
    """Run a command of the program of ``context`` again on ``store``, with the flags recorded in a manifest.

    Relative paths among them are those of the folder in which the command ran.
    """
    _invoke(context, arguments, out=store)


def rehearse(context: typer.Context, arguments: Mapping[str, object], store: str | None) -> None:
    """Check that :func:`repeat` can begin: everything is read that it needs, and no store is touched.

    A command that reads the tables of its store is tried on ``store`` (None: they are damaged too, and it is
    not tried); ``replace`` keeps it from reading its own table.

    :raises PrepError: if an input, a model or an option is not usable.
    """
    if "plan" not in {option.name for option in _command(context, arguments).params}:
        return
    with tempfile.TemporaryDirectory() as nowhere, contextlib.redirect_stdout(io.StringIO()):
        if arguments["command"] not in READ_THE_STORE:
            _invoke(context, arguments, out=os.path.join(nowhere, "store"), plan=True)
        elif store is not None:
            _invoke(context, arguments, out=store, plan=True, replace=True)


def _command(context: typer.Context, arguments: Mapping[str, object]) -> TyperCommand:
    """The command of a recorded run: one that writes a table, whatever the manifest says."""
    assert context.parent is not None
    commands = context.parent.command.commands  # type: ignore[attr-defined]
    found = commands.get(name) if isinstance(name := arguments.get("command"), str) else None
    if found is None or "from_manifest" not in {option.name for option in found.params}:
        raise PrepError(
            f"The manifest records a run of {str(name)[:80]!r}, which is no command that writes a table.",
            "Repair the store with the command that made its rows, such as `pcnet-prep phrases`.",
        )
    command: TyperCommand = found
    return command


def _flags(arguments: Mapping[str, object]) -> dict[str, object]:
    """The recorded flags that a repetition uses; a cache only where this machine has one."""
    flags = {name: value for name, value in arguments.items() if name not in ("command", *NOT_RECORDED)}
    folder, cache = flags.pop("folder", None), flags.get("cache")
    here = folder if isinstance(folder, str) else os.curdir
    if not isinstance(cache, str) or not os.path.isdir(os.path.join(here, cache)):
        flags.pop("cache", None)
    return flags


def _invoke(context: typer.Context, arguments: Mapping[str, object], **chosen: object) -> None:
    command, folder = _command(context, arguments), arguments.get("folder")
    here = folder if isinstance(folder, str) and os.path.isdir(folder) else os.curdir
    names = {option.name for option in command.params}
    flags = {name: value for name, value in {**_flags(arguments), **chosen}.items() if name in names}
    with (
        contextlib.chdir(here),
        command.make_context(str(arguments["command"]), [], default_map=flags) as repeated,
        contextlib.suppress(typer.Exit),  # it is for the caller to say how the repetition went
    ):
        command.invoke(repeated)
