"""Measures the paper's two losses on trained stages: collisions and gradients of IaD, hinge and S of RaS.

Reads checkpoints that benchmarks/ablation.py has trained in --out, and runs them on training batches (no
ground truth).

.venv/bin/python benchmarks/losses.py --out runs/ablation --runs crm-exact-1000+300-seed0
"""

from __future__ import annotations

import argparse
import statistics
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import Tensor

from pcnet.data.batch import Batch
from pcnet.data.collate import finish
from pcnet.losses import ambiguity, best_proposal, iad, iad_soft
from pcnet.maps import alignment, normalised, on_grid
from pcnet.model.checkpoint import load_model
from pcnet.recipes import recipe
from pcnet.training.objective import step_losses
from pcnet.training.setup import TrainConfig, prepare

COLUMNS = ("same choice", "tied best", "d IaD = 0", "d soft = 0", "hinge on", "S 1", "S 2", "S 3")
LOSSES = ("cls", "ras", "iad")


def batches(out: Path, generator: str, count: int) -> list[Batch]:
    """The first training batches, with partners."""
    config = TrainConfig(
        store=str(out / generator), data=str(out / "coco"), encoder="tiny", threads=1, quiet=True
    ).resolved()
    job = prepare(config)
    return [finish(job.maker(draw), torch.device("cpu")) for draw in islice(job.sampler.epoch(0), count)]


def zero_gradients(own: Tensor, other: Tensor, batch: Batch, soft: bool) -> Tensor:
    """(B,) bool: whether the loss of a pair has zero gradient for its own map."""
    same = torch.ones(len(own), dtype=torch.bool)
    leaf = own.clone().requires_grad_()
    loss = (
        iad_soft(leaf, other, batch.grid, same, temperature=10.0)
        if soft
        else iad(leaf, other, batch.grid, same)
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.flatten(1).abs().amax(1) == 0


def strengths(checkpoint: Path, shown: list[Batch]) -> list[float]:
    """The norm of each loss' gradient over all weights, in a training step of the paper's losses."""
    model = load_model(checkpoint).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    lengths: dict[str, list[float]] = {name: [] for name in LOSSES}
    for batch in shown:
        losses = step_losses(recipe("paper"), model(batch.images, **batch.texts(partners=True)), batch)
        for name, kept in lengths.items():
            loss = losses[name]
            found = (
                torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
                if loss.grad_fn
                else ()
            )
            kept.append(sum(float(g.square().sum()) for g in found if g is not None) ** 0.5)
    return [statistics.mean(kept) for kept in lengths.values()]


def look(checkpoint: Path, shown: list[Batch]) -> list[float]:
    """The row of one checkpoint: percentages of same-image pairs and of images, and the mean S per stage."""
    model = load_model(checkpoint)
    shares: list[list[Tensor]] = [[], [], [], []]
    hinges, ambiguities = [], []
    for batch in shown:
        with torch.no_grad():
            mine = model.responses(batch.images, batch.expression_ids, batch.phrase_ids)
            if batch.partner_expression_ids is None or batch.partner_phrase_ids is None:
                raise ValueError("The batch has no partners.")
            theirs = model.responses(batch.images, batch.partner_expression_ids, batch.partner_phrase_ids)
        pairs = batch.same_image
        own, other = mine[-1], theirs[-1]
        scores = [alignment(on_grid(normalised(one), batch.grid), batch.grid) for one in (own, other)]
        same = scores[0].argmax(-1) == scores[1].argmax(-1)
        tied = (scores[0] >= scores[0].amax(-1, keepdim=True)).sum(-1) > 1
        zeros = [zero_gradients(own, other, batch, soft) for soft in (False, True)]
        for kept, value in zip(shares, (same, tied, *zeros), strict=True):
            kept.append(value[pairs].float())
        responses = [on_grid(normalised(one), batch.grid) for one in mine]
        steps = [ambiguity(one, batch.grid, best_proposal(one, batch.grid)) for one in responses]
        ambiguities.append(torch.stack(steps, 1))
        hinges += [(later > earlier).float() for earlier, later in pairwise(steps)]
    percents = [100 * float(torch.cat(values).mean()) for values in shares]
    percents.append(100 * float(torch.cat(hinges).mean()) if hinges else 0.0)
    return [*percents, *torch.cat(ambiguities).mean(0).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--runs", nargs="+", required=True, help="folders in OUT/runs")
    parser.add_argument("--generator", choices=["exact", "segments"], default="exact")
    parser.add_argument("--batches", type=int, default=8)
    given = parser.parse_args()
    shown = batches(given.out, given.generator, given.batches)
    head = [f"{name:>13s}" for name in COLUMNS[:5]] + [f"{name:>8s}" for name in COLUMNS[5:]]
    print(f"{'':30s}" + "".join(head + [f"{f'|d {name}|':>9s}" for name in LOSSES]))
    for run in given.runs:
        checkpoint = given.out / "runs" / run / "last.pt"
        found = look(checkpoint, shown)
        told = [f"{value:12.1f}%" for value in found[:5]] + [f"{value:8.3f}" for value in found[5:]]
        told += [f"{'':8s}"] * (8 - len(told)) + [f"{value:9.3f}" for value in strengths(checkpoint, shown)]
        print(f"{run:30s}" + "".join(told), flush=True)


if __name__ == "__main__":
    main()
