"""The teacher's choices: against the evaluation's rule, and against the model run text by text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcnet.config import ModelConfig
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.data.table import Selection, load_samples
from pcnet.data.tokenizers import WordTokenizer
from pcnet.evaluation.responses import encode_items
from pcnet.maps import on_grid
from pcnet.metrics import iou, normalise, peak, proposal_under_peak
from pcnet.model.pcnet import PCNet
from pcnet.model.prms import choose, features
from pcnet.training.distill import read_targets
from pcnet.training.targets import teacher_targets, under_peak
from prep.cache.store import open_store


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-2.0, 0.0, 1.0]))
def test_the_choice_is_that_of_the_evaluation(seed, shift):
    rng = np.random.default_rng(seed)
    maps = (rng.standard_normal((4, 8, 8)) + shift).astype(np.float32)
    masks = rng.random((4, 5, 8, 8)) < 0.4
    masks[:, 0, 0, 0] = True  # a proposal without a cell is padding
    masks[:, 4] = False
    grid = torch.from_numpy(masks.astype(np.float32))
    chosen, margin = under_peak(torch.from_numpy(maps)[:, None], grid)
    for response, own, index, sure in zip(maps, masks, chosen.tolist(), margin.tolist(), strict=True):
        real = [mask for mask in own if mask.any()]
        assert any(own[index].any() for _ in real)
        assert np.array_equal(own[index], real[proposal_under_peak(response, real)])
        row, column = peak(response)
        rivals = [normalise(response)[mask].max() for mask in real if not mask[row, column]]
        known = response.max() > 0 and any(mask[row, column] for mask in real)
        assert abs(sure - (1 - max(rivals, default=0.0) if known else 0.0)) < 1e-5


def test_targets_equal_those_of_one_expression_at_a_time(prepared):
    table = load_samples(open_store(prepared.store), Selection("refcoco", "train"))
    pixels = Pixels(prepared.data, table.images, 48)
    torch.manual_seed(3)
    tokenizer = WordTokenizer.from_texts(table.expressions)
    teacher = PCNet(ModelConfig("tiny", "plus", 3, 64, 0.0, vocabulary=tokenizer.vocabulary)).eval()
    teacher.tokenizer = tokenizer
    found = teacher_targets(teacher, table, pixels, torch.device("cpu"))
    assert 0 <= found.weight.min() < found.weight.max() <= 1
    for ref in np.unique(table.target)[::7]:
        members = np.flatnonzero(table.target == ref)
        image = int(table.image[members[0]])
        masks = table.masks([image], table.max_masks)[0][0] > 0
        masks = [mask for mask in masks if mask.any()]
        own, margins, looks = [], [], []
        for sample in members:
            texts = encode_items(teacher, [(table.expressions[sample], table.phrases[sample])])
            seen = normalise_pixels(torch.from_numpy(pixels.stack([image])))
            with torch.no_grad():
                raw = teacher.responses(seen, *texts)[-1]
                looks.append([one.numpy() for one in features(teacher, seen, texts[0], raw)])
            response = on_grid(raw, torch.zeros(1, 1, 32, 32))[0, 0].numpy()
            own.append(proposal_under_peak(response, masks))
            row, column = peak(response)
            rivals = [normalise(response)[mask].max() for mask in masks if not mask[row, column]]
            margins.append(1 - max(rivals, default=0.0) if masks[own[-1]][row, column] else 0.0)
        seen, asked = (np.concatenate(column) for column in zip(*looks, strict=True))
        best = choose([0] * len(members), seen, asked)[0]
        agreement = np.mean([iou(masks[one], masks[own[best]]) for one in own])
        assert set(found.proposal[members]) == {own[best]}
        assert np.allclose(found.weight[members], agreement * margins[best], atol=1e-4)


GOOD = {
    "key": np.array("k"),
    "proposal": np.array([0, -1, 2]),
    "weight": np.array([0.5, 0, 1], np.float32),
}
MASKS = np.array([1, 0, 3])


def test_stored_choices_come_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    found = read_targets(tmp_path / "a.npz", "k", MASKS)
    assert found is not None
    assert found.proposal.tolist() == [0, -1, 2]
    assert found.weight.tolist() == [0.5, 0, 1]


@pytest.mark.parametrize(
    "changed",
    [
        {"key": np.array("another")},
        {"key": np.array([{}], dtype=object)},  # a pickle
        {"proposal": np.array([0, -1, 3])},  # there are three
        {"proposal": np.array([0, -2, 2])},
        {"proposal": np.zeros(4, np.int64)},
        {"proposal": np.array([0.0, 0.0, 2.0])},
        {"weight": np.array([0.5, np.nan, 1], np.float32)},
        {"weight": np.array(["a", "b", "c"])},
        {"../weight": np.zeros(1)},  # nothing is unpacked to a folder
    ],
)
def test_choices_of_others_are_made_again(tmp_path: Path, changed: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **({**GOOD, **changed} if "../weight" not in changed else changed))
    assert read_targets(tmp_path / "a.npz", "k", MASKS) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_compressed_choices_are_not_read(tmp_path: Path) -> None:
    """A file of 100 KB could hold an array of 100 MB, or of 100 GB."""
    np.savez_compressed(tmp_path / "a.npz", **GOOD)
    assert read_targets(tmp_path / "a.npz", "k", MASKS) is None
