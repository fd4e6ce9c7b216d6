"""What becomes of a GGUF file that cannot be converted, and of a model that is none."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from prep.errors import PrepError
from prep.phrases.gguf import folder_of, unpacked
from prep.phrases.models import Model


def test_other_models_are_left_as_they_are() -> None:
    model = Model("vllm", "org/name", "org/name", "c0ffee")
    assert unpacked(model) is model


def test_a_converted_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "pcnet-prep" / "gguf" / ("ab" * 16)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    model = Model("vllm", "tiny", "gone/tiny.gguf", "sha256:" + "ab" * 32)
    assert unpacked(model).source == str(folder)
    assert unpacked(model).settings() == model.settings()


@pytest.mark.slow
def test_a_file_that_cannot_be_converted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    # An array of 2^63 numbers, which would make the package hang.
    file.write_bytes(b"GGUF" + struct.pack("<IQQQsIIQ", 3, 0, 1, 1, b"a", 9, 0, 1 << 63))
    with pytest.raises(PrepError, match=r"broken\.gguf cannot be converted \(its header says that 922337"):
        folder_of(file, "cd" * 32)
    assert not list((tmp_path / "cache" / "pcnet-prep" / "gguf").iterdir())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PrepError, match="cannot be converted") as error:
        folder_of(tmp_path / "tiny.gguf", "ef" * 32)
    assert "pcnet-prep[gguf]" in error.value.remedy
