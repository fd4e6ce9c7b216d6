"""A run as a manifest recorded it: the flags it had, and whether another run has the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prep.cache.manifest import Manifest, differences
from prep.cache.store import read_manifest_file
from prep.errors import PrepError


def recorded_flags(path: Path, command: str) -> dict[str, Any]:
    """The flags of the last run in a manifest's file, by their names in Python.

    Raises :class:`PrepError` where there is none, or it was one of another command than ``command``.
    """
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
    stored = read_manifest_file(path).settings
    if stored != settings:
        raise PrepError(
            f"This run would not repeat {path}:\n" + "\n".join(differences(stored, settings)),
            "Give the same model, weights and options, or leave --from-manifest out.",
        )


def _last(manifest: Manifest, path: Path) -> dict[str, Any]:
    arguments = manifest.runs[-1].get("arguments") if manifest.runs else None
    if not arguments or "command" not in arguments:
        raise PrepError(
            f"{path} records no finished run.",
            "Give the _manifest.json of a stage that a command has filled.",
        )
    return dict(arguments)
