"""Defines the options that choose the masks of `pcnet eval` and `predict`, and opens SAM for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prep.errors import PrepError

if TYPE_CHECKING:
    from pcnet.evaluation.mask_metrics import MaskMetrics
    from prep.proposals.prompt import PointPrompter

KINDS = ("map", "proposal", "concept", "sam")
PREDICTED = ("map", "proposal", "sam")  # `pcnet predict` has no store of concepts

MaskKinds = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        help="Mask to score: map (above --threshold), proposal (the stored one under the peak), concept "
        "(that of the target phrase, from pcnet-prep concepts) or sam (SAM prompted at the peak); repeat for "
        "several. Default: map.",
        metavar="[map|proposal|concept|sam]",
    ),
]
MaskKind = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="Mask to write: map, proposal (of --generator, under the peak) or sam (prompted at the peak). "
        "Default: proposal; map with --generator none.",
        metavar="[map|proposal|sam]",
    ),
]
SamModel = Annotated[
    str, typer.Option("--sam", help="Model of --mask sam: vit_b, vit_l, vit_h or hf:<ID or folder>.")
]
SamCheckpoint = Annotated[
    Path | None, typer.Option(help="Weights of --sam. Default: the standard file in checkpoints/.")
]
SingleMask = Annotated[
    bool, typer.Option("--single-mask", help="Ask SAM for one mask, not for the best of three.")
]
Oracle = Annotated[
    bool, typer.Option("--oracle", help="Also prompt SAM at a point of the target (with --mask sam).")
]
EmbeddingsFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Keep SAM's embeddings of images in this folder (4 MiB each) and use them."),
]


def kinds_of(given: Sequence[str], refine: bool = False, known: Sequence[str] = KINDS) -> tuple[str, ...]:
    """The kinds of mask that the options name, each once and ``known``; ``refine`` adds ``proposal``."""
    named = [kind.strip() for one in given for kind in one.split(",")] or ["map"]
    for kind in named:
        if kind not in known:
            raise PrepError(f"--mask is {kind!r}.", f"Choose one of: {', '.join(known)}.")
    return tuple(dict.fromkeys([*named, *(["proposal"] if refine else [])]))


def prompter_of(
    kinds: Sequence[str],
    model: str,
    checkpoint: Path | None,
    single: bool,
    device: str,
    cache: Path | None = None,
) -> PointPrompter | None:
    """SAM, if ``kinds`` has it."""
    if "sam" not in kinds:
        return None
    from prep.proposals.prompt import open_prompter

    return open_prompter(model, checkpoint, single, device, cache)


def table_lines(masks: Mapping[str, MaskMetrics]) -> Iterator[str]:
    """One line per kind of mask, in percent; the accuracies only where expressions have no target."""
    heads = ("mIoU", "oIoU", "P@0.5", "P@0.7", "P@0.9")
    more = ("gIoU", "cIoU", "N-acc.", "T-acc.") if any(one.n_no_target for one in masks.values()) else ()
    yield " ".join([f"{'mask':<15}", *(f"{head:>6}" for head in (*heads, *more))])
    names = {"oracle": "best proposal", "oracle_sam": "SAM at target"}
    for kind, one in masks.items():
        values = [one.miou, one.oiou, one.p50, one.p70, one.p90]
        values += [one.giou, one.ciou, one.n_acc or 0.0, one.t_acc] if more else []
        yield " ".join([f"{names.get(kind, kind):<15}", *(f"{value:6.2f}" for value in values)])
