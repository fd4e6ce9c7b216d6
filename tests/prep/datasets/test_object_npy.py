"""Pickled arrays against numpy's own reader, on its several ways of writing them, and on hostile ones."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from prep.datasets.object_npy import load_object_npy, loads_arrays
from prep.errors import PrepError
from tests.limits import limited

DTYPES = ["bool", "int8", "uint8", "<i4", ">i8", "<f4", ">f8", "float16", "<U5", "S3"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def _same(read: Any, wanted: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        equal = np.array_equal(read, wanted, equal_nan=wanted.dtype.kind == "f")
        return (
            isinstance(read, np.ndarray)
            and read.dtype == wanted.dtype
            and read.shape == wanted.shape
            and equal
        )
    return bool(read == wanted)


@given(any_array, st.integers(0, 5), st.booleans())
def test_arrays_read_as_numpy_reads_them(array: np.ndarray, protocol: int, fortran: bool) -> None:
    value = np.asfortranarray(array) if fortran and array.ndim > 1 else array
    assert _same(loads_arrays(pickle.dumps(value, protocol=protocol)), value)


@pytest.mark.parametrize("protocol", range(6))
def test_scalars_become_numbers(protocol: int) -> None:
    read = loads_arrays(pickle.dumps([np.float32(1.5), np.int64(-3), np.bool_(True)], protocol=protocol))
    assert read == [1.5, -3, True]


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    scores = {
        ref_id: {
            "sam_mask_path": f"SAM_Mask/SAM_out/COCO_train2014_{ref_id:012d}.jpg.npy",
            "clip_score": [np.linspace(0, 1, 40, dtype=np.float32), np.zeros(40, np.float32)],
            "candidate_2": np.eye(2, 40, dtype=np.int64),
        }
        for ref_id in (7, 8)
    }
    for name, value in (("scores.npy", scores), ("umd_2_google_ref.npy", {1: 5, 2: np.int64(6)})):
        np.save(tmp_path / name, np.array(value, dtype=object), allow_pickle=True)
        wanted = np.load(tmp_path / name, allow_pickle=True).item()
        read = load_object_npy(tmp_path / name)
        assert list(read) == list(wanted)
        if name == "scores.npy":
            assert all(_same(read[7][key], scores[7][key]) for key in ("sam_mask_path", "candidate_2"))
            assert all(
                _same(a, b) for a, b in zip(read[8]["clip_score"], scores[8]["clip_score"], strict=True)
            )
        else:
            assert read == wanted
    plain = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "plain.npy", plain)
    assert _same(load_object_npy(tmp_path / "plain.npy"), plain)


def test_a_call_is_never_made(tmp_path: Path) -> None:
    witness = tmp_path / "called"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(witness),)

    for protocol in range(6):
        with pytest.raises(PrepError, match="mkdir"):
            loads_arrays(pickle.dumps({"a": [np.zeros(2), Hostile()]}, protocol=protocol))
    np.save(tmp_path / "bad.npy", np.array({"a": Hostile()}, dtype=object), allow_pickle=True)
    with pytest.raises(PrepError, match="mkdir"):
        load_object_npy(tmp_path / "bad.npy")
    assert not witness.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.dtype("f4"),
        np.ndarray,
        np.zeros(1, dtype=[("a", "f4")]),
        np.datetime64("2024-01-01"),
        np.array([1j]),
    ],
)
def test_what_is_no_plain_array_is_refused(value: Any) -> None:
    with pytest.raises(PrepError):
        loads_arrays(pickle.dumps([value]))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(PrepError, match=r"not an \.npy file"):
        load_object_npy(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros(100))
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-8])
    with pytest.raises(PrepError, match="truncated"):
        load_object_npy(tmp_path / "b.npy")


@pytest.mark.parametrize("descr", ["<f8", "|S0", "|V0", "|O", "<f8', (1 << 40,)", "|V9223372036854775807"])
@pytest.mark.parametrize(
    "shape",
    ["(0, 1 << 70)", "(1180591620717411303424, 0)", "(1000000000000,)", "(-1,)", "(4294967296, 4294967296)"],
)
def test_sizes_that_no_memory_has_are_our_error(tmp_path: Path, descr: str, shape: str) -> None:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    for content in (b"", bytes(8), pickle.dumps([1])):
        header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        (tmp_path / "a.npy").write_bytes(header + content)
        with suppress(PrepError):
            load_object_npy(tmp_path / "a.npy")


def test_a_shape_that_is_not_the_contents_is_our_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    whole = (tmp_path / "a.npy").read_bytes()
    for array in (np.zeros(3), np.array([1, "a"], dtype=object)):
        (tmp_path / "a.npy").write_bytes(whole[:128] + pickle.dumps(array))
        with pytest.raises(PrepError, match="another shape"):
            load_object_npy(tmp_path / "a.npy")


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")))
@given(any_array, st.integers(0, 5), st.data())
@limited()
def test_nothing_but_our_error_escapes_from_damaged_arrays(
    array: np.ndarray, protocol: int, data: st.DataObject
) -> None:
    whole = bytearray(pickle.dumps({"a": array, "b": [np.float32(1)]}, protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PrepError):
        loads_arrays(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
