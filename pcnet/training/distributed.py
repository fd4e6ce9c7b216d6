"""Runs the communication between the processes of data-parallel training; with one process, every operation
is the identity.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prep.errors import PrepError


class _Rows(Protocol):
    """What the forward pass keeps for the backward pass: the number of local rows."""

    rows: int


class _Gather(torch.autograd.Function):
    """All processes' rows in rank order; backward sums the gradients of the local rows over processes."""

    @staticmethod
    def forward(ctx: _Rows, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: _Rows, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.rows
        return whole[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class Ranks:
    """The rank of this process among those that train one model, and their collective operations."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local = int(os.environ.get("LOCAL_RANK", "0"))

    def device(self, asked: str) -> torch.device:
        """The device of this process; ``asked`` is ``auto``, ``cuda`` or ``cpu``.

        :raises PrepError: if a GPU was requested and is not available.
        """
        found = torch.cuda.device_count()
        if asked == "cpu" or (asked == "auto" and found == 0):
            return torch.device("cpu")
        if self.local >= found:
            raise PrepError(
                f"Process {self.local} has no GPU: this machine has {found}.",
                "Lower --gpus, or use --gpus 0 for the CPU.",
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def init(self, device: torch.device) -> None:
        """Initialise the process group from torchrun's environment; does nothing with one process."""
        if self.size > 1 and not dist.is_initialized():
            # This module keeps the process group that exists when it is imported, as a default argument, and
            # the optimiser's first step imports it. Then the group's threads would live until Python ends,
            # and could abort a finished process.
            importlib.import_module("torch.distributed.nn.functional")
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def destroy(self) -> None:
        """Destroy the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def gather(self, local: Tensor) -> Tensor:
        """(B, ...) of this process to (size * B, ...) of all, in rank order; gradients flow back to the
        process they belong to.
        """
        if self.size == 1:
            return local
        gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
        return gathered

    def sum(self, local: Tensor) -> Tensor:
        """The sum over processes, differentiable."""
        if self.size == 1:
            return local
        total: Tensor = _Sum.apply(local)  # type: ignore[no-untyped-call]
        return total

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over processes, in one all-reduce; a missing one
        counts as zero.
        """
        if self.size == 1:
            return
        owned = [p for p in parameters if p.requires_grad]
        for parameter in owned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [p.grad for p in owned if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each number over processes."""
        if self.size == 1:
            return values
        packed = torch.tensor(list(values.values()), dtype=torch.float64)
        if dist.get_backend() == "nccl":
            packed = packed.cuda()
        dist.all_reduce(packed)
        return dict(zip(values, (packed / self.size).tolist(), strict=True))

    def barrier(self) -> None:
        """Wait until every process has reached this call (a barrier)."""
        if self.size > 1:
            dist.barrier()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' images (torch's own supports GPUs only)."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; running statistics are updated as in torch."""
        if not self.training:
            return super().forward(input)
        channels = input.shape[1]
        count = input.numel() // channels * self.ranks.size
        mean = self.ranks.sum(input.sum((0, 2, 3))) / count
        centred = input - mean.view(1, -1, 1, 1)
        variance = self.ranks.sum(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                weight = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * count / max(count - 1, 1), weight)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1))


def share_batch_norm(model: nn.Module, ranks: Ranks) -> None:
    """Make every batch normalisation of ``model`` use the statistics of all processes, in place; parameter
    names do not change.
    """
    if ranks.size == 1:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
            module.ranks = ranks  # type: ignore[assignment]
