"""Reads a configuration file: the commands that it runs, and their flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperOption

from prep.commands.recipe_words import SHARED, Options, read_words, shared_key, unknown
from prep.errors import PrepError
from prep.inputs import read_plain

if TYPE_CHECKING:
    import yaml
    from typer.core import TyperCommand

# Options that belong on a command line, not in a configuration.
LEFT_OUT = ("help", "plan", "from_manifest", "as_json")

MAX_BYTES, MAX_KEYS = 1 << 20, 1000
# How people write booleans in quotes; YAML itself knows these words without them.
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass(frozen=True)
class Section:
    """A command with its flags by their Python names; the command line overrides the file."""

    command: str
    flags: dict[str, Any]


def read_configuration(
    path: Path, words: Sequence[str], commands: Mapping[str, TyperCommand]
) -> list[Section]:
    """The commands with a section in a file, in the order of ``commands`` (name -> click command).

    ``words`` are flags from the command line: they override the file in every command that shares them, or
    in one (``--sam.model``). Training on several datasets becomes one section per dataset. Values are
    checked later, when click parses the sections.

    :raises PrepError: if a name is unknown; the message suggests the closest one.
    """
    options = {name: _options(command) for name, command in commands.items()}
    loaded = _load(path)
    shared = {key: value for key, value in loaded.items() if key in SHARED}
    if {"out", "store"} <= shared.keys():
        raise PrepError(f"{path} has out and store, which are the same flag.", "Remove out.")
    for key in loaded:
        if key not in shared and key not in commands:
            raise unknown(f"{path}: {key} is neither a section nor a shared flag.", key, [*commands, *SHARED])
    chosen = [name for name in commands if name in loaded]
    if not chosen:
        raise PrepError(
            f"{path} has no section for a command.",
            f"Add at least one section, which may be empty: {', '.join(commands)}.",
        )
    typed = read_words(words, {name: options[name] for name in chosen})
    sections: list[Section] = []
    for name in chosen:
        own, known = _own(path, name, loaded[name]), options[name]
        for key in own:
            if key not in known:
                raise unknown(f"{path}: {name} has no flag {key}.", key, known)
        values: dict[str, object] = {}
        for flags in (_for_command(name, shared, known), own, typed[name]):
            values |= _values(path, name, flags, known)
        sections += _apart(Section(name, values))
    return [_with_checkpoint(section, sections) for section in sections]


def _values(path: Path, command: str, flags: Mapping[str, object], options: Options) -> dict[str, object]:
    """The values of ``flags`` by their Python names; two names of one flag are an error."""
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    for key, value in flags.items():
        option = options[key]
        if (before := names.setdefault(option.name, key)) != key:
            raise PrepError(
                f"{path}: {command} has {before} and {key}, which are the same flag.", f"Remove {key}."
            )
        values[option.name] = _value(path, command, key, value, option)
    return values


def command_line(section: Section, command: TyperCommand, program: str) -> str:
    """The command line that is equivalent to a section."""
    line, written = [program, section.command], set[str]()
    for name, option in _options(command).items():  # the first of the names that an option has
        if option.name in written:
            continue
        written.add(option.name)
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


def _load(path: Path) -> dict[str, object]:
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


def _options(command: TyperCommand) -> Options:
    """A command's options by their long names, without the dashes."""
    return {
        name[2:]: option
        for option in command.params
        if isinstance(option, TyperOption) and option.name not in LEFT_OUT
        for name in option.opts
        if name.startswith("--")
    }


def _own(path: Path, name: str, section: object) -> dict[str, object]:
    if not isinstance(section, dict | None):
        raise PrepError(
            f"{path}: {name} is not a section.", f"Indent its flags below '{name}:', as 'flag: value'."
        )
    return {str(key): value for key, value in (section or {}).items()}


def _for_command(name: str, shared: Mapping[str, object], options: Options) -> dict[str, object]:
    """The shared flags that a command accepts, under its own names."""
    return {key: value for old, value in shared.items() if (key := shared_key(name, old)) in options}


def _value(path: Path, name: str, key: str, value: object, option: TyperOption) -> object:
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


def _plain(item: object, option: TyperOption) -> object:
    """One value: a boolean for a flag that has no value, whole numbers without a point, else text."""
    if item is None or isinstance(item, bool):
        return item
    if option.is_flag and str(item).lower() in _BOOLEANS:
        return _BOOLEANS[str(item).lower()]
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item)


def _apart(section: Section) -> Iterator[Section]:
    """One section per dataset for training, and per dataset and split for evaluation, which take a single
    one; other sections unchanged.
    """
    apart = {"train": ("dataset",), "eval": ("dataset", "split")}.get(section.command, ())
    sections = [section]
    for name in apart:
        sections = [
            replace(one, flags={**one.flags, name: value}) if value is not None else one
            for one in sections
            for value in (one.flags[name] if isinstance(one.flags.get(name), list) else [one.flags.get(name)])
        ]
    for one in sections:
        given = one.flags.get("out")
        own = [one.flags[name] for name in apart if isinstance(section.flags.get(name), list)]
        yield (
            one
            if given is None or not own
            else replace(one, flags={**one.flags, "out": str(Path(given, *own))})
        )


def _with_checkpoint(section: Section, sections: Sequence[Section]) -> Section:
    """An evaluation without a checkpoint takes that of the file's training on the same data, and writes to a
    folder of the run.
    """
    if section.command != "eval" or "checkpoint" in section.flags:
        return section
    of = ("dataset", "input")
    for one in sections:
        if one.command == "train" and all(one.flags.get(name) == section.flags.get(name) for name in of):
            given = one.flags.get("input")
            name = one.flags.get("dataset", "refcoco") if given is None else Path(given).stem
            run = Path(one.flags.get("out") or Path("runs", name))
            made = {"checkpoint": str(run / "best.pt"), "out": str(run / section.flags.get("split", "val"))}
            return replace(section, flags=made | section.flags)
    return section
