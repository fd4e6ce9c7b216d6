"""Runs a model over a split and scores its response maps against the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcnet.data.batch import upsample
from pcnet.data.collate import pad_phrases, prefetch
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.evaluation.dataset import EvalSet, Item, Rle, decode, load_evalset
from pcnet.evaluation.outputs import save_cam, save_pseudo, save_stages, write_report
from pcnet.evaluation.prms import as_arrays, choose, features
from pcnet.metrics import (
    RELEASED_THRESHOLD,
    Metrics,
    SampleScore,
    score_sample,
    summarise,
)
from pcnet.model.checkpoint import load_model, read_checkpoint
from pcnet.model.pcnet import PCNet
from prep.cache.store import open_store
from prep.datasets.catalogue import Dataset

Map = NDArray[np.float32]


@dataclass(frozen=True)
class EvalSettings:
    """How response maps are scored.

    ``threshold`` on the normalised map gives the mask (1e-9 in the released code; 0.5 is also common);
    ``size`` is the side of the network's input; ``save_cam`` and ``save_pseudo`` are folders for maps and
    masks, ``save_stages`` one for the raw maps of every stage. With ``prms``, one map per ref is also chosen
    among those of its expressions: the one most similar to all of them.
    """

    threshold: float = RELEASED_THRESHOLD
    size: int | None = None
    batch_size: int = 32
    threads: int = 2
    save_cam: Path | None = None
    save_pseudo: Path | None = None
    save_stages: Path | None = None
    prms: bool = False


@dataclass(frozen=True)
class Report:
    """The metrics of an evaluation.

    ``metrics`` are over the expressions with a target, ``groups`` the same by expression type. ``no_target``
    counts the expressions without one (gRefCOCO): ``n``, and ``silent``, those whose map has no positive
    response. ``rows`` are the metrics of every expression, ``skipped`` counts what was not scored. ``prms``
    are the metrics over refs, each with the one map chosen for it.
    """

    metrics: Metrics
    groups: dict[str, Metrics]
    no_target: dict[str, int]
    rows: list[dict[str, Any]]
    skipped: dict[str, int] = field(default_factory=dict)
    prms: Metrics | None = None

    def as_dict(self) -> dict[str, Any]:
        """The metrics without the rows, as JSON values; those of ``metrics`` at the top level."""
        return {
            **self.metrics.as_dict(),
            "groups": {name: metrics.as_dict() for name, metrics in self.groups.items()},
            "no_target": self.no_target,
            "skipped": self.skipped,
            **({"prms": self.prms.as_dict()} if self.prms else {}),
        }


def evaluate(model: PCNet, evalset: EvalSet, settings: EvalSettings) -> Report:
    """Score every item of ``evalset``; the model's mode is restored afterwards."""
    rows: list[dict[str, Any]] = []
    scores: list[tuple[Item, SampleScore]] = []
    silent: list[bool] = []
    looks: list[tuple[Tensor, Tensor]] = []
    masks = _Masks(evalset)
    for item, response in responses(model, evalset, settings, looks):
        proposals = masks(item)
        score = score_sample(response, item.mask(), proposals, settings.threshold)
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
    sentences: str = "all",
    refine: bool = False,
    recipe: str | None = None,
    stages: int | None = None,
    device: str = "auto",
    out: Path | None = None,
) -> Report:
    """Score a checkpoint over a split, as ``pcnet eval`` does.

    ``sentences`` is ``all`` or ``first``; with ``refine`` the metrics of the chosen proposals are also
    computed; ``recipe`` and ``stages`` replace the checkpoint's own. If ``settings.size`` is ``None``, the
    size it was trained with is used. With ``out``, the metrics and one row per expression are written there.

    :raises PrepError: if the file is not a checkpoint, or the store or the dataset lacks rows.
    """
    settings = settings or EvalSettings()
    model = load_model(checkpoint, stages, recipe)
    settings = replace(settings, size=settings.size or input_size(checkpoint, model))
    evalset = load_evalset(dataset, open_store(store), split, sentences=sentences, proposals=refine)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    report = evaluate(model.to(where), evalset, settings)
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


def responses(
    model: PCNet,
    evalset: EvalSet,
    settings: EvalSettings,
    looks: list[tuple[Tensor, Tensor]] | None = None,
) -> Iterator[tuple[Item, Map]]:
    """Each item with its raw response (H, W) at the size of its image: the last stage's, before any ReLU.

    With ``settings.prms``, the features of each batch are appended to ``looks``, in the order of the items.
    """
    images = sorted({item.image for item in evalset.items})
    number = {image: i for i, image in enumerate(images)}
    # Items of an image are consecutive, so a decoded image is needed again at once or never.
    pixels = Pixels(evalset.root, images, settings.size or 320, budget=256 << 20)
    starts = range(0, len(evalset.items), settings.batch_size)
    chunks = [evalset.items[start : start + settings.batch_size] for start in starts]

    def load(chunk: Sequence[Item]) -> Tensor:
        return torch.from_numpy(pixels.stack([number[item.image] for item in chunk]))

    training = model.training
    model.eval()
    try:
        for chunk, batch in zip(chunks, prefetch(load, chunks, settings.threads), strict=True):
            maps, look = _run(model, batch, chunk, settings.prms)
            if looks is not None and look is not None:
                looks.append(look)
            whole = upsample(maps[:, -1:], (batch.shape[2], batch.shape[3]))
            for item, raw, stages in zip(chunk, whole, maps, strict=True):
                if settings.save_stages is not None:
                    save_stages(settings.save_stages, item.row_id, stages.float().cpu().numpy())
                sized = upsample(raw[None], item.size)[0, 0]
                yield item, sized.float().cpu().numpy()
    finally:
        model.train(training)


@torch.inference_mode()
def _run(
    model: PCNet, pixels: Tensor, items: Sequence[Item], look: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """uint8 (B, 3, S, S) and their items to the raw responses of every stage, (B, stages, h, w).

    With ``look`` also the image and text features of the last stage's maps, see
    :func:`pcnet.evaluation.prms.features`.
    """
    device = model.logit_scale.device
    expressions, phrases = encode_items(model, [(item.text, item.phrases) for item in items])
    expressions, images = expressions.to(device), normalise_pixels(pixels.to(device))
    stages = model.responses(images, expressions, phrases.to(device))
    return torch.cat(stages, dim=1), features(model, images, expressions, stages[-1]) if look else None


def encode_items(model: PCNet, texts: Sequence[tuple[str, Sequence[str]]]) -> tuple[Tensor, Tensor]:
    """Expressions with their phrases to ids (B, L) and (B, P, L), by the model's own tokenizer."""
    if model.tokenizer is None:
        raise ValueError("The model has no tokenizer. Load it with pcnet.load_model.")
    count = model.config.phrases_used
    expressions = model.tokenizer([text for text, _ in texts])
    flat = [phrase for _, own in texts for phrase in pad_phrases(own, count)]
    phrases = model.tokenizer(flat).reshape(len(texts), count, expressions.shape[1])
    return expressions, phrases


class _Masks:
    """The proposals of an item as bool (P, H, W), ``None`` if they were not requested; the last image's are
    cached.
    """

    def __init__(self, evalset: EvalSet) -> None:
        self._coded = evalset.proposals
        self._image, self._masks = "", np.zeros((0, 1, 1), dtype=bool)

    def __call__(self, item: Item) -> NDArray[np.bool_] | None:
        if self._coded is None:
            return None
        if item.image != self._image:
            coded: list[Rle] = [m for m in self._coded[item.image] if tuple(m["size"]) == item.size]
            masks = [decode(one) for one in coded]
            self._masks = np.stack(masks) if masks else np.zeros((0, *item.size), dtype=bool)
            self._image = item.image
        return self._masks


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
