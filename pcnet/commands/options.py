"""Defines the options shared by several commands of `pcnet`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

RecipeName = Literal["paper", "released", "plus"]
TrainedSize = Annotated[
    int | None,
    typer.Option("--size", min=16, max=4096, help="Image side in pixels. Default: as in training."),
]
TrainedStages = Annotated[
    int | None,
    typer.Option("--stages", min=1, max=4, help="Number of stages to run. Default: the checkpoint's."),
]
