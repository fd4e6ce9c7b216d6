"""Checkpoints from public advisories and proofs of concept, in each place that reads weights."""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcnet.model.checkpoint import read_checkpoint
from pcnet.model.clip_weights import read_weights as clip_weights
from prep.errors import PrepError
from prep.proposals.checkpoint import read_weights as mask_weights
from prep.weights import tensors_in

Reader = Callable[[Path], Any]
READERS: list[Reader] = [mask_weights, read_checkpoint, clip_weights]


@pytest.fixture(params=READERS, ids=["masks", "pcnet", "clip"])
def reader(request: pytest.FixtureRequest) -> Reader:
    return request.param


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Sparse tensors that are wrong can be made, as by an attacker."""
    with torch.sparse.check_sparse_tensor_invariants(enable=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def saved(path: Path, tensor: object) -> Path:
    torch.save({"model": {"a": tensor}}, path)
    return path


def rewrite(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Replace an archive by one of the same records, each as ``change(name, data)`` returns it."""
    with zipfile.ZipFile(path) as before:
        records = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w", method) as after:
        for name, data in records.items():
            after.writestr(name, change(name, data))


def test_an_honest_file_is_read_with_tied_and_transposed_weights(reader: Reader, tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"model": {"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}}, tmp_path / "a.pt")
    found = reader(tmp_path / "a.pt")
    if reader is not clip_weights:  # which takes the tensors of the file's own level
        named = found.get("model", found)
        assert named["a"].equal(weight)
        assert named["c"].equal(weight.T)
        assert named["d"].equal(weight[1:])


SPARSE = {
    # Column indices that are not there: a product reads a million entries past the end of one.
    "csr": lambda: torch.sparse_csr_tensor([0, 1 << 20], [0], [1.0], (1, 4)),
    "coo": lambda: torch.sparse_coo_tensor([[10**7], [10**7]], [1.0], (1, 4)),
    "meta": lambda: torch.empty(1 << 40, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_tensors_that_are_not_dense_are_refused(reader: Reader, kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", SPARSE[kind]())
    with pytest.raises(PrepError, match=r"a\.pt.*(not dense|Unsupported|qint8|quantiz)"):
        reader(path)


def test_a_view_that_is_far_larger_than_the_file_is_refused(reader: Reader, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.zeros(1).expand(1 << 15, 1 << 15))
    assert path.stat().st_size < 4096
    with pytest.raises(PrepError, match="its tensors are far larger than the file"):
        reader(path)


def test_compressed_weights_are_refused(reader: Reader, tmp_path: Path) -> None:
    """Mapped into memory, the compressed bytes were taken for weights."""
    path = saved(tmp_path / "a.pt", torch.zeros(1000))
    rewrite(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(PrepError, match="it is compressed"):
        reader(path)


def test_a_storage_is_no_larger_than_its_record(reader: Reader, tmp_path: Path) -> None:
    """Read, such a file is refused by torch itself; mapped, the rest of the file was taken for weights."""
    path = saved(tmp_path / "a.pt", torch.arange(16.0))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        tree = archive.read(name)
    told = tree.index(b"K\x10t")  # the number of elements of the storage: 16
    forged = tree[: told + 1] + b"\xff" + tree[told + 2 :]
    path.write_bytes(data.replace(tree, forged).replace(_crc(tree), _crc(forged)))
    with pytest.raises(PrepError, match=r"record size|more data than it holds"):
        reader(path)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


# Objects that weights_only builds, with an opcode that is right for another type (CVE-2026-24747).
MISUSED = {
    "an item of a list": b"\x80\x02]K\x00K\x01s.",
    "items of a list": b"\x80\x02](K\x00K\x01u.",
    "an item of an empty tuple": b"\x80\x02)K\x00K\x01s.",
    "an element of a dict": b"\x80\x02}K\x01a.",
    "a state of a list": b"\x80\x02]K\x01b.",
}


@pytest.mark.parametrize("tree", MISUSED.values(), ids=MISUSED)
def test_opcodes_for_another_type_are_refused(reader: Reader, tree: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.zeros(1))
    rewrite(path, lambda name, data: tree if name.endswith("data.pkl") else data)
    with pytest.raises(PrepError, match=r"a\.pt"):
        reader(path)


def test_the_oldest_format_of_torch_is_refused(reader: Reader, tmp_path: Path) -> None:
    """A tar file, for which weights_only did not hold before torch 2.6 (CVE-2025-32434)."""

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    parts = {}
    for name in ("sys_info", "pickle", "storages", "tensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Runs(), protocol=2))
        parts[name] = tmp_path / name
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        for name, part in parts.items():
            archive.add(part, name)
    with pytest.raises(PrepError, match=r"a\.pt"):
        reader(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_containers_that_hold_themselves_are_walked_once() -> None:
    ring: list[object] = [torch.zeros(1)]
    ring.extend([ring, {"again": ring}, (ring, ring[0])])
    found = list(tensors_in(ring))
    assert len(found) == 1
    assert isinstance(found[0], Tensor)
