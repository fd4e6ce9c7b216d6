"""Defines the options shared by several commands; each command sets its own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from prep.commands.replay import recorded_flags
from prep.errors import PrepError

# The values of a command's options by their Python names; typer has checked the type of each.
Params: TypeAlias = Mapping[str, Any]


class DatasetName(StrEnum):
    """The datasets that are read in their published layout. Typer does not support lists of literals."""

    refcoco = "refcoco"
    refcoco_plus = "refcoco+"
    refcocog = "refcocog"
    grefcoco = "grefcoco"
    refclef = "refclef"


REFCOCO = [DatasetName.refcoco]  # the default of Datasets; typer copies it

Data = Annotated[
    Path, typer.Option("--data", help="Data root in the standard layout (refer/<dataset>/, train2014/).")
]
StoreData = Annotated[
    Path, typer.Option("--data", help="Folder that the store's image paths are relative to.")
]
COCO = Path("coco")  # the default of Data and StoreData
Datasets = Annotated[
    list[DatasetName], typer.Option("--dataset", help="Dataset to read; repeat for several.")
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        "--split-by", help="Split version: unc, umd, google or berkeley. Default: the standard one."
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeat for several.")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Only the first so many of the selection, to try a command."),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help="Your own expressions as JSONL, instead of --data and --dataset.",
        metavar="FILE.jsonl",
    ),
]
ImageRoot = Annotated[
    Path | None, typer.Option("--image-root", help="Folder that the image paths of --input are relative to.")
]
ImageFolder = Annotated[
    Path | None,
    typer.Option("--images", help="Plain folder of images, instead of a dataset.", metavar="DIR"),
]
Out = Annotated[
    str,
    typer.Option(
        "--store",
        "--out",
        "--output-dir",
        "-o",
        help="Store: a folder, or an object store URI such as s3://bucket/prepared.",
    ),
]
Store = Annotated[str, typer.Option("--store", help="Store with the phrases and proposals.")]
StoreArgument = Annotated[
    str | None, typer.Argument(help="Store: a folder or an object store URI. Default: prepared.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="The store, instead of by position.")]
Cache = Annotated[
    str | None,
    typer.Option("--cache", help="Response cache, shared across stores. Default: in the store."),
]
KeepMissing = Annotated[
    bool,
    typer.Option(
        "--keep-missing", help="Keep rows that the input no longer has; they are set aside otherwise."
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        "--overwrite",
        help="Overwrite this table: its existing rows go when the first new ones are written.",
    ),
]


def _as_gpus(context: typer.Context, device: str | None) -> str | None:
    """Give --gpus the number that a --device stands for; eager, so that it runs before --gpus is parsed."""
    if device is None:
        return None
    if device not in ("cpu", "cuda"):
        raise PrepError(
            f"--device is {device!r}.",
            "Use cpu or cuda; choose among several GPUs with CUDA_VISIBLE_DEVICES.",
        )
    from prep.devices import visible_gpus

    gpus = 0 if device == "cpu" else max(1, visible_gpus())
    context.default_map = {**(context.default_map or {}), "gpus": gpus}
    context.meta["prep.device"] = gpus
    return device


def _as_device(context: typer.Context, gpus: int | None) -> int | None:
    """Refuse a number of GPUs that contradicts --device."""
    meant = context.meta.get("prep.device")
    if meant is not None and gpus != meant and (meant == 0 or gpus == 0):
        raise PrepError(f"--gpus {gpus} contradicts --device.", "Give one of them.")
    return gpus


Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, help="Number of GPUs. Default: all visible ones, or the CPU.", callback=_as_device
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu is --gpus 0; cuda is all visible GPUs, at least one.",
        metavar="[cpu|cuda]",
        callback=_as_gpus,
        is_eager=True,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "--num-workers", min=1, help="Number of workers. Default: one per GPU."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Run on this Ray cluster (auto or ray://host:port).",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", "--dry-run", help="Print the remaining work and its estimated cost; run nothing."),
]


def _as_recorded(context: typer.Context, path: Path | None) -> Path | None:
    """Use the flags of a recorded run as defaults; eager, so that it runs before the others are parsed."""
    if path is not None:
        context.default_map = recorded_flags(path, context.info_name or "")
    return path


def chosen_store(by_position: str | None, by_option: str | None) -> str:
    """The store that a command is given in one of two ways; ``prepared`` if in none."""
    if by_position is not None and by_option is not None and by_position != by_option:
        raise PrepError(f"Two stores are given, {by_position} and {by_option}.", "Give one of them.")
    return by_position or by_option or "prepared"


def was_typed(context: typer.Context, name: str) -> bool:
    """Whether a flag's value is from the command line or the environment, and not only from a file.

    ``context.obj`` holds the words of the command line of `pcnet-prep run`, if that runs the command.
    """
    source, words = context.get_parameter_source(name), context.obj
    value, words = str(context.params[name]), words if isinstance(words, tuple) else ()
    typed = any(word == value or word.endswith(f"={value}") for word in words)
    return typed or (source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"))


FromManifest = Annotated[
    Path | None,
    typer.Option(
        "--from-manifest",
        help="Repeat the last run of this table's folder, or in this manifest; other flags, such as --store, "
        "override it.",
        metavar="TABLE",
        callback=_as_recorded,
        is_eager=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
