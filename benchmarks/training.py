"""Measures the trainer: mask loading vs. the released code, a step vs. a plain loop, and an epoch.

.venv/bin/python benchmarks/training.py            # about two minutes on 2 cores
.venv/bin/python benchmarks/training.py --epoch 0  # skip the epoch
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco
from torch.nn import functional as F

from pcnet.config import ClipSizes, ModelConfig
from pcnet.data.batch import Batch, Outputs
from pcnet.data.collate import finish
from pcnet.data.table import SampleTable
from pcnet.model.inputs import Inputs, Scope
from pcnet.model.pcnet import PCNet
from pcnet.model.stages import paper_stages
from pcnet.recipes import recipe
from pcnet.training.objective import step_losses
from pcnet.training.setup import TrainConfig, prepare
from pcnet.training.trainer import train
from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.demo import dataset as synthetic

MASKS, HEIGHT, WIDTH = 40, 480, 640  # a COCO image with the maximum number of proposals
SMALL = ClipSizes(64, 160, (1, 1, 1, 1), 16, 77, 512, 64, 2)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median of ``repeats`` runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def blobs(count: int) -> np.ndarray:
    """Random rectangles, bool (count, 480, 640)."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask in masks:
        y, x = rng.integers(0, HEIGHT - 60), rng.integers(0, WIDTH - 60)
        mask[y : y + rng.integers(20, 300), x : x + rng.integers(20, 300)] = True
    return masks


def loaders(images: int = 6) -> None:
    """Masks of a batch: unpacked from the store's rows, vs. ``np.load`` of 40 x H x W floats and a resize."""
    masks = blobs(MASKS)
    rows, columns = np.arange(32) * HEIGHT // 32, np.arange(32) * WIDTH // 32
    grids = np.packbits(masks[:, rows][:, :, columns].reshape(MASKS, -1), axis=1, bitorder="big")
    none = np.zeros(0, np.int64)
    bounds = np.arange(images + 1, dtype=np.int64) * MASKS
    table = SampleTable([], [], [], none, none, [""] * images, np.tile(grids, (images, 1)), bounds)

    def ours() -> torch.Tensor:
        return torch.from_numpy(table.masks(range(images), MASKS)[0].astype(np.float32))

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npy" for number in range(images)]
        for path in paths:
            np.save(path, masks.astype(np.float32))

        def released() -> torch.Tensor:
            loaded = [torch.Tensor(np.load(path))[None] for path in paths]
            return torch.cat([F.interpolate(one, (32, 32), mode="nearest") for one in loaded])

        assert torch.equal(ours(), released()), "The two loaders differ."
        mine, theirs = seconds(ours, 200), seconds(released, 5)
        size = paths[0].stat().st_size
    print(f"masks of {images} images ({MASKS} of {HEIGHT} x {WIDTH}), files in the page cache")
    print(f"  np.load + resize  {images / theirs:12,.1f} images/s  {size:12,} bytes per image")
    print(f"  from the store    {images / mine:12,.1f} images/s  {grids.nbytes:12,} bytes per image")
    print(f"  ratio             {theirs / mine:12,.0f}x          {size / grids.nbytes:12,.0f}x\n")


def random_batch(size: int, side: int) -> Batch:
    """Random pixels, texts and boxes."""
    generator = torch.Generator().manual_seed(0)

    def texts(*shape: int) -> torch.Tensor:
        ids = torch.randint(2, 500, (*shape, 20), generator=generator)
        ids[..., -1] = 511
        return ids

    grid = torch.zeros(size, MASKS, 32, 32)
    for place in range(MASKS):
        grid[:, place, place % 24 : place % 24 + 6, (place * 7) % 24 : (place * 7) % 24 + 8] = 1
    images = torch.randn(size, 3, side, side, generator=generator)
    same = torch.ones(size, dtype=torch.bool)
    return Batch(images, texts(size), texts(size, 3), grid, texts(size), texts(size, 3), same)


def steps(size: int = 8) -> None:
    """Forward, losses and backward of the paper's recipe: the whole batch at once, vs. pair by pair."""
    paper = recipe("paper")
    torch.manual_seed(0)
    model = PCNet(ModelConfig("clip", "paper", 3, 64, 0.1, clip=SMALL), paper).train()
    batch = random_batch(size, 160)

    def ours() -> torch.Tensor:
        model.zero_grad()
        outputs = model(batch.images, **batch.texts(partners=True))
        total = step_losses(paper, outputs, batch)["total"]
        total.backward()
        return total.detach()

    def plain() -> torch.Tensor:
        """The same features, but a separate call for every pair of image and text."""
        model.zero_grad()
        visual = model.c4_vis_project(model.backbone.encode_image(batch.images))
        texts = torch.cat([batch.expression_ids, batch.partner_expression_ids])
        cues = torch.cat([batch.phrase_ids, batch.partner_phrase_ids])
        words = torch.cat([texts[:, None], cues], 1)
        encoded = model.global_lan_project(model.backbone.encode_text(words.flatten(0, 1)))
        encoded = encoded.view(1, *words.shape[:2], -1)
        scale, alone = model.logit_scale.exp(), Scope(pairwise=False)
        stages: list[list[torch.Tensor]] = [[], [], []]
        for image in range(size):
            pairs = []
            for text in range(len(texts)):
                one = encoded[:, text : text + 1]
                inputs = Inputs(scale, visual[image : image + 1], one[:, :, 0], one[:, :, 1:], alone)
                pairs.append(paper_stages(model.attn_fusion_vl, inputs))
            for number, rows in enumerate(stages):
                rows.append(torch.cat([pair[number] for pair in pairs], 1))
        index = torch.arange(size)
        logits = tuple(torch.cat(rows) for rows in stages)
        outputs = Outputs(logits, index, size, (160, 160), partner=index + size)
        total = step_losses(paper, outputs, batch)["total"]
        total.backward()
        return total.detach()

    first, second = ours(), plain()
    assert torch.allclose(first, second, rtol=1e-4), (first, second)
    mine, theirs = seconds(ours, 5), seconds(plain, 2)
    print(f"a step of the paper's recipe, {size} images of 160 x 160 against {2 * size} texts, 3 stages")
    print(f"  pair by pair      {theirs:12.2f} s\n  whole batch       {mine:12.2f} s")
    print(f"  ratio             {theirs / mine:12,.1f}x\n")


def make_store(folder: Path, images: int) -> tuple[Path, str]:
    """A synthetic dataset, with each expression as its only phrase and fixed boxes as proposals."""
    data = synthetic.write(folder, images=images, seed=0)
    dataset = open_dataset(data, "refcoco")
    store = open_store(folder / "store", create=True)
    names = ("row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "image")
    fixed = {"llm": "none", "key": "k", "violations": [], "rejected": [], "status": "ok"}
    with store.stage("phrases").writer({}) as writer:
        rows = [
            {**{n: getattr(e, n) for n in names}, "expression": e.text, "phrases": [e.text], **fixed}
            for e in dataset.expressions()
        ]
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 1
    code = coco.encode(np.asfortranarray(mask))["counts"].decode()
    grid = np.packbits(mask[::2, ::2]).tobytes()
    with store.stage("proposals").writer({}) as writer:
        masks = [{"counts": code, "area": 1024, "bbox": [8.0, 8.0, 32.0, 32.0]}] * MASKS
        fixed_image = {"height": 64, "width": 64, "masks": masks, "grid32": grid * MASKS}
        rest: dict[str, Any] = {"generator": "none", "key": "k", "status": "ok"}
        writer.write(
            pa.Table.from_pylist(
                [{"image": i.image, "image_id": i.image_id, **fixed_image, **rest} for i in dataset.images()],
                schema=PROPOSALS,
            )
        )
    return data, store.uri


def epoch(images: int) -> None:
    """One epoch with ``--encoder tiny --recipe plus``, and its data loader alone."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, store = make_store(folder, images)
        where = {"store": store, "data": str(data), "out": str(folder / "run")}
        config = TrainConfig(**where, encoder="tiny", recipe="plus", epochs=1, device="cpu", quiet=True)
        config = config.resolved()
        job = prepare(config)
        began = time.perf_counter()
        for draw in job.sampler.epoch(0):
            finish(job.maker(draw), torch.device("cpu"))
        loading = time.perf_counter() - began
        began = time.perf_counter()
        for draw in job.sampler.epoch(1):
            finish(job.maker(draw), torch.device("cpu"))
        again = time.perf_counter() - began
        done = train(config)
    samples = done.steps * (config.batch_size or 0)
    threads = torch.get_num_threads()
    print(f"one epoch, tiny encoder, {threads} threads: {samples:,} expressions of {images} images")
    print(f"  training          {done.seconds:12.1f} s  {samples / done.seconds:10,.0f} expressions/s")
    print(f"  loading, cold     {loading:12.1f} s  {samples / loading:10,.0f} expressions/s")
    print(f"  loading, cached   {again:12.1f} s  {samples / again:10,.0f} expressions/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--epoch", type=int, default=400, help="images in the dataset of the epoch; 0 skips it"
    )
    images = parser.parse_args().epoch
    loaders()
    steps()
    if images:
        epoch(images)


if __name__ == "__main__":
    main()
