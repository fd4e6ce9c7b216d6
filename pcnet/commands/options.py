"""The options that several commands of `pcnet` share, each defined once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

RecipeName = Literal["paper", "released", "plus"]
TrainedSize = Annotated[
    int | None, typer.Option("--size", min=16, max=4096, help="Image side in pixels. Default: as trained.")
]
TrainedStages = Annotated[
    int | None, typer.Option("--stages", min=1, max=4, help="Stages to run. Default: the checkpoint's.")
]
