"""Chooses the device that masks are computed on, and the precision of its matrix products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from prep.errors import PrepError
from prep.proposals.sam.settings import GridSettings


def device_of(settings: GridSettings) -> torch.device:
    """The device to run on; raises PrepError for a CUDA device that is not available."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise PrepError(f"The device is {settings.device!r}.", "Set it to cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise PrepError(
            f"The device {settings.device} is not available: torch sees {torch.cuda.device_count()} GPUs.",
            "Set --gpus 0 to run on the CPU, or check the driver with nvidia-smi.",
        )
    return device


@contextlib.contextmanager
def reduced_precision(device: torch.device) -> Iterator[None]:
    """Within this context, a GPU multiplies float32 matrices in TF32."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
