"""Kept embeddings give the masks of a new encoding, replace it, and are made again if damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from segment_anything.modeling import Sam

from prep.errors import PrepError
from prep.proposals.embeddings import Embeddings
from prep.proposals.prompt import PointPrompter, open_prompter
from prep.proposals.sam_prompt import SamPredictor
from tests.prep.proposals.test_generators import save_model

POINTS = [(0, 0), (45, 65), (80, 3)]


class Refused(Exception):
    """The encoder was called."""


def masks(prompter: PointPrompter, photo: np.ndarray) -> list[np.ndarray]:
    photos = {"a": photo, "b": photo[::-1].copy()}
    return [prompter.mask(name, lambda n=name: photos[n], *at) for name in photos for at in POINTS]


def test_a_second_run_needs_no_encoder_and_gives_the_same_masks(
    ragged: Sam, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = masks(PointPrompter(SamPredictor(ragged)), photo)
    first = masks(PointPrompter(SamPredictor(ragged), embeddings=Embeddings(tmp_path, ["w", "cpu"])), photo)
    files = sorted(tmp_path.rglob("*.embedding"))
    assert len(files) == 2

    def refuse(_: object) -> None:
        raise Refused

    with monkeypatch.context() as patch:
        patch.setattr(ragged.image_encoder, "forward", refuse)
        kept = PointPrompter(SamPredictor(ragged), embeddings=Embeddings(tmp_path, ["w", "cpu"]))
        again = masks(kept, photo)
        # Other weights, another device, another image: none of them has an embedding here.
        for identity in (["v", "cpu"], ["w", "cuda"]):
            with pytest.raises(Refused):
                masks(PointPrompter(SamPredictor(ragged), embeddings=Embeddings(tmp_path, identity)), photo)
        with pytest.raises(Refused):
            kept.mask("c", photo[:, ::-1].copy, 0, 0)
        with pytest.raises(Refused):  # the same bytes in another shape
            kept.mask("d", lambda: photo.reshape(photo.shape[1], -1, 3), 0, 0)
    for found in (first, again):
        assert all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("damage", ["empty", "short", "bit"])
def test_a_damaged_file_is_made_again(ragged: Sam, photo: np.ndarray, tmp_path: Path, damage: str) -> None:
    plain = masks(PointPrompter(SamPredictor(ragged)), photo)
    masks(PointPrompter(SamPredictor(ragged), embeddings=Embeddings(tmp_path, ["w"])), photo)
    for file in tmp_path.rglob("*.embedding"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 64
        file.write_bytes({"empty": b"", "short": file.read_bytes()[:-1], "bit": bytes(data)}[damage])
    held = {file: file.read_bytes() for file in tmp_path.rglob("*.embedding")}
    found = masks(PointPrompter(SamPredictor(ragged), embeddings=Embeddings(tmp_path, ["w"])), photo)
    assert all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))
    assert all(file.read_bytes() != old for file, old in held.items())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_models_of_transformers_keep_theirs(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / family)
    photo = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    made = [
        PointPrompter.mask(
            open_prompter(f"hf:{folder}", None, False, "cpu", cache), "a", lambda: photo, 20, 5
        )
        for cache in (None, tmp_path / "kept", tmp_path / "kept")
    ]
    assert len(list((tmp_path / "kept").rglob("*.embedding"))) == 1
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PrepError, match="file is not a folder that can be written") as error:
        Embeddings(tmp_path / "file", ["w"])
    assert "--cache" in error.value.remedy
