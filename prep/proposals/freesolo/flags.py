"""Turns the command's options into the test settings of FreeSOLO, and refuses those of other generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prep.errors import PrepError
from prep.proposals.freesolo.settings import FreeSoloSettings

# Options of the command that belong to SAM, with the values that they have if nobody gave them.
OTHERS = {"model": None, "fidelity": "exact", "preset": "pcnet"}


def options(params: Mapping[str, Any], official: Mapping[str, object], device: str) -> dict[str, object]:
    """The settings in ``--freesolo NAME=VALUE`` and ``--checkpoint``, on ``device``.

    :raises PrepError: for an option of SAM, an unknown name, or a value of another type.
    """
    given = [*official, *(name for name, usual in OTHERS.items() if params[name] != usual)]
    if given:
        raise PrepError(
            f"--{given[0].replace('_', '-')} of that value is not for --generator freesolo.",
            "Remove it.",
        )
    defaults = FreeSoloSettings()
    types = {field.name: type(getattr(defaults, field.name)) for field in fields(defaults)}
    types = {name: kind for name, kind in types.items() if name not in ("checkpoint", "device")}
    found: dict[str, object] = {}
    for text in params["freesolo"] or ():
        name, _, value = text.partition("=")
        if name not in types:
            raise PrepError(f"--freesolo has no setting {name!r}.", f"Choose one of: {', '.join(types)}.")
        try:
            found[name] = types[name](value)
        except ValueError as error:
            kind = "an integer" if types[name] is int else "a number"
            raise PrepError(f"--freesolo {name} is {value!r}.", f"Give {kind}, such as {name}=1.") from error
    return {**found, "checkpoint": params["checkpoint"], "device": device}
