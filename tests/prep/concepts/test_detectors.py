"""The detectors against transformers' models and processors, which see one image and one phrase at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.concepts import main
from prep.concepts.detectors import DetectorSettings, open_detector
from prep.concepts.found import Found
from prep.concepts.grounding_dino import label
from prep.errors import PrepError
from prep.masks import rle

PHRASES = ["a dog", "the red one on the left", "x", "the dog", "man in blue"]
LEAST = 0.02  # the scores of random weights are low


def photo(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def masks_of(found: Sequence[Found], height: int, width: int) -> np.ndarray:
    masks = [rle.decode_counts(str(one.counts), height, width) for one in found]
    assert [int(mask.sum()) for mask in masks] == [one.area for one in found]
    return np.array(masks).reshape(len(masks), height, width)


def sorted_by_score(result: dict) -> list[tuple[float, int]]:
    return sorted(((-float(score), at) for at, score in enumerate(result["scores"])))


def compare_numbers(found: Sequence[Found], result: dict, order: Sequence[int]) -> None:
    assert len(found) == len(order)
    scores = [one.score for one in found]
    np.testing.assert_allclose(scores, [float(result["scores"][at]) for at in order], atol=1e-5)
    for one, at in zip(found, order, strict=True):
        left, top, right, bottom = result["boxes"][at].tolist()
        np.testing.assert_allclose(one.bbox, (left, top, right - left, bottom - top), atol=1e-3)


def test_sam3_finds_what_transformers_finds_one_phrase_at_a_time(sam3: Path) -> None:
    import torch
    from transformers import Sam3Model, Sam3Processor

    model, processor = Sam3Model.from_pretrained(sam3).eval(), Sam3Processor.from_pretrained(sam3)
    finder = open_detector(DetectorSettings(model=str(sam3), threshold=LEAST, phrases_per_batch=3))
    kept = []
    for pixels in (photo(0), photo(1, 33, 20)):  # the second finds its texts encoded
        height, width = pixels.shape[:2]
        for phrase, found in zip(PHRASES, finder.find(pixels, PHRASES), strict=True):
            inputs = processor(images=Image.fromarray(pixels), text=phrase, return_tensors="pt")
            inputs.pop("original_sizes")
            with torch.no_grad():
                outputs = model(**inputs)
            (result,) = processor.post_process_instance_segmentation(
                outputs, threshold=LEAST, target_sizes=[(height, width)]
            )
            order = [at for _, at in sorted_by_score(result)]
            compare_numbers(found, result, order)
            reference = result["masks"][order].numpy().astype(bool)
            assert (masks_of(found, height, width) == reference).all()
            kept.append(len(found))
    assert min(kept) < max(kept) == 6  # the threshold removes some of the six queries, not all
    assert not np.array_equal(*(masks_of(found, 40, 60)[0] for found in finder.find(photo(0), PHRASES[:2])))


def test_sam3_encodes_an_image_once_and_a_phrase_once(sam3: Path) -> None:
    finder = open_detector(DetectorSettings(model=str(sam3), phrases_per_batch=2))
    seen = {"vision_encoder": 0, "text_encoder": 0, "detr_encoder": 0}

    def count(name: str) -> None:
        seen[name] += 1

    for name in seen:
        getattr(finder.model, name).register_forward_hook(lambda *_, name=name: count(name))  # type: ignore[attr-defined]
    finder.find(photo(0), PHRASES)
    assert seen == {"vision_encoder": 1, "text_encoder": 5, "detr_encoder": 3}
    finder.find(photo(1), PHRASES[1:4])
    assert seen == {"vision_encoder": 2, "text_encoder": 5, "detr_encoder": 5}


def test_sam3_cuts_a_phrase_that_is_too_long_for_its_text_encoder(sam3: Path) -> None:
    finder = open_detector(DetectorSettings(model=str(sam3), threshold=0.0))
    words = list("abcdefghij" * 5)
    cut, whole, shorter = (finder.find(photo(0), [" ".join(words[:count])]) for count in (50, 30, 29))
    assert cut == whole != shorter  # of 32 tokens, one begins the text and one ends it


@pytest.mark.slow
def test_sam3_is_read_from_the_video_model_in_which_it_is_released(sam3: Path, tmp_path: Path) -> None:
    """The released weights are those of ``Sam3VideoModel``: detector, tracker, and one configuration."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Sam3Config, Sam3VideoConfig

    folder = Path(shutil.copytree(sam3, tmp_path / "video"))
    Sam3VideoConfig(detector_config=Sam3Config.from_pretrained(sam3)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"detector_model.{name}": value for name, value in weights.items()}
    extra = {"tracker_model.shared": torch.zeros(2), "tracker_neck.weight": torch.zeros(2)}
    save_file(weights | extra, folder / "model.safetensors", {"format": "pt"})
    settings = DetectorSettings(model=str(folder), threshold=LEAST)
    assert settings.key()["detector"] == "sam3"
    plain = open_detector(DetectorSettings(model=str(sam3), threshold=LEAST))
    assert open_detector(settings).find(photo(0), PHRASES) == plain.find(photo(0), PHRASES)


def test_the_benchmark_runs(
    sam3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["concepts", "--model", str(sam3), "--phrases", "2"])
    main()
    assert re.fullmatch(
        r"1 image, 2 phrases, \d+ threads: one pair at a time [\d.]+ CPU s, ours [\d.]+ CPU s \([\d.]+x\)\n",
        capsys.readouterr().out,
    )


def test_only_scores_above_the_threshold_are_kept(sam3: Path) -> None:
    (every,) = open_detector(DetectorSettings(model=str(sam3), threshold=0.0)).find(photo(0), ["a dog"])
    scores = [one.score for one in every]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 6
    settings = DetectorSettings(model=str(sam3), threshold=scores[2])
    (above,) = open_detector(settings).find(photo(0), ["a dog"])
    assert above == every[:2]
    assert open_detector(DetectorSettings(model=str(sam3), threshold=0.99)).find(photo(0), ["x"]) == [[]]


def test_grounding_dino_finds_the_boxes_that_transformers_finds(grounding_dino: Path) -> None:
    import torch
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    model = GroundingDinoForObjectDetection.from_pretrained(grounding_dino).eval()
    processor = GroundingDinoProcessor.from_pretrained(grounding_dino)
    finder = open_detector(
        DetectorSettings("grounding-dino", str(grounding_dino), threshold=0.15, phrases_per_batch=3)
    )
    kept = []
    for pixels in (photo(0), photo(1, 33, 20)):
        for phrase, found in zip(PHRASES, finder.find(pixels, PHRASES), strict=True):
            inputs = processor(images=Image.fromarray(pixels), text=[[phrase]], return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            (result,) = processor.post_process_grounded_object_detection(
                outputs, inputs["input_ids"], threshold=0.15, target_sizes=[pixels.shape[:2]]
            )
            compare_numbers(found, result, [at for _, at in sorted_by_score(result)])
            assert {(one.counts, one.area) for one in found} == {(None, None)}
            kept.append(len(found))
    assert min(kept) < max(kept) == 5


@given(st.text(alphabet=st.sampled_from("aB .?é\n'1"), max_size=12))
def test_a_label_is_one_label(phrase: str) -> None:
    written = label(phrase)
    assert written.endswith(".")
    assert "." not in written[:-1]
    assert "?" not in written
    letters = [letter for letter in phrase.lower() if letter not in " .?\n"]
    assert [letter for letter in written[:-1] if letter != " "] == letters


def test_a_model_of_another_type_is_refused(sam3: Path, grounding_dino: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="model type grounding-dino"):
        DetectorSettings(model=str(grounding_dino)).key()
    with pytest.raises(PrepError, match="model type sam3"):
        DetectorSettings("grounding-dino", str(sam3)).key()
    with pytest.raises(PrepError, match=r"config\.json could not be read"):
        DetectorSettings(model=str(tmp_path)).key()
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(PrepError, match="model type None"):
        DetectorSettings(model=str(tmp_path)).key()
    with pytest.raises(PrepError, match="could not be downloaded"):
        DetectorSettings(model=str(tmp_path / "nowhere")).key()


def test_weights_that_are_missing_are_not_replaced_by_random_ones(sam3: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(sam3, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PrepError, match=r"lacks 1 weights of Sam3Model, for example text_projection\.weight"):
        open_detector(DetectorSettings(model=str(folder)))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(PrepError, match="could not be loaded"):
        open_detector(DetectorSettings(model=str(folder)))


def test_the_key_knows_the_weights_and_the_options_but_not_the_place(sam3: Path, tmp_path: Path) -> None:
    usual = DetectorSettings(model=str(sam3)).key()
    copy = Path(shutil.copytree(sam3, tmp_path / "elsewhere" / sam3.name))
    assert DetectorSettings(model=f"hf:{copy}", device="cuda").key() == usual
    assert DetectorSettings(model=str(sam3), threshold=0.3).key() == usual  # the default
    assert DetectorSettings(model=str(sam3), threshold=0.31).key() != usual
    assert DetectorSettings(model=str(sam3), phrases_per_batch=2).key() != usual
    with open(copy / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    assert DetectorSettings(model=str(copy)).key()["weights_sha256"] != usual["weights_sha256"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"detector": "sam"}, "--detector 'sam' does not exist"),
        ({"threshold": 1.0}, "--threshold 1.0 is not in 0 to 1"),
        ({"threshold": float("nan")}, "--threshold nan"),
        ({"phrases_per_batch": 0}, "--phrases-per-batch 0"),
        ({"model": "hf:"}, "--model hf: names no model"),
    ],
)
def test_options_that_cannot_be_are_refused(given: dict, told: str) -> None:
    with pytest.raises(PrepError, match=told):
        DetectorSettings(**given)
