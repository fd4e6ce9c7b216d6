"""Runs a model over a split and scores its response maps against the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcnet.data.collate import pad_phrases
from pcnet.evaluation.concepts import ConceptMasks, with_concepts
from pcnet.evaluation.confidence import confidence
from pcnet.evaluation.dataset import EvalSet, Item, load_evalset
from pcnet.evaluation.mask_metrics import MaskMetrics, MaskScore, mask_score, summarise_masks
from pcnet.evaluation.masks import SamMasks, StoredMasks, predicted_masks
from pcnet.evaluation.outputs import save_cam, save_pseudo, write_report
from pcnet.evaluation.responses import EvalSettings, Map, responses
from pcnet.metrics import RELEASED_THRESHOLD, Metrics, SampleScore, binarise, score_sample, summarise
from pcnet.model.checkpoint import load_model, read_checkpoint
from pcnet.model.pcnet import PCNet
from pcnet.model.prms import as_arrays, choose
from prep.cache.store import open_store
from prep.datasets.catalogue import Dataset
from prep.engine.progress import progress
from prep.proposals.prompt import PointPrompter

__all__ = ["EvalSettings", "Report", "evaluate", "evaluate_checkpoint", "validator"]


T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """The metrics of an evaluation.

    ``metrics`` are over the expressions with a target, ``groups`` the same by expression type. ``no_target``
    counts the expressions without one (gRefCOCO): ``n``, and ``silent``, those whose map has no positive
    response. ``rows`` are the metrics of every expression, ``skipped`` counts what was not scored. ``prms``
    are the metrics over refs, each with the one map chosen for it. ``protocol``, ``threshold`` and
    ``sentences`` say how they were computed. ``masks`` are the metrics of each kind of mask.
    """

    metrics: Metrics
    groups: dict[str, Metrics]
    no_target: dict[str, int]
    rows: list[dict[str, object]]
    skipped: dict[str, int] = field(default_factory=dict)
    prms: Metrics | None = None
    protocol: str = "standard"
    threshold: float = RELEASED_THRESHOLD
    sentences: str = "all"
    masks: dict[str, MaskMetrics] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The metrics without the rows, as JSON values; those of ``metrics`` at the top level."""
        return {
            **self.metrics.as_dict(),
            "groups": {name: metrics.as_dict() for name, metrics in self.groups.items()},
            "no_target": self.no_target,
            "skipped": self.skipped,
            "protocol": self.protocol,
            "threshold": self.threshold,
            "sentences": self.sentences,
            "masks": {kind: metrics.as_dict() for kind, metrics in self.masks.items()},
            **({"prms": self.prms.as_dict()} if self.prms else {}),
        }


def evaluate(
    model: PCNet, evalset: EvalSet, settings: EvalSettings, sam: SamMasks | None = None, label: str = ""
) -> Report:
    """Score every item of ``evalset``; the model's mode is restored afterwards. ``label`` shows progress."""
    table: dict[str, list[MaskScore]] = {}
    rows: list[dict[str, object]] = []
    scores: list[tuple[Item, SampleScore]] = []
    silent: list[bool] = []
    looks: list[tuple[Tensor, Tensor]] = []
    stored, concepts = StoredMasks(evalset), ConceptMasks(evalset)
    seen = []
    for item, response in _shown(responses(model, evalset, settings, looks), len(evalset.items), label):
        seen.append(item)
        proposals, truth = stored(item), item.mask()
        score = score_sample(response, truth, proposals, settings.threshold, item.boxes)
        masks = predicted_masks(item, response, score, proposals, sam, settings, concepts)
        found = {kind: _mask_score(kind, mask, item, truth, score) for kind, mask in masks.items()}
        for kind, one in found.items():
            table.setdefault(kind, []).append(one)
        if item.truth is None:
            silent.append(score.empty)
        else:
            scores.append((item, score))
        sure = confidence(response, proposals, score.proposal)
        read = pad_phrases(item.phrases, model.config.phrases_used)
        rows.append({**_row(item, score), "phrases": read, **sure, **_mask_columns(found)})
        _save(item, response, masks, settings)
    names = sorted({name for item, _ in scores for name in item.groups})
    return Report(
        metrics=summarise(score for _, score in scores),
        groups={name: summarise(s for item, s in scores if name in item.groups) for name in names},
        no_target={"n": len(silent), "silent": sum(silent)},
        rows=rows,
        skipped=evalset.skipped,
        prms=_chosen(seen, scores, looks) if settings.prms else None,
        protocol=settings.protocol,
        threshold=settings.threshold,
        masks={kind: summarise_masks(scored) for kind, scored in table.items()},
    )


def _shown(found: Iterator[T], total: int, label: str) -> Iterator[T]:
    """The same, with progress; none without a label."""
    with progress(label, total, quiet=not label) as bar:
        for number, one in enumerate(found, 1):
            bar.update(number)
            yield one


def _mask_score(
    kind: str, mask: NDArray[np.bool_], item: Item, truth: NDArray[np.bool_], score: SampleScore
) -> MaskScore:
    """The score of one mask; an oracle also knows whether there is a target."""
    has_target = item.truth is not None
    silent = not has_target if kind.startswith("oracle") else score.empty
    return mask_score(mask, truth, has_target, silent)


def _mask_columns(found: Mapping[str, MaskScore]) -> dict[str, float]:
    """The columns of masks of concepts and of SAM; the others are in :class:`pcnet.metrics.SampleScore`."""
    return {
        f"{kind}_{name}": getattr(found[kind], name)
        for kind in ("concept", "sam", "oracle_sam")
        if kind in found
        for name in ("intersection", "union", "iou")
    }


def _chosen(
    items: Sequence[Item],
    scores: Sequence[tuple[Item, SampleScore]],
    looks: Sequence[tuple[Tensor, Tensor]],
) -> Metrics:
    """The metrics over refs, each scored on the map that :func:`pcnet.model.prms.choose` selects."""
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
    limit: int | None = None,
    refine: bool = False,
    prompter: PointPrompter | None = None,
    oracle: bool = False,
    recipe: str | None = None,
    stages: int | None = None,
    device: str = "auto",
    out: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Score a checkpoint over a split, as ``pcnet eval`` does.

    ``sentences`` is ``all`` or ``first``, by default that of ``settings.protocol``, and ``limit`` keeps only
    the first so many of these; ``refine`` adds ``proposal`` to ``settings.masks``; ``prompter`` makes the
    masks ``sam``, with ``oracle`` also those prompted at a point of the target; ``recipe`` and ``stages``
    replace the checkpoint's own. If ``settings.size`` is ``None``, the size it was trained with is used. With
    ``out``, the metrics and one row per expression are written there. ``tell`` receives one line about what
    is evaluated before it begins, and progress is shown.

    :raises PrepError: if the file is not a checkpoint, or the store or the dataset lacks rows.
    """
    settings = settings or EvalSettings()
    model = load_model(checkpoint, stages, recipe)
    settings = replace(settings, size=settings.size or input_size(checkpoint, model))
    if refine and "proposal" not in settings.masks:
        settings = replace(settings, masks=(*settings.masks, "proposal"))
    released = settings.protocol == "released"
    sentences = sentences or ("first" if released else "all")
    evalset = _evalset(dataset, store, split, settings, sentences, limit)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    sam = None if prompter is None else SamMasks(evalset.root, prompter, oracle)
    if tell is not None:
        tell(f"{_intro(evalset, dataset, split, sentences, settings)}; {where}{f'; to {out}' if out else ''}")
    label = "" if tell is None else "evaluating"
    report = replace(evaluate(model.to(where), evalset, settings, sam, label), sentences=sentences)
    if out is not None:
        told = {key: value for key, value in asdict(settings).items() if not key.startswith("save_")}
        told |= {"dataset": dataset.name, "split_by": dataset.split_by, "split": split}
        told |= {"limit": limit, "sentences": sentences, "checkpoint": str(checkpoint), "store": store}
        write_report(out, report.as_dict(), report.rows, told)
    return report


def _evalset(
    dataset: Dataset, store: str, split: str | None, settings: EvalSettings, sentences: str, limit: int | None
) -> EvalSet:
    """The items to evaluate, with the stored masks that ``settings.masks`` names."""
    opened, kinds = open_store(store), settings.masks
    evalset = load_evalset(
        dataset,
        opened,
        split,
        sentences=sentences,
        limit=limit,
        proposals="proposal" in kinds,
        released=settings.protocol == "released",
    )
    return with_concepts(evalset, opened) if "concept" in kinds else evalset


def _intro(
    evalset: EvalSet, dataset: Dataset, split: str | None, sentences: str, settings: EvalSettings
) -> str:
    """What is evaluated, and how, in one line."""
    left = "".join(f", {count:,} left out: {why}" for why, count in sorted(evalset.skipped.items()))
    images = len({item.image for item in evalset.items})
    return (
        f"evaluating on {len(evalset.items):,} expressions and {images:,} images of {dataset.name} "
        f"{split or '(all)'}{left}; protocol {settings.protocol}, sentences {sentences}, masks "
        f"{', '.join(settings.masks)}, {settings.size} px, batch {settings.batch_size}"
    )


def input_size(checkpoint: Path, model: PCNet) -> int:
    """The image size that a checkpoint was trained with; the released 320 if the file does not give one."""
    usual = 64 if model.config.encoder == "tiny" else 320
    told = read_checkpoint(checkpoint).get("training", {})
    size = told.get("config", {}).get("size") if isinstance(told, dict) else None
    return int(size or usual)


def _row(item: Item, score: SampleScore) -> dict[str, object]:
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


def _save(item: Item, response: Map, masks: Mapping[str, NDArray[np.bool_]], settings: EvalSettings) -> None:
    """Save maps and pseudo masks under the names that a second-stage segmentor reads: image stem, ref,
    sentence.

    The pseudo mask is of the last kind of ``settings.masks``; of an image without proposals it is the map's.
    """
    ref = item.row_id if item.ref_id is None else item.ref_id
    name = f"{Path(item.image).stem}_{ref}_{item.sentence}"
    if settings.save_cam is not None:
        save_cam(settings.save_cam, name, response)
    if settings.save_pseudo is not None:
        mask = masks[settings.masks[-1]]
        if settings.masks[-1] == "proposal" and not mask.any():
            mask = binarise(response, settings.threshold)
        save_pseudo(settings.save_pseudo, name, mask)
