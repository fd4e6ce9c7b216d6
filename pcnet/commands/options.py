"""Defines the options shared by several commands of `pcnet`, and checks their checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prep.errors import PrepError

RecipeName = Literal["paper", "released", "plus"]
TrainedSize = Annotated[
    int | None,
    typer.Option("--size", min=16, max=4096, help="Image side in pixels. Default: as in training."),
]
TrainedStages = Annotated[
    int | None,
    typer.Option("--stages", min=1, max=4, help="Number of stages to run. Default: the checkpoint's."),
]


def check_is_there(checkpoint: Path) -> None:
    """Check that the checkpoint is a file; raises :class:`PrepError` if it is not."""
    if not checkpoint.is_file():
        raise PrepError(
            f"There is no checkpoint {checkpoint}.",
            "Use best.pt or last.pt from the output folder of `pcnet train`.",
        )
