"""The examples do what they say: the notebook with photos, the script with RefCOCO-M's files."""

from __future__ import annotations

import io
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from PIL import Image
from pycocotools import mask as mask_utils

import cli
from pcnet.data.tokenizers import WordTokenizer
from pcnet.model.checkpoint import save_checkpoint
from pcnet.model.pcnet import PCNet
from pcnet.recipes import model_config, recipe
from prep.datasets.catalogue import open_jsonl
from prep.datasets.truth import Truth
from prep.images import Mask


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_notebook_runs_from_photos_to_a_prediction(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer scenes and steps; the cells are otherwise as they stand."""
    notebook = nbformat.read(repository / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []  # none is kept in the file
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "SCENES, STEPS = 1500, 500" in first.source
    first.source = first.source.replace("SCENES, STEPS = 1500, 500", "SCENES, STEPS = 60, 5")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    printed = "".join(output.get("text", "") for output in shown)
    for part in ("phrases:", "proposals:", "5 steps", "mask: prediction/mask.png"):
        assert part in printed, printed
    assert shutil.which("pcnet-prep")
    assert (tmp_path / "prediction" / "stages.png").is_file()


def _published(folder: Path) -> dict[str, Mask]:
    """Two images in the Parquet schema that RefCOCO-M publishes; the mask of each sentence."""
    masks: dict[str, Mask] = {}
    rows = []
    for number, width in enumerate((40, 56)):
        pixels = np.full((48, width, 3), 90, np.uint8)
        samples = []
        for k, (place, left) in enumerate((("left", 4), ("right", width - 16))):
            mask = np.zeros((48, width), np.uint8)
            mask[10:30, left : left + 12] = 1
            pixels[mask > 0] = (200, 40 * k, 30)
            sentences = [f"{place} box {number}", f"the box on the {place} in {number}"]
            coded = mask_utils.encode(np.asfortranarray(mask))
            masks.update({sentence: mask.astype(bool) for sentence in sentences})
            samples.append(
                {
                    "id": 10 * number + k,
                    "image_id": number,
                    "category": "suitcase",
                    "supercategory": "accessory",
                    "label": "val",
                    "sentences": sentences,
                    "bbox": [float(left), 10.0, 12.0, 20.0],
                    "mask": {"counts": coded["counts"].decode(), "size": list(coded["size"])},
                }
            )
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG")
        name = f"COCO_train2014_{number:012d}.jpg"
        image = {"bytes": stream.getvalue(), "path": name}
        rows.append({"image": image, "image_id": number, "file_name": name, "samples": samples})
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")
    return masks


def test_refcoco_m_is_evaluated_on_its_own_masks(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = _published(tmp_path / "data")
    script = repository / "examples" / "refcoco_m.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "data", "own"])
    runpy.run_path(str(script), run_name="__main__")
    dataset = open_jsonl(tmp_path / "own" / "refcoco-m.jsonl")
    expressions = list(dataset.expressions())
    assert [(one.split_by, one.split, one.ref_id, one.problem) for one in expressions] == [
        ("unc", "val", ref, "") for ref in (0, 0, 1, 1, 10, 10, 11, 11)
    ]
    truth = Truth(dataset)
    for one in expressions:
        assert np.array_equal(truth.mask(one), masks[one.text])
    given = ["--input", "own/refcoco-m.jsonl", "--store", "prepared"]
    cli.prep_app(["phrases", "--llm", "rules", *given], standalone_mode=False)
    cli.prep_app(["sam", "--generator", "segments", *given], standalone_mode=False)
    tokenizer, paper = WordTokenizer.from_texts(list(masks)), recipe("paper")
    save_checkpoint(
        Path("best.pt"), PCNet(model_config(paper, "tiny", tokenizer.vocabulary), paper), paper, tokenizer
    )
    measure = ["--checkpoint", "best.pt", "--split", "val", "--mask", "proposal", "--out", "measured"]
    cli.pcnet_app(["eval", *measure, *given], standalone_mode=False)
    figures = json.loads(Path("measured/metrics.json").read_text())
    assert figures["n"] == 8
