"""A run as a manifest recorded it: its flags, a check of another run's settings, and its repetition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prep.errors import PrepError

if TYPE_CHECKING:
    import typer

    from prep.cache.manifest import Manifest


def recorded_flags(path: Path, command: str) -> dict[str, Any]:
    """The flags of the last run in a manifest's file, by their names in Python.

    Raises :class:`PrepError` where there is none, or it was one of another command than ``command``.
    """
    from prep.cache.store import read_manifest_file

    manifest = read_manifest_file(path)
    flags = _last(manifest, path)
    recorded = flags.pop("command")
    if recorded != command:
        raise PrepError(
            f"{path} records a run of `pcnet-prep {recorded}`, not of `{command}`.",
            f"Repeat it with: pcnet-prep {recorded} --from-manifest {path} --out ELSEWHERE",
        )
    return flags


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise :class:`PrepError` where a run with ``settings`` would not make the manifest's rows."""
    from prep.cache.manifest import differences
    from prep.cache.store import read_manifest_file

    stored = read_manifest_file(path).settings
    if stored != settings:
        raise PrepError(
            f"This run would not repeat {path}:\n" + "\n".join(differences(stored, settings)),
            "Give the same model, weights and options, or leave --from-manifest out.",
        )


def repeat(context: typer.Context, arguments: Mapping[str, Any]) -> None:
    """Run a command of the program of ``context`` again, with the flags that a manifest keeps of it."""
    assert context.parent is not None
    name = arguments["command"]
    command = context.parent.command.commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, [], default_map=dict(arguments)) as repeated:
        command.invoke(repeated)


def _last(manifest: Manifest, path: Path) -> dict[str, Any]:
    arguments = manifest.runs[-1].get("arguments") if manifest.runs else None
    if not arguments or "command" not in arguments:
        raise PrepError(
            f"{path} records no finished run.",
            "Give the _manifest.json of a stage that a command has filled.",
        )
    return dict(arguments)
