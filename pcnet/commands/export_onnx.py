"""`pcnet export-onnx`: writes a checkpoint as one ONNX file, which other programs can run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcnet.commands.options import TrainedSize, TrainedStages, check_is_there
from prep.commands import options as shared
from prep.commands.output import emit

Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint of pcnet distill or pcnet train.")]
OnnxFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="File to write. Default: CHECKPOINT with .onnx.")
]


def export_onnx(
    checkpoint: Checkpoint,
    out: OnnxFile = None,
    size: TrainedSize = None,
    stages: TrainedStages = None,
    as_json: shared.Json = False,
) -> None:
    """Write a checkpoint as one ONNX file: pixels and token ids in, the response map out.

    The mask is where the response is positive. The tokenizer is in the file's metadata.
    """
    from pcnet import load_model
    from pcnet.evaluation.evaluate import input_size
    from pcnet.model.export import export_onnx as export

    check_is_there(checkpoint)
    model = load_model(checkpoint, stages)
    path, side = out or checkpoint.with_suffix(".onnx"), size or input_size(checkpoint, model)
    export(model, path, side)
    emit({"onnx": path, "size": side}, [f"{path}: {path.stat().st_size:,} bytes, input {side} px"], as_json)
