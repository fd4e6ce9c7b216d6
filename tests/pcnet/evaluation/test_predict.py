"""One image and one text: the maps are the model's, the mask is the chosen proposal, the files say the
same.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from pcnet.data.images import normalise_pixels, read_image
from pcnet.data.tokenizers import WordTokenizer
from pcnet.evaluation.predict import predict, save
from pcnet.metrics import peak
from pcnet.model.pcnet import PCNet
from pcnet.recipes import model_config, recipe
from prep.errors import PrepError
from prep.records import Proposal


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = WordTokenizer.from_texts(["the red circle on the left"])
    plus = recipe("plus")
    model = PCNet(model_config(plus, "tiny", tokenizer.vocabulary), plus)
    model.tokenizer = tokenizer
    return model.eval()


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def proposal(mask: np.ndarray) -> Proposal:
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Proposal(coded["counts"].decode(), int(mask.sum()), tuple(coco.toBbox(coded)))


def test_the_mask_is_the_proposal_under_the_peak_of_the_models_own_map(model, image):
    left = np.zeros((40, 60), bool)
    left[:, :30] = True
    halves, cues = [proposal(left), proposal(~left)], ["the circle", "the red circle"]
    told = predict(model, image, "red circle", cues, halves, size=64)
    assert told.stages.shape == (3, 40, 60)
    y, x = told.peak
    assert told.mask[y, x]
    assert told.proposal == (0 if x < 30 else 1)
    assert np.array_equal(told.mask, left if told.proposal == 0 else ~left)
    ids = model.tokenizer(["red circle"]), model.tokenizer([*cues, cues[0]])[None]
    with torch.no_grad():
        raw = model.responses(normalise_pixels(torch.from_numpy(read_image(image, 64))[None]), *ids)
    for stage, own in zip(raw, told.stages, strict=True):
        sized = stage
        for side in ((64, 64), (40, 60)):
            sized = torch.nn.functional.interpolate(sized, side, mode="bilinear", align_corners=False)
        assert np.allclose(own, sized[0, 0].numpy(), atol=1e-5)
    assert peak(told.stages[-1]) == told.peak


def test_without_proposals_the_mask_is_the_thresholded_map(model, image):
    told = predict(model, image, "red circle", ["red circle"], size=64, threshold=0.5)
    top = told.stages[-1].max()
    assert told.proposal is None
    assert np.array_equal(told.mask, told.stages[-1] > 0.5 * top)


def test_the_files_hold_the_prediction(model, image, tmp_path):
    whole = np.ones((40, 60), bool)
    told = predict(model, image, "red circle", ["red circle"], [proposal(whole)], size=64)
    paths = save(told, tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(paths["mask"])) == 255, told.mask)
    written = json.loads(paths["json"].read_text())
    assert np.array_equal(coco.decode(written["mask"]).astype(bool), told.mask)
    assert (written["peak"]["y"], written["peak"]["x"]) == told.peak
    assert len(written["peaks_by_stage"]) == 3
    assert np.array_equal(np.asarray(Image.open(paths["picture"])), told.picture())
    assert {path.name for path in paths.values()} == {"mask.png", "stages.png", "prediction.json"}
    numbered = save(told, tmp_path / "out", 12)
    assert {path.name for path in numbered.values()} == {
        "mask-012.png",
        "stages-012.png",
        "prediction-012.json",
    }


def test_a_prediction_shows_itself_in_a_notebook(model, image):
    told = predict(model, image, "red circle", ["red circle"], size=64)
    drawn = np.asarray(Image.open(io.BytesIO(told._repr_png_())))
    assert np.array_equal(drawn, told.picture())
    assert "'red circle'" in repr(told)
    assert "array" not in repr(told)


def test_the_same_image_as_file_array_and_pillow_image_is_grounded_alike(model, image):
    pixels = np.asarray(Image.open(image))
    found = [
        predict(model, one, "red circle", size=64) for one in (image, str(image), pixels, Image.open(image))
    ]
    for one in found[1:]:
        assert np.array_equal(one.stages, found[0].stages)
    assert found[0].phrases == ("the circle", "the red circle")  # by the rules


@pytest.mark.parametrize("phrases", [[], ["a"]])
def test_what_cannot_be_predicted_is_refused(model, tmp_path, phrases):
    with pytest.raises(PrepError):
        predict(model, tmp_path / "none.png", "a", phrases)
