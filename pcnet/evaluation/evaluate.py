"""Runs a model over a split and scores its response maps against the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcnet.evaluation.dataset import EvalSet, Item, load_evalset
from pcnet.evaluation.masks import StoredMasks
from pcnet.evaluation.outputs import save_cam, save_pseudo, write_report
from pcnet.evaluation.prms import as_arrays, choose
from pcnet.evaluation.responses import EvalSettings, Map, responses
from pcnet.metrics import RELEASED_THRESHOLD, Metrics, SampleScore, score_sample, summarise
from pcnet.model.checkpoint import load_model, read_checkpoint
from pcnet.model.pcnet import PCNet
from prep.cache.store import open_store
from prep.datasets.catalogue import Dataset

__all__ = ["EvalSettings", "Report", "evaluate", "evaluate_checkpoint", "validator"]


@dataclass(frozen=True)
class Report:
    """The metrics of an evaluation.

    ``metrics`` are over the expressions with a target, ``groups`` the same by expression type. ``no_target``
    counts the expressions without one (gRefCOCO): ``n``, and ``silent``, those whose map has no positive
    response. ``rows`` are the metrics of every expression, ``skipped`` counts what was not scored. ``prms``
    are the metrics over refs, each with the one map chosen for it. ``protocol``, ``threshold`` and
    ``sentences`` say how they were computed.
    """

    metrics: Metrics
    groups: dict[str, Metrics]
    no_target: dict[str, int]
    rows: list[dict[str, Any]]
    skipped: dict[str, int] = field(default_factory=dict)
    prms: Metrics | None = None
    protocol: str = "standard"
    threshold: float = RELEASED_THRESHOLD
    sentences: str = "all"

    def as_dict(self) -> dict[str, Any]:
        """The metrics without the rows, as JSON values; those of ``metrics`` at the top level."""
        return {
            **self.metrics.as_dict(),
            "groups": {name: metrics.as_dict() for name, metrics in self.groups.items()},
            "no_target": self.no_target,
            "skipped": self.skipped,
            "protocol": self.protocol,
            "threshold": self.threshold,
            "sentences": self.sentences,
            **({"prms": self.prms.as_dict()} if self.prms else {}),
        }


def evaluate(model: PCNet, evalset: EvalSet, settings: EvalSettings) -> Report:
    """Score every item of ``evalset``; the model's mode is restored afterwards."""
    rows: list[dict[str, Any]] = []
    scores: list[tuple[Item, SampleScore]] = []
    silent: list[bool] = []
    looks: list[tuple[Tensor, Tensor]] = []
    masks = StoredMasks(evalset)
    for item, response in responses(model, evalset, settings, looks):
        proposals = masks(item)
        score = score_sample(response, item.mask(), proposals, settings.threshold, item.boxes)
        if item.truth is None:
            silent.append(score.empty)
        else:
            scores.append((item, score))
        rows.append(_row(item, score))
        _save(item, response, proposals, settings)
    names = sorted({name for item, _ in scores for name in item.groups})
    return Report(
        metrics=summarise(score for _, score in scores),
        groups={name: summarise(s for item, s in scores if name in item.groups) for name in names},
        no_target={"n": len(silent), "silent": sum(silent)},
        rows=rows,
        skipped=evalset.skipped,
        prms=_chosen(evalset.items, scores, looks) if settings.prms else None,
        protocol=settings.protocol,
        threshold=settings.threshold,
    )


def _chosen(
    items: Sequence[Item],
    scores: Sequence[tuple[Item, SampleScore]],
    looks: Sequence[tuple[Tensor, Tensor]],
) -> Metrics:
    """The metrics over refs, each scored on the map that :func:`pcnet.evaluation.prms.choose` selects."""
    by_row = {item.row_id: score for item, score in scores}
    objects = [item.row_id if item.ref_id is None else (item.image, item.ref_id) for item in items]
    picked = choose(objects, *as_arrays(looks))
    rows = [items[row].row_id for row in picked.values()]
    return summarise(by_row[row] for row in rows if row in by_row)


def validator(
    dataset: Dataset, *, store: str, split: str, size: int | None
) -> Callable[[nn.Module], Metrics]:
    """The callback with which the trainer selects ``best.pt``: it returns a model's metrics over ``split``.

    The split's ground truth is read at once, so that missing data raises before the first step.
    """
    evalset = load_evalset(dataset, open_store(store), split)

    def validate(model: nn.Module) -> Metrics:
        if not isinstance(model, PCNet):
            raise TypeError(f"Expected a PCNet, got {type(model).__name__}.")
        return evaluate(model, evalset, EvalSettings(size=size or 320)).metrics

    return validate


def evaluate_checkpoint(
    checkpoint: Path,
    dataset: Dataset,
    *,
    store: str,
    split: str | None,
    settings: EvalSettings | None = None,
    sentences: str | None = None,
    refine: bool = False,
    recipe: str | None = None,
    stages: int | None = None,
    device: str = "auto",
    out: Path | None = None,
) -> Report:
    """Score a checkpoint over a split, as ``pcnet eval`` does.

    ``sentences`` is ``all`` or ``first``, by default that of ``settings.protocol``; with ``refine`` the
    metrics of the chosen proposals are also computed; ``recipe`` and ``stages`` replace the checkpoint's own.
    If ``settings.size`` is ``None``, the size it was trained with is used. With ``out``, the metrics and one
    row per expression are written there.

    :raises PrepError: if the file is not a checkpoint, or the store or the dataset lacks rows.
    """
    settings = settings or EvalSettings()
    model = load_model(checkpoint, stages, recipe)
    settings = replace(settings, size=settings.size or input_size(checkpoint, model))
    released = settings.protocol == "released"
    sentences = sentences or ("first" if released else "all")
    evalset = load_evalset(
        dataset,
        open_store(store),
        split,
        sentences=sentences,
        proposals=refine,
        released=released,
    )
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    report = replace(evaluate(model.to(where), evalset, settings), sentences=sentences)
    if out is not None:
        told = {key: value for key, value in asdict(settings).items() if not key.startswith("save_")}
        told |= {
            "dataset": dataset.name,
            "split_by": dataset.split_by,
            "split": split,
            "sentences": sentences,
        }
        told |= {"checkpoint": str(checkpoint), "store": store}
        write_report(out, report.as_dict(), report.rows, told)
    return report


def input_size(checkpoint: Path, model: PCNet) -> int:
    """The image size that a checkpoint was trained with; the released 320 if the file does not give one."""
    usual = 64 if model.config.encoder == "tiny" else 320
    told = read_checkpoint(checkpoint).get("training", {})
    size = told.get("config", {}).get("size") if isinstance(told, dict) else None
    return int(size or usual)


def _row(item: Item, score: SampleScore) -> dict[str, Any]:
    """An expression's row of the per-sample table."""
    return {
        "row_id": item.row_id,
        "ref_id": item.ref_id,
        "sent_id": item.sent_id,
        "image": item.image,
        "expression": item.text,
        "groups": list(item.groups),
        "no_target": item.truth is None,
        **asdict(score),
    }


def _save(item: Item, response: Map, proposals: NDArray[np.bool_] | None, settings: EvalSettings) -> None:
    """Save maps and pseudo masks under the names that a second-stage segmentor reads: image stem, ref,
    sentence.
    """
    ref = item.row_id if item.ref_id is None else item.ref_id
    name = f"{Path(item.image).stem}_{ref}_{item.sentence}"
    if settings.save_cam is not None:
        save_cam(settings.save_cam, name, response)
    if settings.save_pseudo is not None:
        save_pseudo(settings.save_pseudo, name, response, proposals, settings.threshold)
