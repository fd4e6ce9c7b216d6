"""Reads the tensors of a TorchScript archive, the form of OpenAI's CLIP files, without running code of it."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prep.errors import PrepError

if TYPE_CHECKING:
    from torch import Tensor

# OpenAI's largest file has 450 modules, 8 levels deep, in a pickle of 0.2 MB.
MAX_PICKLE, MAX_MODULES, MAX_DEPTH = 16 << 20, 100_000, 64
_DTYPES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
# Lists of one type, which TorchScript marks with these names.
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive by their dotted names, in the file's dtypes.

    The object tree is read with a restricted unpickler: modules are plain objects, and nothing of the file's
    own code is compiled or called. Raises PrepError for anything else in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if archive.getinfo(name).file_size > MAX_PICKLE:
                raise ValueError(f"its object tree has more than {MAX_PICKLE >> 20} MiB")
            with archive.open(name) as file:
                root = _Unpickler(file, archive, name.removesuffix(".pkl")).load()
        return dict(_walk(root, "", 0, [0]))
    except PrepError:
        raise
    except Exception as error:  # a damaged pickle raises nearly every type
        reason = str(error).split("\n", 1)[0][:200].rstrip(".") or type(error).__name__
        raise PrepError(
            f"{path}: not a readable TorchScript archive: {reason}.",
            "Download it again, or give the weights as .safetensors.",
        ) from error


class _Module:
    """A module of the archive: a plain object with the module's attributes."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ValueError("a module without attributes")
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Builds modules, lists and tensors, and nothing else."""

    def __init__(self, file: object, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)  # type: ignore[arg-type]
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle" and name in _LISTS:
            return _list
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise ValueError(f"it asks for {module}.{name}"[:200])

    def persistent_load(self, pid: object) -> Tensor:
        import torch

        match pid:
            case ("storage", str(dtype), str(key), _, int()):
                pass
            case _:
                raise ValueError("a reference that is not a tensor's")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("a compressed tensor")
            data = bytearray(self._archive.read(entry))
            kind = getattr(torch, dtype)
            self._storages[key] = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        return self._storages[key]


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    """A tensor as TorchScript describes it, within its storage and no larger."""
    count: int = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    inside = last < storage.numel() and count <= storage.numel()
    if min((offset, *size, *stride)) < 0 or (count and not inside):
        raise ValueError("a tensor beyond its data")
    return storage.as_strided(size, stride, offset)


def _list(values: list[object]) -> list[object]:
    return values


def _walk(module: object, prefix: str, depth: int, seen: list[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and of those in it; ``seen`` counts modules, which may refer to each other."""
    from torch import Tensor

    seen[0] += 1
    if not isinstance(module, _Module) or depth > MAX_DEPTH or seen[0] > MAX_MODULES:
        raise ValueError("its modules are nested too deeply, or are not modules")
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.", depth + 1, seen)
