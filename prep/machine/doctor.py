"""Examines this machine: hardware, packages, weights, datasets and store."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata, util
from pathlib import Path

from prep import devices
from prep.errors import PrepError
from prep.machine import clip_weights as clip_files
from prep.machine.finding import Finding
from prep.phrases.models import SHORT_NAMES
from prep.proposals.sam import settings as sam_settings
from prep.proposals.sam2 import settings as sam2_settings

GIB = 1 << 30
# What --load imports, each in its own process, so that a hang or crash does not affect the rest.
LOADS = {"torch": "torch", "vLLM": "vllm", "SAM": "segment_anything", "SAM 2": "sam2", "CLIP": "open_clip"}
LOAD_SECONDS = 300
DEFAULT_LLM, DEFAULT_SAM = "mistral-7b", "vit_h"


def examine(data: Path, store: str, load: bool = False) -> list[Finding]:
    """Run all checks. Nothing is downloaded; without ``load`` no heavy library is imported.

    ``data`` is the data root, ``store`` the location of the shards. A check that fails becomes a finding,
    never an exception.
    """
    looks: list[Callable[[], Iterable[Finding]]] = [
        machine,
        lambda: disk(store),
        packages,
        loads if load else lambda: [],
        sam_weights,
        clip_weights,
        language_model,
        lambda: _trees(data),
        lambda: stages(store),
    ]
    return [finding for look in looks for finding in _guarded(look)]


def _guarded(look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(look())
    except PrepError as error:
        found.append(Finding("problem", "", False, error.message, error.remedy))
    except Exception as error:
        found.append(Finding("problem", "", False, f"{type(error).__name__}: {error}"))
    return found


def machine() -> Iterable[Finding]:
    """GPUs, cores, memory and Python."""
    gpus, visible = devices.list_gpus(), devices.visible_gpus()
    named = ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)" for gpu in gpus) or "no NVIDIA GPU"
    hidden = f"; {visible} of them visible (CUDA_VISIBLE_DEVICES)" if gpus and visible != len(gpus) else ""
    yield Finding("machine", "GPUs", bool(visible and gpus), named + hidden)
    yield Finding("machine", "CPU", None, f"{devices.cpu_cores()} cores")
    yield Finding("machine", "memory", None, f"{devices.memory_bytes() / GIB:.1f} GiB")
    yield Finding("machine", "Python", None, f"{platform.python_version()} in {sys.prefix}")


def disk(store: str) -> Iterable[Finding]:
    """The free disk space at the location of the store."""
    if "://" in store:
        yield Finding("machine", "disk", None, f"{store}: an object store")
        return
    place = Path(store).absolute()
    while not place.is_dir():
        place = place.parent
    usage = shutil.disk_usage(place)
    text = f"{usage.free / GIB:,.1f} of {usage.total / GIB:,.1f} GiB free at {place}"
    yield Finding(
        "machine", "disk", usage.free > GIB, text, "Free some space, or choose another location with --store."
    )


def packages() -> Iterable[Finding]:
    """The installed packages, according to our own metadata, and which extras are complete."""
    needed: dict[str, list[str]] = {}
    for requirement in metadata.requires("pcnet-prep") or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if name:
            needed.setdefault(extra[1] if extra else "", []).append(name[0])
    needed.pop("all", None)
    base = {name: _version(name) for name in needed.pop("", [])}
    missing = [name for name, version in base.items() if version is None]
    told = " ".join(f"{name} {version}" for name, version in base.items() if version)
    yield Finding("packages", "pcnet-prep", None, f"{_version('pcnet-prep')} with {told}")
    if missing:
        yield Finding("packages", "missing", False, ", ".join(missing), f"pip install {' '.join(missing)}")
    torch = _version("torch") or ""
    if "+cpu" in torch and devices.list_gpus():
        yield Finding("packages", "torch", False, f"{torch} cannot use the GPUs", "pip install torch")
    for group, names in needed.items():
        lacking = [package for package in names if _version(package) is None]
        if group == "vllm" and util.find_spec("vllm"):
            lacking = []  # the CPU build is a package of another name
        text = f"lacks {', '.join(lacking)}" if lacking else "is installed"
        remedy = f"pip install 'pcnet-prep[{group}]'" if lacking else ""
        yield Finding("packages", f"extra [{group}]", not lacking, text, remedy)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def loads() -> Iterable[Finding]:
    """Whether the heavy libraries can be imported, each in its own process."""
    for name, module in LOADS.items():
        if util.find_spec(module) is None:
            yield Finding("loads", name, False, "is not installed")
            continue
        command = [sys.executable, "-c", f"import {module}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=LOAD_SECONDS, cwd=os.path.sep
            )
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            text = "loads" if done.returncode == 0 else said[-1][:200]
            yield Finding("loads", name, done.returncode == 0, text)
        except subprocess.TimeoutExpired:
            yield Finding("loads", name, False, f"did not load within {LOAD_SECONDS} s")


def sam_weights() -> Iterable[Finding]:
    """The checkpoints of SAM and SAM 2, searched as the stage searches them."""
    for model in (*sam_settings.CHECKPOINTS, *sam2_settings.CHECKPOINTS):
        older = model in sam_settings.CHECKPOINTS
        name = f"SAM {model}" if older else model
        try:
            path = sam_settings.find_checkpoint(model) if older else sam2_settings.find_checkpoint(model)
        except PrepError as error:
            if model == DEFAULT_SAM:  # only the default model is reported as missing
                yield Finding("weights", name, False, error.message, error.remedy)
        else:
            size = path.stat().st_size
            yield Finding("weights", name, True, f"{path.absolute()} ({size / 2**20:,.0f} MiB)")


def clip_weights() -> Iterable[Finding]:
    """CLIP's weights: RN50 for training, ViT-B-32 for scores."""
    if util.find_spec("huggingface_hub") is None:
        return  # no extra that loads weights is installed
    for name in ("RN50", "ViT-B-32"):
        found = clip_files.kept(name) or clip_files.downloaded(name)
        looked = " and ".join(clip_files.places(name))
        text = str(found) if found else f"not found in {looked}. open_clip downloads it on first use"
        yield Finding("weights", f"CLIP {name}", bool(found), text)


def language_model() -> Iterable[Finding]:
    """The default model of the phrases stage in the Hugging Face cache."""
    if util.find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = SHORT_NAMES[DEFAULT_LLM]
    config = try_to_load_from_cache(repository, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    whole = folder is not None and any(folder.glob("*.safetensors"))
    text = str(folder) if whole else f"{repository} is not in {HF_HUB_CACHE}. vLLM downloads it on first use"
    yield Finding("weights", f"LLM {DEFAULT_LLM}", whole, text)


def _trees(data: Path) -> Iterable[Finding]:
    from prep.machine.trees import trees  # its readers need packages that may be missing

    return trees(data)


def stages(store: str) -> Iterable[Finding]:
    """The tables of the store."""
    from prep.cache.files import open_files
    from prep.cache.store import Store

    opened = Store(open_files(store))
    names = opened.stages()
    for name in names:
        yield Finding("store", name, True, f"{opened.stage(name).reader().num_rows:,} rows in {opened.uri}")
    if not names:
        yield Finding("store", "store", None, f"nothing in {opened.uri} yet")
