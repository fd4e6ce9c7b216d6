"""Makes the data of an old version: run it with that version installed, as tests/data/README.md says."""

from __future__ import annotations

import json
import lzma
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

BIN = Path(sys.executable).parent
SOURCE = ("--data", "coco")
TRAIN = ("pcnet", "train", "--store", "store", *SOURCE, "--encoder", "tiny", "--recipe", "paper",
         "--stages", "2", "--steps", "60", "--batch-size", "4", "--size", "32", "--gpus", "0",
         "--out", "run")  # fmt: skip
EVAL = ("pcnet", "eval", "--checkpoint", "run/last.pt", "--store", "store", *SOURCE, "--split", "train",
        "--refine", "--gpus", "0", "--out", "run/evaluation")  # fmt: skip
SEGMENTS = ("pcnet-prep", "sam", "--generator", "segments", "--min-area", "20", *SOURCE, "--out", "store")


def run(*words: str) -> None:
    """One of the installed programs, in the current folder."""
    print("$", *words, flush=True)
    subprocess.run([BIN / words[0], *words[1:]], check=True)


def make(folder: Path) -> None:
    """Everything in ``folder``, which is the current one."""
    from prep.synthetic import write

    write(folder, images=4, seed=1)
    run("pcnet-prep", "phrases", "--llm", "rules", *SOURCE, "--out", "store")
    run(*SEGMENTS)
    small_clip(folder / "clip")
    run("pcnet-prep", "score", "--model", "clip", "--weights", "", *SOURCE, "--out", "store", "--gpus", "0")
    shutil.rmtree(folder / "clip")
    interrupted(*TRAIN)
    rounded(folder / "run" / "last.pt")
    run(*EVAL)
    # What this version itself makes of the rest of the run.
    shutil.copytree(folder / "run", folder / "whole")
    shutil.move(folder / "run", folder / "kept")
    shutil.move(folder / "whole", folder / "run")
    run(*TRAIN)
    shutil.copy(folder / "run" / "losses.csv", folder / "resumed.csv")
    shutil.rmtree(folder / "run")
    shutil.move(folder / "kept", folder / "run")
    checkpoint = folder / "run" / "last.pt"
    (folder / "run" / "last.pt.xz").write_bytes(lzma.compress(checkpoint.read_bytes(), preset=9))
    checkpoint.unlink()


def small_clip(folder: Path) -> None:
    """A CLIP of open_clip's own kind with seeded weights, as open_clip reads it from a folder."""
    from open_clip.model import CLIP

    folder.mkdir()
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    torch.save(CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")


def interrupted(*words: str) -> None:
    """A run stopped by SIGINT after a few steps, so that there is something left to do."""
    print("$", *words, "(interrupted)", flush=True)
    started = subprocess.Popen([BIN / words[0], *words[1:]])
    log = Path("run") / "losses.csv"
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    assert started.wait() == 128 + signal.SIGINT
    assert not (Path("run") / "best.pt").exists(), "it came to its end; take more steps"


def rounded(path: Path) -> None:
    """Cut the fractions of a checkpoint's numbers to 7 bits, of the optimizer's to 3: it packs smaller."""
    payload = torch.load(path, weights_only=True)
    for tensor in payload["model"].values():
        shorten(tensor, 7)
    for state in payload["training"]["optimizer"]["state"].values():
        for tensor in state.values():
            if tensor.ndim:
                shorten(tensor, 3)
    torch.save(payload, path)


def shorten(tensor: torch.Tensor, bits: int) -> None:
    """Keep the first ``bits`` of the 23 of each float32's fraction, in place."""
    if tensor.dtype == torch.float32:
        tensor.view(torch.int32).bitwise_and_(-1 << (23 - bits))


if __name__ == "__main__":
    import os

    where = Path(sys.argv[1]).resolve()
    where.mkdir(parents=True)
    os.chdir(where)
    make(where)
