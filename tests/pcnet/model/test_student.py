"""The student's network: shapes, texts that do not influence each other, and PRMS on its finer maps."""

from __future__ import annotations

import pytest
import torch

from pcnet.config import ClipSizes, ModelConfig
from pcnet.model.prms import features
from pcnet.model.student import Student
from prep.errors import PrepError

CLIP = ClipSizes(48, 64, (1, 1, 1, 1), 8, 24, 64, 64, 1)


def student(encoder: str) -> Student:
    torch.manual_seed(0)
    sizes = {"clip": CLIP} if encoder == "clip" else {"vocabulary": 40}
    return Student(ModelConfig(encoder, "student", 1, 16, 0.0, **sizes)).eval()


def ids(*shape: int) -> torch.Tensor:
    made = torch.randint(2, 38, (*shape, 6), generator=torch.Generator().manual_seed(1))
    made[..., -1] = 39
    return made


@pytest.mark.parametrize(("encoder", "sides"), [("tiny", (64, 48, 50)), ("clip", (64, 96))])
def test_logits_have_half_the_images_size(encoder, sides):
    model = student(encoder)
    for side in sides:
        with torch.no_grad():
            (logits,) = model.responses(torch.randn(2, 3, side, side), ids(2), ids(2, 0))
            whole = model(torch.randn(2, 3, side, side), ids(2), ids(2, 0))
        assert logits.shape == (2, 1, -(-side // 4) * 2, -(-side // 4) * 2)
        assert whole.shape == (2, 1, side, side)
        assert whole.min() >= 0


@pytest.mark.parametrize("encoder", ["tiny", "clip"])
def test_a_mask_depends_on_its_own_image_and_text_only(encoder):
    model, images, texts = student(encoder), torch.randn(3, 3, 64, 64), ids(3, 2)
    with torch.no_grad():
        both = model.logits(images, texts)
        for place in range(2):
            (one,) = model.responses(images[1:2], texts[1:2, place], texts[1:2, :0])
            assert torch.allclose(both[1, place], one[0, 0], atol=1e-5)
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-3)


def test_prms_reads_the_features_under_a_finer_map():
    model, images = student("tiny"), torch.randn(2, 3, 32, 32)
    maps = torch.full((2, 1, 16, 16), -1.0)
    maps[:, :, 4:6, 8:10] = 3.0  # cells of the position (2, 4) of the 8 x 8 features
    with torch.no_grad():
        seen, asked = features(model, images, ids(2), maps)
        wanted = torch.nn.functional.normalize(model.visual(images)[:, :, 2, 4], dim=-1)
    assert torch.allclose(seen, wanted, atol=1e-5)
    assert torch.allclose(asked.norm(dim=-1), torch.ones(2))


def test_a_student_has_one_stage():
    with pytest.raises(PrepError, match="student has exactly one stage"):
        ModelConfig("tiny", "student", 3, 16, vocabulary=40)
