"""Shared by the model's tests: small networks, random batches and the numbers of the released code."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from benchmarks.released_agreement import ReleasedNumbers
from pcnet.config import ClipSizes, ModelConfig
from pcnet.data.batch import Batch
from pcnet.model.pcnet import PCNet
from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.demo import dataset as synthetic
from prep.records import Expression, ImageRef

SMALL_CLIP = ClipSizes(
    embed_dim=48,
    image_resolution=64,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    context_length=24,
    vocab_size=64,
    text_width=64,
    text_layers=1,
)


@pytest.fixture(scope="session")
def released(shared: Path) -> ReleasedNumbers:
    """The numbers of the released code beside the checkout; skips where they are absent."""
    path = shared / "conformance" / "pcnet_released_small.npz"
    if not path.is_file():
        pytest.skip("the released code's numbers (../shared/conformance) are absent")
    return ReleasedNumbers(path)


@pytest.fixture
def small_model() -> Any:
    """``make(comprehension, stages=3, encoder="clip", gain=0.1)``: a seeded random network of 16 channels."""

    def make(comprehension: str, stages: int = 3, encoder: str = "clip", gain: float = 0.1) -> PCNet:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"clip": SMALL_CLIP} if encoder == "clip" else {"vocabulary": 40}
        model = PCNet(ModelConfig(encoder, comprehension, stages, 16, gain, **sizes))
        with torch.no_grad():  # the stages start as the identity; give them something to do
            for name, parameter in model.attn_fusion_vl.named_parameters():
                if name.endswith("mlp.2.weight"):
                    parameter.normal_(std=0.3)
        return model

    return make


@pytest.fixture
def random_batch() -> Any:
    """``make(size=3, side=64, proposals=5)``: a seeded batch of random images, texts and proposals."""

    def make(size: int = 3, side: int = 64, proposals: int = 5) -> Batch:
        generator = torch.Generator().manual_seed(1)

        def texts(*shape: int) -> Tensor:
            ids = torch.randint(2, 38, (*shape, 7), generator=generator)
            ids[..., -1] = 39
            return ids

        grid = torch.zeros(size, proposals, 32, 32)
        for image in range(size):
            for proposal in range(proposals - 1):  # the last one is padding
                x, y = torch.randint(0, 22, (2,), generator=generator).tolist()
                grid[image, proposal, y : y + 6 + 2 * proposal, x : x + 8] = 1
        return Batch(
            images=torch.randn(size, 3, side, side, generator=generator),
            expression_ids=texts(size),
            phrase_ids=texts(size, 4),
            grid=grid,
            partner_expression_ids=texts(size),
            partner_phrase_ids=texts(size, 4),
            same_image=torch.arange(size) != 1,
            opposite_expression_ids=texts(size),
            opposite_phrase_ids=texts(size, 4),
            has_opposite=torch.arange(size) != 2,
            negative_ids=texts(size, 2),
            clip_scores=torch.rand(size, proposals, generator=generator),
            row_ids=tuple(map(str, range(size))),
        )

    return make


def error(ours: Tensor, theirs: Tensor) -> float:
    """max |d| / (1 + |t|), the measure of the released numbers."""
    ours = ours.detach()
    return float(((ours - theirs).abs() / (1 + theirs.abs())).max())


@pytest.fixture
def deviation() -> Any:
    """:func:`error` as a fixture: test folders are no packages."""
    return error


@dataclass(frozen=True)
class Prepared:
    """A synthetic dataset with its store: exact masks as proposals, the head word and the whole text as
    phrases.
    """

    data: Path
    store: str


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """60 small images in RefCOCO's layout and the rows that the two stages would make of them."""
    folder = tmp_path_factory.mktemp("prepared")
    data = synthetic.write(folder, images=60, seed=5)
    dataset = open_dataset(data, "refcoco")
    told = json.loads((data / "refer" / "refcoco" / "instances.json").read_text())
    coded: dict[int, list[dict[str, Any]]] = {}
    for annotation in told["annotations"]:
        coded.setdefault(annotation["image_id"], []).append(annotation)
    expressions = list(dataset.expressions())
    random.Random(1).shuffle(expressions)  # rows are joined by key: their order must not matter
    store = open_store(folder / "store", create=True)
    with store.stage("phrases").writer({"llm": "rules"}) as writer:
        writer.write(pa.Table.from_pylist([phrase_row(e) for e in expressions], schema=PHRASES))
    with store.stage("proposals").writer({"generator": "exact"}) as writer:
        rows = [proposal_row(image, coded[image.image_id or 0]) for image in dataset.images()]
        writer.write(pa.Table.from_pylist(rows[::-1], schema=PROPOSALS))
    return Prepared(data, store.uri)


def phrase_row(expression: Expression) -> dict[str, Any]:
    """A row of the phrases stage."""
    words = expression.text.split()
    return {
        **{name: getattr(expression, name) for name in ("row_id", "dataset", "split_by", "split", "ref_id")},
        **{name: getattr(expression, name) for name in ("sent_id", "image_id", "image")},
        "expression": expression.text,
        "phrases": [words[0], expression.text] if len(words) > 1 else [expression.text],
        "source": "rules",
        "llm": "rules",
        "key": "k",
        "violations": [],
        "rejected": [],
        "status": "ok",
    }


def proposal_row(image: ImageRef, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the proposals stage: the image's own masks."""
    sides = np.arange(32) * 2
    decoded = np.stack([coco.decode(a["segmentation"]) for a in annotations])
    packed = np.packbits(decoded[:, sides][:, :, sides].reshape(len(decoded), -1), axis=1, bitorder="big")
    plain = {"predicted_iou": None, "stability_score": None, "point": None, "crop_box": None}
    return {
        "image": image.image,
        "image_id": image.image_id,
        "height": 64,
        "width": 64,
        "masks": [
            {"counts": a["segmentation"]["counts"], "area": a["area"], "bbox": a["bbox"], **plain}
            for a in annotations
        ],
        "grid32": packed.tobytes(),
        "generator": "exact",
        "key": "k",
        "status": "ok",
    }
