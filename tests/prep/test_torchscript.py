"""TorchScript archives are read without their code, and with the same tensors as torch reads."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pcnet.model.clip_weights import read_weights
from prep.errors import PrepError
from prep.torchscript import is_archive, read_tensors


class Writes(nn.Module):
    """Writes a file when an archive of it is loaded by torch.jit.load."""

    target: str

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight, self.target, self.training = state
        torch.save(self.weight, self.target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Block(nn.Module):
    """Buffers, nested and shared modules, a view, and lists, as OpenAI's archives have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)).half()
        self.proj = nn.Parameter(torch.randn(6, 4)[::2].t())
        self.sizes = [1, 2, 3]
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("none", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.sizes[0]  # type: ignore[no-any-return]


def saved(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module), path)  # type: ignore[no-untyped-call]
    return path


def test_the_tensors_are_those_that_torch_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = saved(Block(), tmp_path / "a.pt")
    reference = torch.jit.load(path).state_dict()  # type: ignore[no-untyped-call]
    read = read_tensors(path)
    assert read.keys() == reference.keys()
    for name, value in reference.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name


def test_code_in_an_archive_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = tmp_path / "a.pt"
    saved(Writes(str(target)), path)
    target.unlink(missing_ok=True)
    with pytest.raises(PrepError, match="not a readable TorchScript archive"):
        read_weights(path)
    assert not target.exists()


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": data, "constants.pkl": b"(t.", "version": b"3"}.items():
            file.writestr(f"a/{name}", content)
        for name, content in storages.items():
            file.writestr(f"a/data/{name.removeprefix('s')}", content)
    return path


MODULE = b"c__torch__.M\nModule\n)\x81"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + size + stride + b"\x89}tR"
    return b"\x80\x02" + MODULE + b"}X\x01\x00\x00\x00w" + made + b"sb."


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + MODULE + b"q\x00}X\x01\x00\x00\x00mh\x00sb.",  # a module in itself
        b"\x80\x02" + b"(" * 200_000 + b".",
        pickle.dumps([]),
        tensor(b"K\x05\x85", b"K\x01\x85"),
        tensor(b"K\x02\x85", b"K\x03\x85", b"K\x01"),
        tensor(b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"),  # many numbers made of one
        tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"K\x01"),
        b"",
    ],
)
def test_other_content_is_refused(data: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", data, s0=bytes(16))
    assert is_archive(path)
    with pytest.raises(PrepError, match="not a readable TorchScript archive"):
        read_weights(path)


def test_a_shared_module_is_not_followed_without_end(tmp_path: Path) -> None:
    levels, data = 60, b"\x80\x02" + MODULE + b"q\x00}b0"
    for level in range(levels):  # each module holds the one before twice: 2**60 paths
        data += MODULE + b"q" + bytes([level + 1])
        held = b"h" + bytes([level])
        data += b"}(X\x01\x00\x00\x00a" + held + b"X\x01\x00\x00\x00b" + held + b"ub0"
    path = archive(tmp_path / "a.pt", data + b"h" + bytes([levels]) + b".")
    with pytest.raises(PrepError, match="nested too deeply"):
        read_tensors(path)


def test_compressed_tensors_are_refused(tmp_path: Path) -> None:
    """Their size is not bounded by the file's."""
    path = archive(tmp_path / "a.pt", tensor(b"K\x04\x85", b"K\x01\x85"), zipfile.ZIP_DEFLATED, s0=bytes(16))
    with pytest.raises(PrepError, match="a compressed tensor"):
        read_tensors(path)
    whole = archive(tmp_path / "b.pt", tensor(b"K\x04\x85", b"K\x01\x85"), s0=bytes(16))
    assert torch.equal(read_tensors(whole)["w"], torch.zeros(4))
