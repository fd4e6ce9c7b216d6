"""Scores against CLIP called plainly, and what they must not depend on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from prep.cache.schema import PROPOSALS, SCORES
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.images import read_bytes
from prep.masks import rle
from prep.scores.job import run_scores
from prep.scores.stage import ImageTexts, ScoreSettings, ScoreStage, Text, cut

SIDE = 32
FILL = (123, 117, 104)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of open_clip's own kind, small and with seeded weights, in a folder as open_clip reads them."""
    import torch
    from open_clip.model import CLIP

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    torch.save(CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def stage(clip_folder: Path) -> ScoreStage:
    made = ScoreStage(ScoreSettings(model=str(clip_folder), weights=""))
    made.open()
    return made


def photo(folder: Path, name: str, seed: int) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name, pixels


def box_mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top : top + height, left : left + width] = True
    return mask


MASKS = [box_mask(5, 10, 20, 30), box_mask(0, 0, 8, 3), box_mask(30, 50, 10, 10)]
COUNTS = tuple(rle.compress(rle.encode(mask)) for mask in MASKS)


def item(path: Path, texts: list[str], counts: tuple[str, ...] = COUNTS) -> ImageTexts:
    rows = tuple(Text(f"{path.stem}-{i}", "unc", text) for i, text in enumerate(texts))
    return ImageTexts(path.name, str(path), read_bytes(path).sha256, 40, 60, counts, "proposals-key", rows)


def scores(stage: ScoreStage, unit: list[ImageTexts]) -> dict[str, list[float]]:
    table = stage.process(stage.load(unit))
    assert table.schema == SCORES
    table.validate(full=True)
    return dict(zip(table["row_id"].to_pylist(), table["scores"].to_pylist(), strict=True))


def test_a_score_is_the_cosine_of_crop_and_text(stage: ScoreStage, clip_folder: Path, tmp_path: Path) -> None:
    import open_clip
    import torch

    path, pixels = photo(tmp_path, "a.png", 0)
    found = scores(stage, [item(path, ["the red one", "a dog"])])

    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(["the red one", "a dog"])
    crops = cut(pixels, [rle.encode(m) for m in MASKS], SIDE, FILL, stage.settings)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    with torch.no_grad():
        inputs = (torch.tensor(crops).permute(0, 3, 1, 2) / 255 - mean) / std
        images = model.encode_image(inputs, normalize=True)
        wanted = model.encode_text(tokens, normalize=True) @ images.T
    np.testing.assert_allclose([found["a-0"], found["a-1"]], wanted.numpy(), atol=1e-5)
    assert np.std(wanted.numpy()) > 1e-3


def test_crops_show_the_mask_and_treat_the_rest() -> None:
    pixels = np.full((40, 60, 3), 200, np.uint8)
    mask = box_mask(10, 10, 16, 8)
    pixels[mask] = (10, 20, 30)
    run = [rle.encode(mask)]
    crop = cut(pixels, run, 16, FILL, ScoreSettings(margin=0.0))[0]
    # An upright box, padded to a square: neither cut nor stretched.
    assert (crop[:, 4:12] == (10, 20, 30)).all()
    assert (crop[:, :3] == FILL).all()
    assert (crop[:, 13:] == FILL).all()
    wide = cut(pixels, run, 32, FILL, ScoreSettings(margin=1.0))[0]
    assert (wide[0, 0] == FILL).all()
    kept = cut(pixels, run, 32, FILL, ScoreSettings(margin=1.0, background="keep"))[0]
    assert (kept[16, 8] == 200).all()
    blurred = cut(pixels, run, 32, FILL, ScoreSettings(margin=0.4, background="blur"))[0]
    assert (blurred[16, 16] == (10, 20, 30)).all()
    assert 10 < blurred[16, 9, 0] < 201


def test_a_crop_stops_at_the_images_edge() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    whole = [rle.encode(box_mask(0, 0, 40, 60))]
    crop = cut(pixels, whole, 30, FILL, ScoreSettings(margin=0.5, background="keep"))[0]
    assert (crop[0] == FILL).all()
    assert (crop[15] == 0).all()


def test_scores_do_not_depend_on_the_unit(stage: ScoreStage, tmp_path: Path) -> None:
    items = [item(photo(tmp_path, f"{i}.png", i)[0], [f"thing {i}", "the dog", "x" * 900]) for i in range(4)]
    together = scores(stage, items)
    fresh = pickle.loads(pickle.dumps(ScoreStage(stage.settings)))
    fresh.open()
    apart: dict[str, list[float]] = {}
    for one in reversed(items):
        apart |= scores(fresh, [one])
    assert apart == together


def test_crops_once_an_image_and_texts_once(stage: ScoreStage, tmp_path: Path, monkeypatch: Any) -> None:
    made = ScoreStage(stage.settings)
    made.open()
    images, texts = [], []
    clip = made._clip
    encode_images, encode_texts = clip.encode_images, clip.encode_texts
    monkeypatch.setattr(clip, "encode_images", lambda p: images.append(len(p)) or encode_images(p))
    monkeypatch.setattr(clip, "encode_texts", lambda part: texts.extend(part) or encode_texts(part))
    unit = [item(photo(tmp_path, f"{i}.png", i)[0], ["left", "right", "left"]) for i in range(2)]
    assert len(scores(made, unit)) == 6
    scores(made, [item(photo(tmp_path, "2.png", 2)[0], ["right", "top"])])
    assert images == [3, 3, 3]
    assert texts == ["left", "right", "top"]


def test_no_mask_is_no_score_and_needs_no_image(stage: ScoreStage, tmp_path: Path) -> None:
    path, _ = photo(tmp_path, "a.png", 0)
    empty = item(path, ["a"], ())
    path.unlink()
    assert scores(stage, [empty]) == {"a-0": []}


def test_another_image_under_the_name_is_refused(stage: ScoreStage, tmp_path: Path) -> None:
    path, _ = photo(tmp_path, "a.png", 0)
    old = item(path, ["a"])
    photo(tmp_path, "a.png", 1)
    with pytest.raises(PrepError, match="not the file"):
        stage.load([old])
    path.unlink()
    with pytest.raises(PrepError, match="not found"):
        stage.load([old])


def test_keys_follow_settings_and_weights(clip_folder: Path, tmp_path: Path) -> None:
    base = ScoreSettings(model=str(clip_folder), weights="")
    assert base.key() == ScoreSettings(model=str(clip_folder), weights="", device="cuda").key()
    for other in (
        ScoreSettings(model=str(clip_folder), weights="", background="keep"),
        ScoreSettings(model=str(clip_folder), weights="", template="a photo of {}"),
        ScoreSettings(model="RN50"),
    ):
        assert other.key() != base.key()
    copy = tmp_path / clip_folder.name
    copy.mkdir()
    for file in clip_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert ScoreSettings(model=str(copy), weights="").key() == base.key()
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"other")
    assert ScoreSettings(model=str(copy), weights="").key() != base.key()


def save_archive(module: Any, path: Path) -> None:
    """Save the weights of a module as OpenAI does, with numbers beside them."""
    import torch

    def copy(source: Any) -> Any:
        held = torch.nn.Module()
        for name, value in source.named_parameters(recurse=False):
            held.register_parameter(name, value)
        for name, child in source.named_children():
            held.add_module(name, copy(child))
        return held

    whole = copy(module)
    whole.register_buffer("input_resolution", torch.tensor(SIDE))
    torch.jit.save(torch.jit.script(whole), path)  # type: ignore[no-untyped-call]


@pytest.fixture
def small_model(tmp_path: Path) -> str:
    """The name of a small model that open_clip lists, as it lists OpenAI's."""
    import open_clip

    vision = {"image_size": SIDE, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    for ending in ("", "-quickgelu"):
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": bool(ending)}
        (tmp_path / f"small-clip{ending}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"small-clip{ending}.json")
    return "small-clip"


@pytest.mark.parametrize(
    ("file", "quick"),
    [
        ("small-clip.pt", True),
        ("models--timm--small.openai/open_clip_model.safetensors", True),
        ("archive.pt", True),
        ("laion.pt", False),
    ],
)
def test_openais_files_get_its_activation(small_model: str, tmp_path: Path, file: str, quick: bool) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    clip = open_clip.create_model(small_model)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if file.startswith("archive"):
        save_archive(clip, path)
    elif path.suffix == ".pt":
        torch.save(clip.state_dict(), path)
    else:
        save_file(clip.state_dict(), path)
    picture, _ = photo(tmp_path, "1.jpg", 1)

    def scored(model: str, weights: Path) -> list[float]:
        made = ScoreStage(ScoreSettings(model=model, weights=str(weights)))
        made.open()
        return scores(made, [item(picture, ["a cup"])])["1-0"]

    plain = tmp_path / "state.pt"
    torch.save(clip.state_dict(), plain)
    expected = scored(small_model + ("-quickgelu" if quick else ""), plain)
    assert expected != scored(small_model + ("" if quick else "-quickgelu"), plain)
    assert scored(small_model, path) == expected
    assert ("activation" in ScoreSettings(model=small_model, weights=str(path)).key()) == quick


@pytest.mark.parametrize("wrong", [{"background": "black"}, {"margin": -1.0}, {"template": "a photo"}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrepError):
        ScoreSettings(**wrong)


def test_a_model_that_cannot_be_had_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    made = ScoreStage(ScoreSettings(model="RN50", weights=str(tmp_path / "weights.pt")))
    with pytest.raises(PrepError, match="--weights FILE"):
        made.open()


def phrases(rows: list[tuple[str, str | None, str, str]]) -> pa.Table:
    from prep.cache.schema import PHRASES

    return pa.Table.from_pylist(
        [
            {
                "row_id": row_id,
                "dataset": "toy",
                "split_by": "unc",
                "split": "val" if row_id == "r4" else "train",
                "image": image,
                "expression": text,
                "phrases": [text],
                "llm": "rules",
                "key": "",
                "violations": [],
                "rejected": [],
                "status": status,
            }
            for row_id, image, text, status in rows
        ],
        schema=PHRASES,
    )


def proposals(folder: Path, names: list[str], unreadable: str) -> pa.Table:
    mask = {"counts": COUNTS[0], "area": 600, "bbox": [10, 5, 30, 20]}
    rows = [
        {
            "image": name,
            "image_sha256": read_bytes(folder / name).sha256,
            "height": 40,
            "width": 60,
            "masks": [mask] * (i + 1),
            "grid32": b"",
            "generator": "toy",
            "key": f"key of {name}",
            "status": "ok",
        }
        for i, name in enumerate(names)
    ]
    nothing = {"masks": [], "grid32": b"", "generator": "toy", "key": "", "status": "error"}
    return pa.Table.from_pylist([*rows, {"image": unreadable, **nothing}], schema=PROPOSALS)


def test_a_store_is_scored_once_and_added_to(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(["a.png", "b.png"]):
        photo(folder, name, i)
    store = open_store(tmp_path / "store", create=True)
    rows = [
        ("r0", "a.png", "left", "ok"),
        ("r1", "b.png", "left", "ok"),
        ("r2", "a.png", "right", "ok"),
        ("r3", None, "nowhere", "ok"),
        ("r4", "b.png", "top", "ok"),
        ("r5", "torn.png", "gone", "ok"),
        ("r6", "a.png", "", "error"),
    ]
    made = ScoreStage(ScoreSettings(model=str(clip_folder), weights=""))
    with pytest.raises(PrepError, match="no proposals yet"):
        run_scores(made, store, folder)
    with store.stage("phrases").writer({"llm": "rules"}) as writer:
        writer.write(phrases(rows))
    with store.stage("proposals").writer({"generator": "toy"}) as writer:
        writer.write(proposals(folder, ["a.png", "b.png"], "torn.png"))

    summary = run_scores(made, store, folder, splits=["train"], unit_size=1)
    assert (summary.done, summary.reused) == (3, 0)
    reasons = ("no image", "image could not be read", "phrases have an error")
    assert summary.extra["skipped"] == dict.fromkeys(reasons, 1)
    summary = run_scores(made, store, folder)
    assert (summary.done, summary.reused) == (1, 3)
    absent = ScoreStage(made.settings)
    absent.open = None  # type: ignore[assignment]
    assert run_scores(absent, store, folder).reused == 4  # nothing left to do loads no model
    table = store.stage("scores").reader().read()
    found = {row["row_id"]: row for row in table.to_pylist()}
    assert {k: len(v["scores"]) for k, v in found.items()} == {"r0": 1, "r1": 2, "r2": 1, "r4": 2}
    assert found["r4"]["proposals_key"] == "key of b.png"

    # An image was replaced, and its masks were made again: only its scores are.
    photo(folder, "a.png", 7)
    remade = proposals(folder, ["a.png", "b.png"], "torn.png").to_pylist()
    remade[0]["key"] = "another key of a.png"
    with store.stage("proposals").writer({"generator": "toy"}, replace=True) as writer:
        writer.write(pa.Table.from_pylist(remade, schema=PROPOSALS))
    summary = run_scores(made, store, folder)
    assert (summary.done, summary.reused) == (2, 2)
    assert summary.extra["scores of masks made again since"] == 2
    now = {row["row_id"]: row for row in store.stage("scores").reader().read().to_pylist()}
    assert {k for k in found if now[k] == found[k]} == {"r1", "r4"}
    assert now["r0"]["proposals_key"] == "another key of a.png"
    assert now["r0"]["scores"] != found["r0"]["scores"]

    with store.stage("proposals").writer({"generator": "other"}, replace=True) as writer:
        writer.write(proposals(folder, ["b.png", "a.png"], "torn.png"))
    with pytest.raises(PrepError):
        run_scores(made, store, folder)
    assert run_scores(made, store, folder, replace=True).done == 4
    found = {row["row_id"]: row for row in store.stage("scores").reader().read().to_pylist()}
    assert {k: len(v["scores"]) for k, v in found.items()} == {"r0": 2, "r1": 1, "r2": 2, "r4": 1}


def test_an_image_without_proposals_is_named(clip_folder: Path, tmp_path: Path) -> None:
    photo(tmp_path, "a.png", 0)
    store = open_store(tmp_path / "store", create=True)
    with store.stage("phrases").writer({"llm": "rules"}) as writer:
        writer.write(phrases([("r0", "a.png", "left", "ok"), ("r1", "b.png", "left", "ok")]))
    with store.stage("proposals").writer({"generator": "toy"}) as writer:
        writer.write(proposals(tmp_path, ["a.png"], "torn.png"))
    made = ScoreStage(ScoreSettings(model=str(clip_folder), weights=""))
    with pytest.raises(PrepError, match=r"b\.png"):
        run_scores(made, store, tmp_path)
