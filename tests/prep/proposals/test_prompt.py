"""SAM at a point against the official predictor, mask by mask, and transformers' own call for its models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from prep.errors import PrepError
from prep.proposals.prompt import PointPrompter, inner_point, open_prompter

POINTS = [(0, 0), (89, 130), (10, 100), (45, 65), (80, 3)]


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("weights", ["ragged", "smooth"])
def test_every_mask_is_the_official_predictors(
    weights: str, single: bool, photo: np.ndarray, request: pytest.FixtureRequest
) -> None:
    model: Sam = request.getfixturevalue(weights)
    prompter = PointPrompter(SamPredictor(model), single)
    sizes = set()
    for name, image in (("a", photo), ("b", photo[::-1].copy()), ("a", photo)):
        for row, column in POINTS:
            official = SamPredictor(model)
            official.set_image(image)
            masks, scores, _ = official.predict(
                np.array([[column, row]]), np.array([1]), multimask_output=not single
            )
            if weights == "ragged":  # the decoder of the smooth one has three masks whatever is asked for
                assert len(masks) == (1 if single else 3)
            found = prompter.mask(name, lambda image=image: image, row, column)
            assert (found.dtype, found.shape) == (np.bool_, image.shape[:2])
            np.testing.assert_array_equal(found, masks[np.argmax(scores)])
            sizes.add(int(found.sum()))
    assert len(sizes) > 2


def test_an_image_is_encoded_once_for_all_its_points_and_again_after_a_failure(
    ragged: Sam, photo: np.ndarray
) -> None:
    opened: list[str] = []

    def pixels() -> np.ndarray:
        opened.append("a")
        if len(opened) == 1:
            raise OSError("a broken read")
        return photo

    prompter = PointPrompter(SamPredictor(ragged))
    with pytest.raises(OSError, match="broken"):
        prompter.mask("a", pixels, 1, 1)
    for row, column in POINTS:
        prompter.mask("a", pixels, row, column)
    assert len(opened) == 2


def test_without_weights_the_download_and_the_flag_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(PrepError, match=r"sam_vit_h_4b8939\.pth") as missing:
        open_prompter("vit_h", None, single=False, device="cpu")
    assert "curl" in missing.value.remedy
    assert "--sam-checkpoint" in missing.value.remedy
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(PrepError, match="no weights of SAM") as wrong:
        open_prompter("vit_b", tmp_path / "other.pth", single=False, device="cpu")
    assert "--sam-checkpoint" in wrong.value.remedy
    with pytest.raises(PrepError, match="vit_x"):
        open_prompter("vit_x", None, single=False, device="cpu")


def test_the_inner_point_is_the_deepest_pixel() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[0:5, 0:7] = True  # at the border: the depth is counted from the image's edge too
    mask[7, 10] = True
    assert inner_point(mask) == (2, 2)
    assert inner_point(np.zeros((3, 3), dtype=bool)) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam2"])
@pytest.mark.parametrize("single", [False, True])
def test_models_of_transformers_give_the_masks_of_their_own_call(
    family: str, single: bool, tmp_path: Path
) -> None:
    import transformers as hf

    from tests.prep.proposals.test_generators import save_model

    folder = save_model(family, tmp_path / family)
    image = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    prompter = open_prompter(f"hf:{folder}", None, single, "cpu")
    processor = hf.AutoProcessor.from_pretrained(folder)
    model = hf.AutoModelForMaskGeneration.from_pretrained(folder).eval()
    for row, column in [(0, 0), (40, 60), (20, 5)]:
        points: list = [[[column, row]]] if family == "sam" else [[[[column, row]]]]
        labels: list = [[1]] if family == "sam" else [[[1]]]
        given = processor(images=image, input_points=points, input_labels=labels, return_tensors="pt")
        with torch.no_grad():
            out = model(**given, multimask_output=not single)
        sizes = [given["original_sizes"], *([given["reshaped_input_sizes"]] if family == "sam" else [])]
        masks = processor.post_process_masks(out.pred_masks, *sizes)[0][0].numpy()
        best = masks[int(out.iou_scores[0, 0].argmax())]
        np.testing.assert_array_equal(prompter.mask("a", lambda: image, row, column), best)
