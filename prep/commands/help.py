"""The class of every command: groups the options in its help, and refuses URIs where paths are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Protocol

import typer
from typer.core import TyperCommand, TyperOption

from prep.display import set_level, without_secrets
from prep.errors import PrepError
from prep.records import Untyped

# The Python names of the options in each group; an option that is in none of them is under "Run".
GROUPS: dict[str, tuple[str, ...]] = {
    "Input": (
        "data", "dataset", "split_by", "split", "limit", "input", "image_root", "images", "hard", "source",
        "store", "named", "evaluation", "image", "text",
    ),
    "Model": (
        "llm", "task", "prompt", "revision", "chat_template", "quantization", "dtype", "max_model_len",
        "temperature", "generator",
        "model", "checkpoint", "preset", "fidelity", "weights", "template", "background", "margin", "encoder",
        "text_encoder", "vit_features", "teacher", "detector",
        "clip_weights", "recipe", "stages", "size", "sam", "sam_checkpoint",
    ),
    "Masks": (
        "points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh",
        "stability_score_offset", "box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio",
        "crop_n_points_downscale_factor", "min_mask_region_area", "min_area", "max_overlap", "max_masks",
        "layout", "side", "mask", "masks", "refine", "threshold", "single_mask", "oracle",
        "phrases_per_batch", "freesolo", "mask_threshold", "use_m2m", "multimask_output",
    ),
    "Training": (
        "begin_from", "weight", "epochs", "epoch", "steps", "batch_size", "accumulate", "lr",
        "lr_encoder", "freeze", "seed", "val_split",
    ),
    "Evaluation": ("protocol", "sentences", "prms"),
    "Output": (
        "out", "cache", "replace", "keep_missing", "keep_raw", "max_failed", "restart", "log",
        "save_cam", "save_pseudo", "save_stages", "exclude", "as_json", "shown",
    ),
    "Machine": (
        "gpus", "device", "workers", "ray_address", "tensor_parallel", "gpu_memory", "max_num_seqs",
        "max_num_batched_tokens", "concurrency", "batch_invariant",
    ),
    "Run": ("quiet", "verbose", "plan", "from_manifest", "repair", "load", "help"),
}  # fmt: skip
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")
FEW = 8  # a command with fewer options has one list


def _quiet(given: bool) -> None:
    if given:
        set_level("quiet")


def _verbose(given: bool) -> None:
    if given:
        set_level("verbose")


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", expose_value=False, callback=_quiet, help="Print errors and results alone."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        expose_value=False,
        callback=_verbose,
        help="Show what vLLM prints, instead of sending it to a log file.",
    ),
]


@cache
def _levels() -> list[TyperOption]:
    """The options --quiet and --verbose, as typer makes them of a function's parameters."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def any_command(quiet: Quiet = False, verbose: Verbose = False) -> None:
        pass

    made = [one for one in typer.main.get_command(app).params if isinstance(one, TyperOption)]
    return [one for one in made if one.name in ("quiet", "verbose")]


class Parameter(Protocol):
    """What is used of an option or argument; typer may bundle a copy of click's classes."""

    @property
    def name(self) -> str | None:
        """Its Python name."""

    @property
    def param_type_name(self) -> str:
        """``option`` or ``argument``."""

    def get_help_record(self, ctx: typer.Context) -> tuple[str, str] | None:
        """Its names and what it does; None if it is hidden."""


class Command(TyperCommand):
    """A command with --quiet and --verbose and options in groups, whose paths are those of this machine."""

    def __init__(self, *arguments: Untyped, **settings: Untyped) -> None:
        super().__init__(*arguments, **settings)
        self.params += _levels()

    def parse_args(self, ctx: Untyped, args: list[str]) -> list[str]:
        """Parse the command line, and refuse a URI where a path is wanted, before anything is read."""
        set_level("normal")  # how much is said does not remain from a command before this one
        rest = super().parse_args(ctx, args)
        for option in self.params:
            value = ctx.params.get(option.name)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path):
                    named = option.opts[0]
                    _check_local(named if named.startswith("-") else named.upper(), path)
        return rest

    def format_options(self, ctx: Untyped, formatter: Untyped) -> None:
        """Write the arguments, then each group of options that is not empty."""
        arguments = [p.get_help_record(ctx) for p in self.get_params(ctx) if p.param_type_name == "argument"]
        if shown := [record for record in arguments if record is not None]:
            with formatter.section("Arguments"):
                formatter.write_dl(shown)
        for title, options in grouped(self.get_params(ctx)):
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def grouped(parameters: Iterable[Parameter]) -> Iterator[tuple[str, list[Parameter]]]:
    """The options among a command's parameters, by group; all under "Options" if there are few."""
    options = [one for one in parameters if one.param_type_name == "option"]
    if len(options) < FEW:
        yield "Options", options
        return
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    for group in GROUPS:
        yield group, [one for one in options if group_of.get(str(one.name), "Run") == group]


def _check_local(name: str, path: Path) -> None:
    """Raise :class:`PrepError` for a URI; pathlib has made one slash of the two."""
    found = _URI.match(str(path))
    if found is None or path.exists():
        return
    scheme, rest = found.groups()
    uri = without_secrets(f"{scheme}://{rest}")
    if scheme.lower() == "file":
        raise PrepError(f"{name} takes a path, not {uri}.", f"Give it as /{rest}")
    raise PrepError(
        f"{name} takes a path of this machine, not {uri}.",
        "Copy it here (`aws s3 sync`, `gcloud storage rsync`, `azcopy`, `hf download`) or mount it, and give "
        "its path. Only --store and --cache may be object stores.",
    )
