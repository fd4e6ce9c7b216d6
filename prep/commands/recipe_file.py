"""Reads a configuration file: the commands that it runs, and their flags."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prep.errors import PrepError
from prep.inputs import read_plain

if TYPE_CHECKING:
    import yaml

# Flags with the same meaning in every command that has them; they may appear above the sections.
SHARED = (
    "data", "dataset", "split-by", "split", "input", "image-root", "out", "cache", "replace", "gpus",
    "workers", "ray-address",
)  # fmt: skip
# The shared flags that apply to training, with its names: it reads the store that the stages write.
TRAIN = "train"
TRAIN_SHARED = {name: name for name in ("data", "dataset", "split-by", "input", "image-root", "gpus")}
TRAIN_SHARED["out"] = "store"
# Options that belong on a command line, not in a configuration.
LEFT_OUT = ("help", "plan", "from_manifest", "as_json")

MAX_BYTES, MAX_KEYS = 1 << 20, 1000
# How people write booleans in quotes; YAML itself knows these words without them.
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}

Options = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A command with its flags by their Python names; the command line overrides the file."""

    command: str
    flags: dict[str, Any]


def read_configuration(path: Path, words: Sequence[str], commands: Mapping[str, Any]) -> list[Section]:
    """The commands with a section in a file, in the order of ``commands`` (name -> click command).

    ``words`` are flags from the command line: they override the file in every command that shares them, or
    in one (``--sam.model``). Training on several datasets becomes one section per dataset. Values are
    checked later, when click parses the sections.

    :raises PrepError: if a name is unknown; the message suggests the closest one.
    """
    options = {name: _options(command) for name, command in commands.items()}
    loaded = _load(path)
    shared = {key: value for key, value in loaded.items() if key in SHARED}
    for key in loaded:
        if key not in shared and key not in commands:
            raise _unknown(
                f"{path}: {key} is neither a section nor a shared flag.", key, [*commands, *SHARED]
            )
    chosen = [name for name in commands if name in loaded]
    if not chosen:
        raise PrepError(
            f"{path} has no section for a command.",
            f"Add at least one section, which may be empty: {', '.join(commands)}.",
        )
    given = {
        name: _for_command(name, shared, options[name]) | _own(path, name, loaded[name]) for name in chosen
    }
    for name, flags in _overrides(words, {name: options[name] for name in chosen}).items():
        given[name] |= flags
    sections: list[Section] = []
    for name, flags in given.items():
        for key in flags:
            if key not in options[name]:
                raise _unknown(f"{path}: {name} has no flag {key}.", key, options[name])
        values = {
            options[name][key].name: _value(path, name, key, flags[key], options[name][key]) for key in flags
        }
        sections += _by_dataset(Section(name, values))
    return sections


def command_line(section: Section, command: Any, program: str) -> str:
    """The command line that is equivalent to a section."""
    line = [program, section.command]
    for name, option in _options(command).items():
        value = section.flags.get(option.name)
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                line.append(f"--{name}")
            elif item is False:
                line += option.secondary_opts[:1]
            elif item is not None:
                line += [f"--{name}", item]
    return shlex.join(line)


def _loader() -> type[yaml.SafeLoader]:
    """PyYAML's safe loader, without mappings that merge each other into ever larger ones."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            seen = set()
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                    problem = f"{key.value} is there more than once"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
            super().flatten_mapping(node)
            if len(node.value) > MAX_KEYS:
                raise yaml.constructor.ConstructorError(
                    None, None, "a mapping of too many keys", node.start_mark
                )

    return Loader


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.load(read_plain(path, MAX_BYTES).decode(), _loader())
    except OSError as error:
        raise PrepError(
            f"{path} cannot be read: {error.strerror}.", "Use: pcnet-prep run FILE.yaml [--flag value ...]"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()).rstrip(".")
        raise PrepError(f"{path} is not valid YAML: {problem}.", "See docs/run.md.") from error
    if not isinstance(loaded, dict):
        raise PrepError(f"{path} has no sections.", "See docs/run.md.")
    return {str(key): value for key, value in loaded.items()}


def _options(command: Any) -> Options:
    """A command's options by their long names, without the dashes."""
    return {
        name[2:]: option
        for option in command.params
        if option.name not in LEFT_OUT
        for name in option.opts
        if name.startswith("--")
    }


def _own(path: Path, name: str, section: Any) -> dict[str, Any]:
    if not isinstance(section, dict | None):
        raise PrepError(
            f"{path}: {name} is not a section.", f"Indent its flags below '{name}:', as 'flag: value'."
        )
    return {str(key): value for key, value in (section or {}).items()}


def _for_command(name: str, shared: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The shared flags that a command accepts, under its own names."""
    named = {TRAIN_SHARED.get(key, "") if name == TRAIN else key: value for key, value in shared.items()}
    return {key: value for key, value in named.items() if key in options}


def _value(path: Path, name: str, key: str, value: Any, option: Any) -> Any:
    """A value in the form that click expects: a string or a boolean, in a list if the flag is repeatable."""
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(v, list | dict) for v in value)
    ):
        raise PrepError(f"{path}: {name}.{key} is neither a value nor a list of values.", "See docs/run.md.")
    several = value if isinstance(value, list) else [value]
    if not option.is_flag and any(isinstance(item, bool) for item in several):
        raise PrepError(
            f"{path}: {name}.{key} is yes or no, as YAML reads these words.",
            f'Put the value in quotes, such as {key}: "no".',
        )
    plain = [_plain(item, option) for item in several]
    return plain if isinstance(value, list) or (option.multiple and value is not None) else plain[0]


def _plain(item: Any, option: Any) -> Any:
    """One value: a boolean for a flag that has no value, whole numbers without a point, else text."""
    if item is None or isinstance(item, bool):
        return item
    if option.is_flag and str(item).lower() in _BOOLEANS:
        return _BOOLEANS[str(item).lower()]
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item)


def _by_dataset(section: Section) -> Iterator[Section]:
    """One section per dataset for training, which takes a single dataset; other sections unchanged."""
    datasets = section.flags.get("dataset")
    if section.command != TRAIN or not isinstance(datasets, list):
        yield section
        return
    for name in datasets:
        yield replace(section, flags={**section.flags, "dataset": name})


def _overrides(words: Sequence[str], options: Mapping[str, Options]) -> dict[str, dict[str, Any]]:
    """The command-line flags of each command; a repeated flag has a list of values."""
    found: dict[str, dict[str, Any]] = {name: {} for name in options}
    left = iter(words)
    for word in left:
        flag, equals, value = word.removeprefix("--").partition("=")
        targets = _targets(word, flag, options)
        takes_none = all(options[name][key].is_flag for name, key in targets)
        given: Any = value if equals else True if takes_none else next(left, None)
        if given is None:
            raise PrepError(f"--{flag} needs a value.", f"Use: --{flag} VALUE")
        for name, key in targets:
            before = found[name].get(key, [])
            found[name][key] = given if takes_none else [*before, given]
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
            raise _unknown(f"There is no flag {word}.", f"--{flag}", known)
        return [(name, key)]
    if flag in SHARED:
        own = {name: TRAIN_SHARED.get(flag, "") if name == TRAIN else flag for name in options}
        return [(name, key) for name, key in own.items() if key in options[name]]
    targets = [(name, flag) for name in options if flag in options[name]]
    if not targets:
        known = (f"--{key}" for own in options.values() for key in own)
        raise _unknown(f"No command in this file has a flag {word}.", f"--{flag}", known)
    if len(targets) > 1:
        names = [name for name, _ in targets]
        raise PrepError(
            f"{word} is a flag of {' and '.join(names)}.",
            f"Use {' or '.join(f'--{n}.{flag}' for n in names)}.",
        )
    return targets


def _unknown(what: str, name: str, known: Iterable[str]) -> PrepError:
    """The error for an unknown name, with the closest known one."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name.replace("_", "-"), names, n=1)
    return PrepError(what, f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(names)}.")
