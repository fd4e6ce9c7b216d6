"""The doctor finds what is there, where the stages would, and survives whatever is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prep.demo.dataset import write
from prep.machine import doctor
from prep.machine.doctor import examine, loads
from prep.machine.finding import Finding
from prep.machine.screen import next_steps, screen

BIN = Path(sys.executable).parent
# A driver that lists two GPUs, as the real one prints them.
DRIVER = """#!/bin/sh
case "$1" in
  -L) echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"; echo "GPU 1: NVIDIA H100 (UUID: GPU-2)" ;;
  *) echo "NVIDIA H100 80GB HBM3, 81559"; echo "NVIDIA H100 80GB HBM3, 81559" ;;
esac
"""


def examined(
    folder: Path, *words: str | Path, **environment: str
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What `pcnet-prep doctor --json` finds in a process of its own, by name, and what it says is next."""
    done = subprocess.run(
        [BIN / "pcnet-prep", "doctor", "--json", *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **environment},
    )
    found = json.loads(done.stdout)
    return {finding["name"]: finding for finding in found["findings"]}, found["next"]


def test_a_machine_with_everything(tmp_path: Path) -> None:
    write(tmp_path, images=4, seed=0)
    sam = tmp_path / "torch" / "hub" / "checkpoints" / "sam_vit_h_4b8939.pth"
    clip = tmp_path / ".cache" / "clip" / "RN50.pt"
    snapshot = "models--timm--vit_base_patch32_clip_224.openai"
    vit = tmp_path / "hf" / "hub" / snapshot / "snapshots" / "abc" / "open_clip_model.safetensors"
    for path in (
        sam,
        clip,
        vit,
        tmp_path / "hf" / "hub" / snapshot / "refs" / "main",
        tmp_path / "bin" / "nvidia-smi",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("abc")
    (tmp_path / "bin" / "nvidia-smi").write_text(DRIVER)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    found, steps = examined(
        tmp_path,
        HF_HOME=str(tmp_path / "hf"),
        TORCH_HOME=str(tmp_path / "torch"),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="1",
        SLURM_CPUS_PER_TASK="3",
    )
    assert found["GPUs"]["ok"]
    assert "NVIDIA H100 80GB HBM3 (80 GiB)" in found["GPUs"]["text"]
    assert "1 of them visible" in found["GPUs"]["text"]
    assert found["CPU"]["text"] == "3 cores"
    assert str(sam) in found["SAM vit_h"]["text"]
    assert found["CLIP RN50"]["text"] == str(clip)
    assert found["CLIP ViT-B-32"]["text"] == str(vit)
    assert "train has " in found["refcoco unc"]["text"]  # a synthetic tree is not the official one
    assert not found["refcoco unc"]["ok"]
    assert steps[0].startswith("pcnet-prep phrases --llm mistral-7b --data coco --dataset refcoco")
    assert steps[1] == "pcnet-prep sam --data coco --dataset refcoco --store prepared"


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    """Not even the libraries that our own code imports: each missing one is said, nothing is raised."""
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'huggingface_hub', 'numpy', 'PIL', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "import cli\n"
        "cli.prep_app(['doctor', '--data', 'nowhere', '--json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["findings"]
    assert {f["name"]: f["text"] for f in found}["GPUs"] == "no NVIDIA GPU"
    assert [f for f in found if f["area"] == "problem" and "pyarrow" in f["text"]]


def test_unreadable_data_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "coco" / "refer" / "refcoco"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(b"half a pick")
    (found,) = [f for f in examine(tmp_path / "coco", str(tmp_path / "s")) if f.name == "refcoco unc"]
    assert found.ok is False
    assert "refs(unc).p" in found.text


def test_loading_is_tried_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks.py").write_text("raise OSError('libcuda.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "LOADS", {"good": "json", "bad": "breaks", "absent": "no_such_module"})
    texts = {finding.name: (finding.ok, finding.text) for finding in loads()}
    assert texts == {
        "good": (True, "loads"),
        "bad": (False, "OSError: libcuda.so.1 is missing"),
        "absent": (False, "is not installed"),
    }
    assert "breaks" not in sys.modules


GPU = Finding("machine", "GPUs", True, "one")
TREE = Finding("data", "refcocog umd", True, "complete")


def steps(*findings: Finding) -> list[str]:
    return next_steps(findings, Path("coco"), "prepared")


def test_what_to_type_next() -> None:
    assert steps(Finding("packages", "missing", False, "ray", "pip install ray")) == ["pip install ray"]
    assert steps(GPU)[0].startswith("pcnet-prep demo")
    weights = Finding(
        "weights", "SAM vit_h", False, "none", "download them with\n  curl it\nor name the file"
    )
    assert steps(GPU, weights, TREE)[1] == "curl it"
    assert steps(TREE)[0] == "pcnet-prep phrases --llm rules --data coco --dataset refcocog --store prepared"
    made = [Finding("store", name, True, "rows") for name in ("phrases", "proposals")]
    assert steps(GPU, TREE, *made) == ["pcnet train --data coco --dataset refcocog --store prepared"]


def test_the_screen_is_narrow_and_names_every_finding() -> None:
    long = Finding("packages", "pcnet-prep", None, "with " + "numpy 2.0 " * 60)
    lines = screen([GPU, TREE, long], ["type this"]).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].split() == ["ok", "machine", "GPUs", "one"]
    assert lines[-1].strip() == "type this"
