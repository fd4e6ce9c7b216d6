"""Resolves ``--llm`` to an exact model: short names, Hugging Face IDs, folders and endpoints."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from prep.errors import PrepError
from prep.files import sha256_of, write_whole

SHORT_NAMES = {
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "ministral-8b": "mistralai/Ministral-8B-Instruct-2410",
    "mistral-nemo": "mistralai/Mistral-Nemo-Instruct-2407",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-4b": "Qwen/Qwen3-4B-Instruct-2507",
}
NO_MODEL_NEEDED = "`--llm rules` needs no model."

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")
_ENDPOINT = re.compile(r"(https?://[^#\s]+)#(\S+)")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Model:
    """One exact model.

    ``name`` is what rows record (column ``llm``), ``source`` what the engine loads or requests, ``commit``
    the Hugging Face commit, ``sha256:`` and the hash of a folder's files, or an endpoint's revision as given
    by the user. ``url`` is the endpoint's, else empty.
    """

    kind: Literal["rules", "vllm", "openai"]
    name: str
    source: str
    commit: str = ""
    url: str = ""

    def settings(self) -> dict[str, str]:
        """What identifies the model in keys: never the path of a folder or the address of an endpoint."""
        identity = "folder" if self.commit.startswith("sha256:") else self.name
        return {"model": identity, "commit": self.commit}


def resolve(llm: str, revision: str = "main") -> Model:
    """The model selected by ``--llm`` and ``--revision``.

    ``llm`` is ``rules``, a short name, a Hugging Face ID, a local folder, or ``openai:URL#MODEL`` (URL up to
    and including ``/v1``). A branch or tag is resolved to the commit it points to now, by the hub or,
    offline, by the local download cache. An endpoint reports no commit: set ``--revision`` if its weights
    change under one name. Raises PrepError for a model that cannot be found.
    """
    if llm == "rules":
        return Model("rules", "rules", "rules")
    if llm.startswith("openai:"):
        return _endpoint(llm, "" if revision == "main" else revision)
    hub_id = SHORT_NAMES.get(llm)
    if hub_id is None:
        folder = Path(llm).expanduser()
        if folder.is_dir():
            return _local(folder)
        if llm.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(llm):
            raise PrepError(
                f"--llm {llm}: the folder does not exist.",
                f"Give a model folder, a Hugging Face ID or one of {', '.join(SHORT_NAMES)}. "
                + NO_MODEL_NEEDED,
            )
        hub_id = llm
    return Model("vllm", hub_id, hub_id, _hub_commit(hub_id, revision))


def _endpoint(llm: str, revision: str) -> Model:
    match = _ENDPOINT.fullmatch(llm.removeprefix("openai:"))
    if match is None:
        raise PrepError(
            f"--llm {llm} does not specify both an endpoint and a model.",
            "Write openai:http://HOST:PORT/v1#MODEL, with the model's name on the server.",
        )
    _check_url(match[1])
    return Model("openai", f"openai:{match[2]}", match[2], revision, match[1].rstrip("/"))


def _check_url(url: str) -> None:
    """Check that an endpoint's URL names a host and holds no password."""
    try:
        parts = urlsplit(url)
        host, _, holds_password = parts.hostname, parts.port, "@" in parts.netloc
    except ValueError:
        host, holds_password = None, False
    if not host or not url.isascii():
        raise PrepError(
            "--llm openai:URL#MODEL: the URL names no valid host and port.",
            "Write openai:http://HOST:PORT/v1#MODEL, with the model's name on the server.",
        )
    if holds_password:
        raise PrepError(
            "--llm openai:URL#MODEL: the URL holds a user name or password, which would be written down.",
            "Leave them out, and set OPENAI_API_KEY to the key.",
        )


def _local(folder: Path) -> Model:
    config = folder / "config.json"
    if not config.is_file():
        raise PrepError(
            f"{folder} has no config.json, so it is not a model in Hugging Face's layout.",
            f"Give the folder that contains config.json, the tokenizer and the weights. {NO_MODEL_NEEDED}",
        )
    weights = [file for pattern in _WEIGHTS for file in folder.glob(pattern) if file.is_file()]
    if not weights:
        raise PrepError(
            f"{folder} contains no weights ({', '.join(_WEIGHTS)}).",
            f"Download the complete model: hf download MODEL --local-dir {folder}. {NO_MODEL_NEEDED}",
        )
    for file in weights:
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise PrepError(
                    f"{file} is a Git LFS pointer, not weights.",
                    f"Run `git lfs pull` in {folder}. {NO_MODEL_NEEDED}",
                )
    return Model("vllm", folder.resolve().name, str(folder), f"sha256:{folder_hash(folder)}")


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files (64 hex digits), without hidden files. A folder
    that links lead to again is read once.

    The hash of a large file is cached by path, size and times in the user's cache folder, so only the first
    run reads all weights.
    """
    known = _KnownHashes()
    files = sorted(_files(folder, set()), key=lambda file: file.relative_to(folder).as_posix())
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(known.digest, files))
    known.save()
    total = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        total.update(f"{digest}  {file.relative_to(folder).as_posix()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry, seen)
        elif entry.is_file():
            yield entry


class _KnownHashes:
    """A cache of the SHA-256 of large files across runs, invalidated by a change of size or times."""

    LARGE = 64 << 20

    def __init__(self) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._file = base / "pcnet-prep" / "file_hashes.json"
        self._new: dict[str, str] = {}
        try:
            self._known: dict[str, str] = dict(json.loads(self._file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}

    def digest(self, file: Path) -> str:
        """The file's SHA-256, reading the file only if it is not cached."""
        stat = file.stat()
        if stat.st_size < self.LARGE:
            return sha256_of(file)
        mark = f"{file.resolve()}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        found = self._known.get(mark)
        if found is None:
            found = self._new[mark] = sha256_of(file)
        return found

    def save(self) -> None:
        """Save the new digests; if they cannot be written they are computed again next time."""
        if not self._new:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({**self._known, **self._new}).encode())
        except OSError:
            return


def _hub_commit(hub_id: str, revision: str) -> str:
    """The commit that a branch, tag or commit of a Hugging Face model resolves to."""
    import huggingface_hub
    from huggingface_hub import errors

    get_it = f"Download it once with `hf download {hub_id}`, or give a local folder. {NO_MODEL_NEEDED}"
    try:
        if _COMMIT.fullmatch(revision):
            commit = revision
        else:
            commit = str(huggingface_hub.HfApi().model_info(hub_id, revision=revision, timeout=20).sha)
        huggingface_hub.hf_hub_download(hub_id, "config.json", revision=commit)
        return commit
    except errors.GatedRepoError as error:
        raise PrepError(
            f"{hub_id} is gated: the hub asks you to accept its licence first.",
            f"Accept it on https://huggingface.co/{hub_id}, then run `hf auth login` (or set HF_TOKEN). "
            + NO_MODEL_NEEDED,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PrepError(f"{hub_id} has no revision {revision!r}.", "Select one with --revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise PrepError(
            f"The Hugging Face hub has no model {hub_id!r}, or it is private.",
            f"Check the name; for a private model, run `hf auth login` first. {NO_MODEL_NEEDED}",
        ) from error
    except errors.EntryNotFoundError as error:
        if not isinstance(error, errors.LocalEntryNotFoundError):
            raise PrepError(f"{hub_id} has no config.json, so no engine can load it.", get_it) from error
        return _cached_commit(hub_id, revision, get_it, error)
    except (errors.HFValidationError, ValueError) as error:
        raise PrepError(
            f"--llm {hub_id}: {str(error).rstrip('.')}.", f"Check the name. {NO_MODEL_NEEDED}"
        ) from error
    except Exception as error:  # without a network, the error depends on the client version
        return _cached_commit(hub_id, revision, get_it, error)


def _cached_commit(hub_id: str, revision: str, get_it: str, reason: Exception) -> str:
    """The commit in the local download cache, for a machine that cannot reach the hub."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    if isinstance(found, str):
        return Path(found).parent.name
    raise PrepError(
        f"{hub_id} ({revision}) is not on this machine, and the Hugging Face hub cannot be reached "
        f"({type(reason).__name__}).",
        get_it,
    ) from reason
