"""The ONNX file: onnxruntime gives the responses of torch, for batches and texts it was not traced with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pcnet.config import ModelConfig
from pcnet.data.batch import upsample
from pcnet.data.images import normalise_pixels
from pcnet.data.tokenizers import WordTokenizer, from_dict
from pcnet.model.export import export_onnx
from pcnet.model.pcnet import PCNet
from pcnet.model.student import Student

pytestmark = pytest.mark.slow
TEXTS = ["red circle", "the unknown word is here", "", "left of the square"]


@pytest.mark.parametrize("comprehension", ["student", "plus"])
def test_onnxruntime_gives_the_responses_of_torch(comprehension, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    tokenizer = WordTokenizer(["circle", "left", "of", "red", "square", "the"], length=4)
    stages = 1 if comprehension == "student" else 2
    kind = Student if comprehension == "student" else PCNet
    model = kind(ModelConfig("tiny", comprehension, stages, 16, 0.0, vocabulary=tokenizer.vocabulary)).eval()
    model.tokenizer = tokenizer
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    ids = tokenizer(TEXTS)
    phrases = ids.flip(0)[:, None].repeat(1, model.config.phrases_used, 1)
    with torch.no_grad():
        wanted = upsample(model.responses(normalise_pixels(pixels), ids, phrases)[-1], (32, 32)).numpy()
    export_onnx(model, tmp_path / "made" / "model.onnx", 32)
    session = onnxruntime.InferenceSession(str(tmp_path / "made" / "model.onnx"))
    given = {"pixels": pixels.numpy(), "expression": ids.numpy(), "phrases": phrases.numpy()}
    names = [one.name for one in session.get_inputs()]
    assert ("phrases" in names) == (comprehension == "plus")
    for rows in (slice(0, 4), slice(2, 3)):  # a batch of another size, and an empty text alone
        (found,) = session.run(None, {name: given[name][rows] for name in names})
        assert np.abs(found - wanted[rows]).max() < 1e-4 * max(1.0, np.abs(wanted).max())
    told = session.get_modelmeta().custom_metadata_map
    assert torch.equal(from_dict(json.loads(told["tokenizer"]))(TEXTS), ids)
    assert json.loads(told["size"]) == 32
