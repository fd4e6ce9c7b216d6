"""Resolves ``--llm`` to an exact model: short names, Hugging Face IDs, folders and endpoints."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from prep.errors import PrepError
from prep.phrases.model_files import KnownHashes, folder_hash

SHORT_NAMES = {
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "ministral-8b": "mistralai/Ministral-8B-Instruct-2410",
    "mistral-nemo": "mistralai/Mistral-Nemo-Instruct-2407",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-4b": "Qwen/Qwen3-4B-Instruct-2507",
}
URL_VARIABLE = "OPENAI_BASE_URL"
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
    the Hugging Face commit, ``sha256:`` and the hash of a folder's files or a GGUF file, or an endpoint's
    revision as given by the user. ``url`` is the endpoint's, else empty. ``template`` is the text of a chat
    template to use instead of the model's own, else empty.
    """

    kind: Literal["rules", "vllm", "openai"]
    name: str
    source: str
    commit: str = ""
    url: str = ""
    template: str = ""

    def settings(self) -> dict[str, str]:
        """What identifies the model in keys: never the path of a folder or the address of an endpoint."""
        identity = "folder" if self.commit.startswith("sha256:") else self.name
        known = {"model": identity, "commit": self.commit}
        if self.template:
            known["chat_template_sha256"] = hashlib.sha256(self.template.encode()).hexdigest()
        return known


def resolve(llm: str, revision: str = "main", chat_template: Path | None = None) -> Model:
    """The model selected by ``--llm``, ``--revision`` and ``--chat-template``.

    ``llm`` is ``rules``, a short name, a Hugging Face ID, a local folder, a GGUF file or a folder with one,
    ``openai:URL#MODEL`` (URL up to and including ``/v1``), or ``openai:MODEL`` with the URL in
    OPENAI_BASE_URL. A branch or tag is resolved to the commit it points to now, by the hub or, offline, by
    the local download cache. An endpoint reports no commit: set ``--revision`` if its weights change under
    one name. Raises PrepError for a model that cannot be found and for a template that cannot be used.
    """
    model = _resolve(llm, revision)
    if chat_template is None:
        return model
    if model.kind != "vllm":
        raise PrepError(
            f"--chat-template is for models that run here, and --llm {llm} does not.", "Omit --chat-template."
        )
    return replace(model, template=_template(chat_template))


def _template(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PrepError(
            f"{file}: the chat template cannot be read ({reason}).",
            "Give --chat-template a Jinja file such as a model's chat_template.jinja.",
        ) from error
    if "messages" not in text:
        raise PrepError(
            f"{file} is no chat template: it does not use `messages`.",
            "Give --chat-template a Jinja file such as a model's chat_template.jinja.",
        )
    return text


def _resolve(llm: str, revision: str) -> Model:
    if llm == "rules":
        return Model("rules", "rules", "rules")
    if llm.startswith("openai:"):
        return _endpoint(llm, "" if revision == "main" else revision)
    hub_id = SHORT_NAMES.get(llm)
    if hub_id is None:
        folder = Path(os.path.expanduser(llm))
        if folder.is_dir():
            return _local(folder)
        if folder.suffix == ".gguf" and folder.is_file():
            return _gguf(folder)
        if llm.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(llm):
            raise PrepError(
                f"--llm {llm}: the {'file' if llm.endswith('.gguf') else 'folder'} does not exist.",
                f"Give a model folder, a Hugging Face ID or one of {', '.join(SHORT_NAMES)}. "
                + NO_MODEL_NEEDED,
            )
        hub_id = llm
    return Model("vllm", hub_id, hub_id, _hub_commit(hub_id, revision))


def _endpoint(llm: str, revision: str) -> Model:
    named = llm.removeprefix("openai:")
    if re.fullmatch(r"(?!https?://)[^#\s]+", named) and (base := os.environ.get(URL_VARIABLE)):
        named = f"{base}#{named}"
    match = _ENDPOINT.fullmatch(named)
    if match is None:
        raise PrepError(
            f"--llm {llm} does not specify both an endpoint and a model.",
            "Write openai:http://HOST:PORT/v1#MODEL, with the model's name on the server; or write "
            f"openai:MODEL and set {URL_VARIABLE} to the address.",
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


def _gguf(file: Path) -> Model:
    """The model in a GGUF file, known by the file's bytes."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise PrepError(
                f"{file} is no GGUF file: it does not start with GGUF.",
                f"Download it again; a Git LFS pointer needs `git lfs pull`. {NO_MODEL_NEEDED}",
            )
    known = KnownHashes()
    digest = known.digest(file)
    known.save()
    return Model("vllm", file.stem, str(file), f"sha256:{digest}")


def _local(folder: Path) -> Model:
    config = folder / "config.json"
    if not config.is_file():
        files = sorted(folder.glob("*.gguf"))
        if len(files) == 1:
            return _gguf(files[0])
        if files:
            names = ", ".join(file.name for file in files[:10])
            raise PrepError(f"{folder} has {len(files)} GGUF files.", f"Give --llm one of them: {names}.")
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
