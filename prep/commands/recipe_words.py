"""Reads the flags on the command line of `pcnet-prep run`, which override its configuration file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from prep.errors import PrepError

if TYPE_CHECKING:
    from typer.core import TyperOption

# A command's options by their long names, without the dashes.
Options: TypeAlias = "dict[str, TyperOption]"

# Flags with the same meaning in every command that has them; they may appear above the sections of the file.
SHARED = (
    "data", "dataset", "split-by", "split", "input", "image-root", "store", "out", "cache", "replace", "gpus",
    "workers", "ray-address",
)  # fmt: skip
# Those that apply to training and evaluation, whose --output-dir and --split are others.
LATER = ("train", "eval")
SHARED_LATER = ("data", "dataset", "split-by", "input", "image-root", "store", "gpus")


def read_words(words: Sequence[str], options: Mapping[str, Options]) -> dict[str, dict[str, object]]:
    """The command-line flags of each command; a repeated flag has a list of values."""
    found: dict[str, dict[str, object]] = {name: {} for name in options}
    left = iter(words)
    for word in left:
        flag, equals, value = word.removeprefix("--").partition("=")
        targets = _targets(word, flag, options)
        takes_none = all(options[name][key].is_flag for name, key in targets)
        given = value if equals else True if takes_none else next(left, None)
        if given is None:
            raise PrepError(f"--{flag} needs a value.", f"Use: --{flag} VALUE")
        for name, key in targets:
            before = found[name].get(key)
            found[name][key] = given if takes_none else [*(before if isinstance(before, list) else []), given]
    return {
        name: {
            key: value[0] if isinstance(value, list) and len(value) == 1 else value
            for key, value in flags.items()
        }
        for name, flags in found.items()
    }


def _targets(word: str, flag: str, options: Mapping[str, Options]) -> list[tuple[str, str]]:
    """The commands that a command-line flag applies to, and its name in each."""
    if not word.startswith("--"):
        raise PrepError(f"{word!r} is not a flag.", "Use: pcnet-prep run FILE.yaml [--flag value ...]")
    name, dot, key = flag.partition(".")
    if dot:
        if key not in options.get(name, {}):
            known = (f"--{n}.{k}" for n in options for k in options[n])
            raise unknown(f"There is no flag {word}.", f"--{flag}", known)
        return [(name, key)]
    if flag in SHARED:
        return [(name, key) for name in options if (key := shared_key(name, flag)) in options[name]]
    targets = [(name, flag) for name in options if flag in options[name]]
    if not targets:
        known = (f"--{key}" for own in options.values() for key in own)
        raise unknown(f"No command in this file has a flag {word}.", f"--{flag}", known)
    if len(targets) > 1:
        names = [name for name, _ in targets]
        raise PrepError(
            f"{word} is a flag of {' and '.join(names)}.",
            f"Use {' or '.join(f'--{n}.{flag}' for n in names)}.",
        )
    return targets


def shared_key(command: str, flag: str) -> str:
    """The name that a shared flag has in a command; empty if it does not apply there.

    ``out`` is the store, as in version 0.1.0.
    """
    key = "store" if flag == "out" else flag
    return "" if command in LATER and key not in SHARED_LATER else key


def unknown(what: str, name: str, known: Iterable[str]) -> PrepError:
    """The error for an unknown name, with the closest known one."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name.replace("_", "-"), names, n=1)
    return PrepError(what, f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(names)}.")
