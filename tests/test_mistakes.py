"""Every way a newcomer goes wrong: at most five lines that say what, where and what to do."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import typer
from PIL import Image

import cli
from prep.commands.entry import run_program
from prep.errors import PrepError
from prep.hints import format_error

PROGRAMS = {"pcnet-prep": cli.prep_main, "pcnet": cli.pcnet_main}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def typed(line: str, place: Path) -> list[str]:
    """The words of a command line; {x} is a thing of the world by its name."""
    return [word.replace("{", f"{place}/").replace("}", "") for word in line.split()]


def said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """The exit code and standard error of a program, run in this process by its entry point."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[words[0]]()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good tree and store, and everything that can be wrong with one."""
    from prep.demo.dataset import write

    place = tmp_path_factory.mktemp("world")
    write(place, images=8, seed=2)
    (place / "own.jsonl").write_text(json.dumps({"sent": "the man on the left", "split": "train"}) + "\n")
    (place / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(place / "photos" / "1.png")
    (place / "empty").mkdir()
    (place / "packed.jsonl").write_bytes(gzip.compress(b'{"sent": "the man"}\n'))
    (place / "wide.jsonl").write_text('{"sent": "the man"}\n', encoding="utf-16")
    (place / "others.json").write_text('[{"image_id": 139, "segmentation": [[1, 1, 9, 1, 9, 9]]}]')
    os.mkfifo(place / "pipe")
    (place / "half.bin").write_bytes(b"PK\x03\x04 the first half of an archive")
    (place / "page.pth").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (place / "half.json").write_text('{"images": [{"id": 1, ')
    broken_trees(place)
    for words in (
        "phrases --llm rules --data {coco} --out {store}",
        "sam --generator segments --data {coco} --out {store}",
    ):
        cli.prep_app(typed(words, place), standalone_mode=False)
    for split in ("val", "train"):
        words = f"phrases --llm rules --data {{coco}} --split {split} --out {{several}}"
        cli.prep_app(typed(words, place), standalone_mode=False)
    broken_stores(place)
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    (place / "model" / "model.safetensors").write_bytes(POINTER)
    (place / "bad.yaml").write_text("phrases:\n  lm: rules\n")
    return place


def broken_trees(place: Path) -> None:
    for name in ("half_refs", "pointer", "half_instances", "no_images"):
        shutil.copytree(place / "coco", place / name)
    refs = place / "half_refs" / "refer" / "refcoco" / "refs(unc).p"
    refs.write_bytes(refs.read_bytes()[:5000])
    (place / "pointer" / "refer" / "refcoco" / "refs(unc).p").write_bytes(POINTER)
    instances = place / "half_instances" / "refer" / "refcoco" / "instances.json"
    instances.write_text(instances.read_text()[:5000])
    shutil.rmtree(place / "no_images" / "train2014")


def broken_stores(place: Path) -> None:
    for name in ("old", "damaged", "phrases_only"):
        shutil.copytree(place / "store", place / name)
    for stage in ("phrases", "proposals"):
        manifest = place / "old" / "_state" / stage / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 0}))
        for shard in (place / "damaged" / stage).glob("*.parquet"):
            shard.write_bytes(shard.read_bytes()[:-100])
    shutil.rmtree(place / "phrases_only" / "proposals")


# What is typed, and the words that the answer must have: what, where, and what to do.
MISTAKES = {
    "no data": [
        ("pcnet-prep phrases --llm rules --data {nowhere}", "nowhere --data"),
        ("pcnet-prep phrases --llm rules --data {empty}", "empty refer docs/datasets.md"),
        ("pcnet-prep phrases --llm rules --input {missing.jsonl}", "missing.jsonl sent"),
        (
            "pcnet-prep sam --generator segments --data {no_images} --out {o}",
            "no_images/train2014 docs/datasets.md",
        ),
        ("pcnet-prep sam --generator segments --images {empty} --out {o}", "empty image"),
        ("pcnet-prep sam --images {missing}", "missing --images"),
        ("pcnet-prep export {o} --data {nowhere} --store {store}", "nowhere --data"),
        ("pcnet-prep import {missing.json} --data {coco} --out {o}", "missing.json"),
        ("pcnet-prep run {missing.yaml}", "missing.yaml run"),
        ("pcnet eval --checkpoint {none.pt} --store {store}", "none.pt train"),
        ("pcnet predict --checkpoint {none.pt} --image {photos}/1.png --text man", "none.pt train"),
    ],
    "device": [
        ("pcnet train --store {store} --data {coco} --encoder tiny --device cuda --out {o}", "--gpus 0"),
        ("pcnet train --store {store} --data {coco} --encoder tiny --device mps --out {o}", "mps cpu cuda"),
        ("pcnet train --store {store} --data {coco} --device cpu --gpus 1 --out {o}", "--gpus --device"),
        ("pcnet-prep status {store} --store {old}", "store old"),
    ],
    "no store": [
        ("pcnet-prep status {nowhere}", "nowhere pcnet-prep"),
        ("pcnet-prep verify {nowhere}", "nowhere pcnet-prep"),
        ("pcnet-prep compact {nowhere}", "nowhere pcnet-prep"),
        ("pcnet-prep report {nowhere} --out {o.html}", "nowhere pcnet-prep"),
        ("pcnet-prep score --out {nowhere} --gpus 0", "nowhere pcnet-prep"),
        ("pcnet-prep score --out {phrases_only} --data {coco} --gpus 0", "proposals pcnet-prep sam"),
        ("pcnet-prep concepts --out {nowhere} --gpus 0", "nowhere pcnet-prep"),
        ("pcnet-prep export {o} --data {coco} --store {nowhere}", "nowhere pcnet-prep"),
        ("pcnet train --store {nowhere} --gpus 0", "nowhere pcnet-prep"),
        (
            "pcnet train --store {phrases_only} --data {coco} --encoder tiny --gpus 0",
            "proposals pcnet-prep sam",
        ),
        ("pcnet-prep phrases --from-manifest {none.json}", "none.json"),
    ],
    "wrong folder": [
        ("pcnet-prep phrases --llm rules --data {coco}/refer", "refcoco --data"),
        ("pcnet-prep phrases --llm rules --data {coco}/refer/refcoco", "refcoco --data"),
        ("pcnet-prep phrases --llm rules --input {photos}", "photos sent"),
        ("pcnet-prep phrases --llm rules --input {own.jsonl} --image-root {nowhere}", "nowhere --image-root"),
        ("pcnet-prep phrases --llm rules --input {own.jsonl} --out {own.jsonl}", "own.jsonl"),
        ("pcnet-prep status {photos}", "photos pcnet-prep"),
        ("pcnet-prep sam --images {photos}/1.png", "1.png --images"),
        ("pcnet train --store {store} --data {nowhere} --encoder tiny --gpus 0 --out {o}", "nowhere --data"),
    ],
    "input of another kind": [
        ("pcnet-prep phrases --llm rules --input {packed.jsonl} --out {o}", "packed.jsonl gzip -dc"),
        ("pcnet-prep phrases --llm rules --input {wide.jsonl} --out {o}", "wide.jsonl UTF-16 iconv"),
        ("pcnet-prep phrases --llm rules --input {pipe} --out {o}", "pipe sent"),
        ("pcnet-prep import {others.json} --images {photos} --out {o}", "others.json None docs/proposals.md"),
        ("pcnet-prep import {photos} --layout sa1b --images {photos} --out {o}", "photos None"),
        ("pcnet-prep import {pipe} --images {photos} --out {o}", "pipe COCO"),
    ],
    "no weights": [
        ("pcnet-prep sam --images {photos} --gpus 0 --out {o}", "sam_vit_h_4b8939.pth curl --checkpoint"),
        ("pcnet-prep sam --images {photos} --gpus 0 --checkpoint {none.pth} --out {o}", "none.pth curl"),
        ("pcnet-prep phrases --llm {no-model} --input {own.jsonl}", "no-model rules"),
        ("pcnet-prep phrases --llm {photos} --input {own.jsonl}", "config.json rules"),
        ("pcnet-prep phrases --llm openai:nothing --input {own.jsonl}", "openai:http"),
        (
            "pcnet train --store {store} --data {coco} --clip-weights {none.pt} --gpus 0 --out {o}",
            "none.pt openai",
        ),
        ("pcnet-prep score --out {store} --data {coco} --split val --model NoClip --gpus 0", "NoClip"),
        ("pcnet-prep concepts --out {store} --data {coco} --model {photos} --gpus 0", "config.json --model"),
        ("pcnet-prep concepts --out {store} --data {coco} --model hf: --gpus 0", "hf:ID"),
    ],
    "half downloaded": [
        ("pcnet-prep phrases --llm rules --data {half_refs} --out {o}", "refs(unc).p"),
        ("pcnet-prep phrases --llm rules --data {pointer} --out {o}", "refs(unc).p git lfs pull"),
        ("pcnet-prep phrases --llm rules --data {half_instances} --out {o}", "instances.json"),
        ("pcnet-prep phrases --llm {model} --input {own.jsonl} --out {o}", "model.safetensors git lfs pull"),
        ("pcnet-prep import {half.json} --data {coco} --out {o}", "half.json"),
        (
            "pcnet-prep sam --images {photos} --gpus 0 --model vit_b --checkpoint {half.bin} --out {o}",
            "half.bin Download it again",
        ),
        (
            "pcnet-prep sam --images {photos} --gpus 0 --model vit_b --checkpoint {page.pth} --out {o}",
            "page.pth Download it again",
        ),
        (
            "pcnet train --store {store} --data {coco} --clip-weights {half.bin} --gpus 0 --out {o}",
            "half.bin Download it again",
        ),
        ("pcnet eval --checkpoint {half.bin} --store {store} --data {coco} --gpus 0", "half.bin"),
        ("pcnet predict --checkpoint {half.bin} --image {photos}/1.png --text man", "half.bin"),
    ],
    "old or damaged store": [
        ("pcnet-prep status {old}", "version 0 --store"),
        ("pcnet-prep phrases --llm rules --data {coco} --out {old}", "version 0 --store"),
        ("pcnet-prep report {old} --out {o.html}", "version 0 --store"),
        ("pcnet train --store {old} --data {coco} --encoder tiny --gpus 0 --out {o}", "version 0 --store"),
        ("pcnet-prep phrases --llm rules --data {coco} --out {damaged}", "damaged/phrases verify --repair"),
        ("pcnet-prep score --out {damaged} --data {coco} --gpus 0", "damaged"),
        (
            "pcnet train --store {damaged} --data {coco} --split val --encoder tiny --gpus 0 --out {o}",
            "damaged",
        ),
    ],
    "other settings": [
        (
            "pcnet-prep sam --generator segments --data {coco} --out {store} --min-area 7 --max-masks 3",
            "min_area --store --replace",
        ),
        ("pcnet-prep sam --preset sam --generator segments --from {store} --out {store}", "--from --store"),
    ],
    "wrong split": [
        ("pcnet-prep phrases --llm rules --input {own.jsonl} --split tset --out {o}", "tset train"),
        ("pcnet-prep phrases --llm rules --data {coco} --split test --out {o}", "test val"),
        ("pcnet-prep sam --generator segments --data {coco} --split testC --out {o}", "testC val"),
        ("pcnet-prep sam --generator segments --images {photos} --split val --out {o}", "splits --split"),
        ("pcnet-prep score --out {store} --split tset --gpus 0", "tset status"),
        ("pcnet-prep phrases --llm rules --data {coco} --split-by umd --out {o}", "refs(umd).p refs(unc).p"),
        (
            "pcnet train --store {store} --data {coco} --split tset --encoder tiny --gpus 0 --out {o}",
            "tset train",
        ),
    ],
    "a typo": [
        ("pcnet-prep phrases --llm rules --dataset refcok", "refcok refcoco --help"),
        ("pcnet-prep phrasse", "phrasse phrases --help"),
        ("pcnet-prep sam --bogus", "--bogus --help"),
        ("pcnet-prep sam --modle vit_b", "--modle --model --help"),
        ("pcnet-prep sam --model vit_x", "vit_x vit_h --help"),
        ("pcnet-prep sam --images {photos} --generator nothing", "nothing segments"),
        ("pcnet-prep sam --images {photos} --generator segments --points-per-side 3", "--points-per-side"),
        ("pcnet-prep sam --generator segments --max-overlap 2", "--max-overlap --help"),
        ("pcnet-prep run {bad.yaml}", "bad.yaml lm llm"),
        ("pcnet-prep phrases --llm rules --data {coco} --prompt {p.txt}", "p.txt"),
        ("pcnet train --store {store} --data {coco} --weight iad --gpus 0", "--weight --weight iad=0.5"),
        (
            "pcnet train --dataset refcok --store {store} --data {coco} --encoder tiny --gpus 0 --out {o}",
            "refcok refcoco",
        ),
        ("pcnet evl", "evl eval --help"),
    ],
    "no GPU": [
        (
            "pcnet-prep sam --images {photos} --model vit_b --checkpoint {half.bin} --gpus 1 --out {o}",
            "--gpus 0",
        ),
        ("pcnet-prep score --out {store} --data {coco} --split val --gpus 1", "GPU --gpus 0"),
        ("pcnet-prep phrases --llm {photos} --input {own.jsonl} --gpus 2", "config.json"),
        ("pcnet train --store {store} --data {coco} --encoder tiny --gpus 2 --out {o}", "--gpus 0"),
    ],
    "nothing there to talk to": [
        (
            "pcnet-prep phrases --llm rules --data {coco} --out {o} --ray-address 127.0.0.1:1",
            "127.0.0.1:1 --ray-address",
        ),
        ("pcnet-prep status gopher://host/store", "gopher:// s3://"),
    ],
}
TABLE = [(line, words) for cases in MISTAKES.values() for line, words in cases]


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line for line, _ in TABLE])
def test_a_mistake_is_answered_in_five_lines(
    line: str,
    words: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code, told = said(
        typed(line.replace("{o}", "o").replace("{o.html}", "o.html"), world), capsys, monkeypatch
    )
    answered(code, told, words)


def answered(code: int, told: str, words: str) -> None:
    assert code not in (0, 70), told
    assert 1 <= len(told.strip().splitlines()) <= 5, told
    assert max(map(len, told.splitlines())) < 600
    assert "Traceback" not in told
    assert [word for word in words.split() if word not in told] == [], told


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pcnet-prep", "--debug", "status", str(tmp_path / "nowhere")])
    with pytest.raises(PrepError, match="nowhere"):
        cli.prep_main()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """What is written beyond ``size`` bytes of a file fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NO_SPACE = {
    "pcnet-prep phrases --llm rules --data {coco} --out full": "full/phrases ulimit again",
    "pcnet-prep report {store} --out page.html": "page.html",
    "pcnet-prep export tree --data {coco} --store {store}": "tree",
    "pcnet-prep compact {several}": "several/_state/phrases ulimit",
    "pcnet train --store {store} --data {coco} --encoder tiny --gpus 0 --out r": "r/settings.json ulimit",
}


@pytest.mark.parametrize(("line", "words"), NO_SPACE.items(), ids=list(NO_SPACE))
def test_no_space_is_answered_in_five_lines(
    line: str,
    words: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with largest_file(100):
        code, told = said(typed(line, world), capsys, monkeypatch)
    answered(code, told, words)


class Listener(BaseHTTPRequestHandler):
    """A server that is not the one that is meant."""

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def test_a_port_that_something_else_has(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        words = typed(
            f"pcnet-prep phrases --llm openai:{url}#m --input {{own.jsonl}} --out {tmp_path}/p", world
        )
        answered(*said(words, capsys, monkeypatch), f"{url} 404 --llm")
    finally:
        server.shutdown()


def too_large(library: str) -> None:
    """Ask a library at once for more bytes than a process can address."""
    import numpy as np
    import torch

    np.empty(1 << 50) if library == "numpy" else torch.empty(1 << 50)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_no_memory_is_answered_in_five_lines(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(lambda: too_large(library))
    monkeypatch.setattr(sys, "argv", ["app"])
    with pytest.raises(SystemExit) as ended:
        run_program(app)
    answered(int(ended.value.code or 0), capsys.readouterr().err, "memory --batch-size --points-per-batch")


def test_a_long_error_is_cut_but_not_its_remedy() -> None:
    lines = format_error(
        PrepError("\n".join(f"{n} " + "x" * 999 for n in range(50)), "do this\nor that")
    ).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) < 600
    assert "48 more lines" in lines[2]
    assert lines[3:] == ["do this", "or that"]
