"""`pcnet-prep concepts` as a program, and the other commands on the table that it writes."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import cli
from pcnet.commands import masks as kinds
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.machine import doctor
from tests.prep.concepts.worlds import ID, Row, write_photo, write_phrases

ROWS: list[Row] = [
    (ID(0), "1.png", ["a dog"], "train"),
    (ID(1), "1.png", ["the man"], "train"),
    (ID(2), "2.png", ["a dog"], "val"),
]


def run(*words: str | Path) -> int:
    return int(cli.prep_app([*map(str, words)], standalone_mode=False) or 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a store ``st`` of three phrases and a folder ``photos`` of their images."""
    for number in (1, 2):
        write_photo(tmp_path / f"photos/{number}.png", number)
    write_phrases(tmp_path / "st", ROWS)
    return tmp_path


@pytest.mark.slow
def test_the_other_commands_know_the_table(
    sam3: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = place / "st"
    given = ("concepts", "--store", store, "--data", place / "photos", "--model", sam3, "--gpus", "0")
    given = (*given, "--threshold", "0.03")
    assert run(*given, "--plan") == 0
    assert "concepts: 3 rows to make" in capsys.readouterr().out
    assert run(*given, "--split", "train", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["done"] == 2
    assert "concepts by sam3" in told.err
    assert run(*given) == 0
    before = open_store(store).stage("concepts").reader().read().sort_by("concept_id")
    assert before.num_rows == 3
    assert run("concepts", "--from-manifest", store / "concepts", "--plan") == 0
    assert "concepts: 0 rows to make" in capsys.readouterr().out

    assert run("status", store) == 0
    assert "concepts: 3 rows (" in capsys.readouterr().out
    assert run("report", store, "--out", place / "report.html") == 0
    page = (place / "report.html").read_text()
    (packed,) = re.findall(r'id="content">([^<]+)</script>', page)
    content = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert {one["stage"]: one["rows"] for one in content["stages"]} == {"phrases": 3, "concepts": 3}
    card = (store / "README.md").read_text()
    assert "| `concepts` | one image and one target noun phrase of its expressions | 3 (" in card
    assert "| `masks.score` | double |" in card
    assert ("concepts", f"3 rows in {store}") in {(one.name, one.text) for one in doctor.stages(str(store))}

    # The page's example: each expression with its concept.
    example = re.findall(r"```python\n(.*?)```", (repository / "docs/concepts.md").read_text(), re.DOTALL)
    assert len(example) == 1
    (place / "prepared").symlink_to(store)
    monkeypatch.chdir(place)
    exec(example[0], names := dict[str, Any]())
    assert sorted(names["joined"].select("row_id", "image", "phrase").rows()) == [
        (row_id, image, phrases[0]) for row_id, image, phrases, _ in ROWS
    ]
    assert names["joined"]["masks"].null_count() == 0

    # A lost shard is made again by the commands that the table remembers.
    assert run("verify", store) == 0
    next((store / "concepts").glob("*.parquet")).write_bytes(b"damaged")
    assert run("verify", store) == 1
    assert run("verify", store, "--repair") == 0
    assert open_store(store).stage("concepts").reader().read().sort_by("concept_id").equals(before)


def test_an_image_that_cannot_be_read_ends_in_exit_code_3(
    grounding_dino: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "photos/2.png").write_bytes(b"no image")
    given = ("concepts", "--store", place / "st", "--data", place / "photos", "--gpus", "0")
    given = (*given, "--detector", "grounding-dino", "--model", grounding_dino)
    for _ in range(2):  # a repetition does not make it better
        assert run(*given) == 3
        assert "1 of 3 phrases have an error" in capsys.readouterr().err
    assert run(*given, "--max-failed", "50%") == 0
    rows = open_store(place / "st").stage("concepts").reader().read().to_pylist()
    assert {row["detector"] for row in rows} == {"grounding-dino"}
    masks = [mask for row in rows for mask in row["masks"]]
    assert masks
    assert {mask["counts"] for mask in masks} == {None}
    assert run("verify", place / "st") == 0


def test_what_is_missing_is_named(place: Path, sam3: Path) -> None:
    (place / "empty").mkdir()
    with pytest.raises(PrepError, match="There is no store"):
        run("concepts", "--store", place / "empty", "--gpus", "0", "--model", sam3)
    with pytest.raises(PrepError, match=r"The image folder .*nowhere does not exist") as error:
        run("concepts", "--store", place / "st", "--data", place / "nowhere", "--gpus", "0", "--model", sam3)
    assert "--data" in error.value.remedy
    assert not (place / "st" / "concepts").exists()
    with pytest.raises(PrepError, match="--mask is 'concept'"):
        kinds.kinds_of(["concept"], known=kinds.PREDICTED)
    assert kinds.kinds_of(["concept,map"]) == ("concept", "map")


class Hub(BaseHTTPRequestHandler):
    """The hub as it answers for a gated model: it tells what there is, and refuses the files."""

    def do_GET(self) -> None:
        if "/api/models/" in self.path:
            files = [{"type": "file", "path": "config.json", "size": 9, "oid": "b" * 40}]
            told = files if "/tree/" in self.path else {"id": "facebook/sam3", "sha": "a" * 40}
            self.answer(200, json.dumps(told).encode())
        else:
            self.answer(403, b"")

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        if code == 403:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to model facebook/sam3 is restricted.")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_gated_model_says_how_to_get_access(hub: str, place: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "prep", "concepts", "--store", place / "st", "--gpus", "0"]
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(place / "hf"), "PATH": "", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 1, done.stderr
    assert "error: The model facebook/sam3 is gated or does not exist" in done.stderr
    assert "Request access at https://huggingface.co/facebook/sam3, then run `hf auth login`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "st" / "concepts").exists()
