"""The options that several commands share, each defined once; a command names its own default."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prep.commands.replay import recorded_flags


class DatasetName(StrEnum):
    """The datasets whose trees are read as they are published. Typer takes no list of literals."""

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
    list[DatasetName], typer.Option("--dataset", help="Dataset to read; give it again for several.")
]
SplitBy = Annotated[
    str | None,
    typer.Option("--split-by", help="Whose split: unc, umd, google, berkeley. Default: the standard one."),
]
Splits = Annotated[
    list[str] | None, typer.Option("--split", help="Only this split; give it again for several.")
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help="Your own expressions as JSONL, in place of --data and --dataset.",
        metavar="FILE.jsonl",
    ),
]
ImageRoot = Annotated[
    Path | None, typer.Option("--image-root", help="Folder that the images of --input are relative to.")
]
ImageFolder = Annotated[
    Path | None,
    typer.Option("--images", help="A plain folder of images, in place of a dataset.", metavar="DIR"),
]
Out = Annotated[
    str, typer.Option("--out", help="The store: a folder, or an object store such as s3://bucket/prepared.")
]
Store = Annotated[str, typer.Option("--store", help="The store that pcnet-prep filled.")]
StoreArgument = Annotated[str, typer.Argument(help="The store: a folder or an object store's URI.")]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache", help="Answers already given, by content, shared between stores. Default: in --out."
    ),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Begin this stage anew: its rows in the store go, whatever made them."),
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=0, help="GPUs to use. Default: all visible ones, else the CPU.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Workers. Default: one, or one a GPU.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Run on this Ray cluster (auto, or ray://host:port).",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", help="Print what is left to do and what it would take, and run nothing."),
]


def _as_recorded(context: typer.Context, path: Path | None) -> Path | None:
    """Make a recorded run's flags the defaults of this one; eager, so that it comes before they are read."""
    if path is not None:
        context.default_map = recorded_flags(path, context.info_name or "")
    return path


FromManifest = Annotated[
    Path | None,
    typer.Option(
        "--from-manifest",
        help="Repeat the last run of this _manifest.json; further flags (--out) override its own.",
        metavar="FILE",
        callback=_as_recorded,
        is_eager=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
