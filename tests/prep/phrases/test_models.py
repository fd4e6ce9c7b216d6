"""What --llm names: resolved to an exact model, or refused with what to do."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prep.errors import PrepError
from prep.phrases.model_files import folder_hash
from prep.phrases.models import SHORT_NAMES, URL_VARIABLE, Model, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "extra").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "extra" / "vocab.json").write_text("n")
    return folder


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as resolving a name needs."""

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        name = next((n for n in ("open/model", "gated/model", "none/model") if n in self.path), "")
        code = {"gated/model": (403, "GatedRepo"), "none/model": (404, "RepoNotFound")}.get(name)
        is_info = self.path.startswith("/api/models/")
        body = b"{}"
        status, headers = 200, {"X-Repo-Commit": COMMIT, "ETag": '"e1"'}
        if code and not (name == "gated/model" and is_info):
            status, headers["X-Error-Code"] = code
        elif is_info and "absent-branch" in self.path:
            status, headers["X-Error-Code"] = 404, "RevisionNotFound"
        elif is_info:
            body = json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import huggingface_hub.constants as constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template[template.index("/{repo_id}") :]
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()
    server.server_close()


def test_rules_and_endpoints_need_nothing_to_be_there() -> None:
    assert resolve("rules") == Model("rules", "rules", "rules")
    model = resolve("openai:http://127.0.0.1:8000/v1/#org/name")
    assert model == Model("openai", "openai:org/name", "org/name", "", "http://127.0.0.1:8000/v1")
    assert resolve("openai:https://x/v1#m", "2026-01").commit == "2026-01"
    # The same model at another address has the same keys.
    assert model.settings() == resolve("openai:http://other:1/v1#org/name").settings()
    for wrong in ("openai:127.0.0.1#m", "openai:http://x/v1", "openai:"):
        with pytest.raises(PrepError, match="endpoint"):
            resolve(wrong)


def test_a_folder_is_known_by_its_contents_alone(model_folder: Path, tmp_path: Path) -> None:
    model = resolve(str(model_folder))
    assert (model.kind, model.name, model.source) == ("vllm", "tiny", str(model_folder))
    assert model.commit == f"sha256:{folder_hash(model_folder)}"
    moved = shutil.copytree(model_folder, tmp_path / "elsewhere" / "named")
    (moved / ".cache").mkdir()
    (moved / ".cache" / "lock").write_text("hidden files do not count")
    assert resolve(str(moved)).settings() == model.settings()
    (moved / "extra" / "vocab.json").write_text("m")
    assert resolve(str(moved)).settings() != model.settings()


def test_files_that_are_no_part_of_a_model_do_not_change_its_key(model_folder: Path) -> None:
    before = resolve(str(model_folder)).settings()
    (model_folder / "runs").mkdir()
    about = ["README.md", "README", "LICENSE", "USE_POLICY.md", "curve.png", "notes.txt", "runs/events.1"]
    training = ["training_args.bin", "trainer_state.json", "optimizer.pt", "rng_state_0.pth"]
    for name in (*about, *training):
        (model_folder / name).write_text("said about the model")
    assert resolve(str(model_folder)).settings() == before
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "modeling_own.py", "adapter.bin"):
        (model_folder / name).write_text("a part of the model")
        after = resolve(str(model_folder)).settings()
        assert after != before, name
        before = after


def test_a_model_in_a_gguf_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "tiny.Q4.gguf"
    file.write_bytes(b"GGUF and the rest")
    (folder / "README.md").write_text("r")
    model = resolve(str(file))
    assert (model.kind, model.name, model.source) == ("vllm", "tiny.Q4", str(file))
    assert resolve(str(folder)) == model
    moved = file.rename(tmp_path / "other.gguf")
    assert resolve(str(moved)).settings() == model.settings()
    moved.write_bytes(b"GGUF and another rest")
    assert resolve(str(moved)).settings() != model.settings()
    moved.write_bytes(b"version https://git-lfs")
    with pytest.raises(PrepError, match="not a GGUF file"):
        resolve(str(moved))
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(b"GGUF")
    with pytest.raises(PrepError, match="has 2 GGUF files") as error:
        resolve(str(folder))
    assert "a.gguf, b.gguf" in error.value.remedy
    with pytest.raises(PrepError, match="the file does not exist"):
        resolve("./none.gguf")


def test_an_endpoint_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    with pytest.raises(PrepError, match="both an endpoint and a model") as error:
        resolve("openai:org/name")
    assert URL_VARIABLE in error.value.remedy
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:8000/v1/")
    assert resolve("openai:org/name") == resolve("openai:http://127.0.0.1:8000/v1#org/name")
    # An address on the command line wins, and half an address is not completed.
    assert resolve("openai:http://other:1/v1#m").url == "http://other:1/v1"
    with pytest.raises(PrepError, match="both"):
        resolve("openai:http://other:1/v1")


def test_a_chat_template_is_part_of_the_key(model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    plain, given = resolve(str(model_folder)), resolve(str(model_folder), chat_template=file)
    assert given.template == file.read_text()
    assert given.settings() != plain.settings()
    assert given.settings().items() > plain.settings().items()
    file.write_text("hello")
    with pytest.raises(PrepError, match="is not a chat template"):
        resolve(str(model_folder), chat_template=file)
    with pytest.raises(PrepError, match="cannot be read"):
        resolve(str(model_folder), chat_template=tmp_path / "none.jinja")
    for llm in ("rules", "openai:http://x/v1#m"):
        with pytest.raises(PrepError, match="--chat-template is for models that run here"):
            resolve(llm, chat_template=file)


def test_large_files_are_hashed_once(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prep.phrases.model_files.KnownHashes.LARGE", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = folder_hash(model_folder)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    assert folder_hash(model_folder) == before
    kept.write_text("not JSON")
    assert folder_hash(model_folder) == before
    (model_folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert folder_hash(model_folder) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
            "LFS pointer",
        ),
        (shutil.rmtree, "the folder does not exist"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(model_folder: Path, change: object, words: str) -> None:
    change(model_folder)  # type: ignore[operator]
    with pytest.raises(PrepError, match=words) as error:
        resolve(str(model_folder))
    assert "--llm rules" in error.value.remedy


def test_a_branch_becomes_the_commit_it_points_to(hub: None) -> None:
    model = resolve("open/model")
    assert model == Model("vllm", "open/model", "open/model", COMMIT)
    assert resolve("open/model", COMMIT) == model
    assert model.settings() == {"model": "open/model", "commit": COMMIT}


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("gated/model", "main", "is gated"),
        ("none/model", "main", "has no model"),
        ("open/model", "absent-branch", "no revision"),
        ("a/b/c", "main", "the folder does not exist"),
        ("two words", "main", "the folder does not exist"),
    ],
)
def test_a_model_the_hub_does_not_give(hub: None, name: str, revision: str, words: str) -> None:
    with pytest.raises(PrepError, match=words):
        resolve(name, revision)


def test_without_a_network_the_download_cache_is_asked(
    hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    resolve("open/model")  # fills the cache, as a download would
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--open--model"
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    assert resolve("open/model").commit == COMMIT
    assert SHORT_NAMES["mistral-7b"] == "mistralai/Mistral-7B-Instruct-v0.3"
    with pytest.raises(
        PrepError, match=r"Mistral-7B-Instruct-v0\.3 \(main\) is not on this machine"
    ) as error:
        resolve("mistral-7b")
    assert "hf download mistralai/Mistral-7B-Instruct-v0.3" in error.value.remedy
    assert "--llm rules" in error.value.remedy


@pytest.mark.timeout(60)
def test_links_to_folders_above_are_not_followed_without_end(model_folder: Path) -> None:
    plain = folder_hash(model_folder)
    for number in range(3):
        (model_folder / f"loop{number}").symlink_to(model_folder, target_is_directory=True)
        (model_folder / "extra" / f"up{number}").symlink_to("..", target_is_directory=True)
    (model_folder / "self").symlink_to("self")
    assert folder_hash(model_folder) == plain


@pytest.mark.timeout(60)
def test_a_folder_linked_along_many_ways_is_read_once(model_folder: Path) -> None:
    last = model_folder / "f0"
    last.mkdir()
    for number in range(1, 40):  # 2**39 paths
        folder = model_folder / f"f{number}"
        folder.mkdir()
        for name in "ab":
            (folder / name).symlink_to(last, target_is_directory=True)
        last = folder
    assert len(folder_hash(model_folder)) == 64


@pytest.mark.timeout(60)
def test_pipes_and_devices_in_a_model_folder_are_not_read(model_folder: Path) -> None:
    plain = folder_hash(model_folder)
    os.mkfifo(model_folder / "pipe.safetensors")
    (model_folder / "zero.bin").symlink_to("/dev/zero")
    assert folder_hash(model_folder) == plain
    assert resolve(str(model_folder)).commit == f"sha256:{plain}"
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(PrepError, match="contains no weights"):
        resolve(str(model_folder))
