"""Reads what torch has saved without running its code, and refuses tensors that the file does not hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from prep.records import Untyped

# Weights may be tied (two names, one storage) and views may repeat small buffers, but not much more.
MOST_TIMES, MOST_BYTES = 4, 64 << 20


def load_tensors(path: Path, *, mmap: bool = False) -> Untyped:
    """The plain values and tensors that ``torch.save`` wrote to ``path``.

    With ``mmap``, the tensors of torch's current format stay on disk until they are used. Raises whatever
    ``torch.load`` raises for a damaged file, and ValueError for a compressed one (mapped, its compressed
    bytes would be taken for weights; read, it may take any amount of memory) and as :func:`check_tensors`.
    """
    held = _stored_bytes(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and held is not None)
    tensors = list(tensors_in(loaded))
    check_tensors(tensors, path)
    storages = {id(one): one for one in (tensor.untyped_storage() for tensor in tensors)}
    distinct = {one.data_ptr(): one.nbytes() for one in storages.values()}
    if held is not None and sum(distinct.values()) > held:
        raise ValueError("its tensors have more data than it holds")
    return loaded


def check_tensors(tensors: list[Tensor], path: Path) -> None:
    """Raise ValueError unless all tensors are dense and hardly larger than the file that they are from.

    The indices of a sparse tensor are not checked when it is read, and a view may be of any size.
    """
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise ValueError("it has a tensor that is not dense")
    if sum(tensor.nbytes for tensor in tensors) > MOST_TIMES * path.stat().st_size + MOST_BYTES:
        raise ValueError("its tensors are far larger than the file")


def tensors_in(loaded: object) -> Iterator[Tensor]:
    """The tensors in nested containers, each once; a container may also hold itself."""
    waiting, seen = [loaded], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)


def _stored_bytes(path: Path) -> int | None:
    """The bytes of all records of an archive, or None for torch's older format."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells them apart
            return None
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    return sum(entry.file_size for entry in entries)
