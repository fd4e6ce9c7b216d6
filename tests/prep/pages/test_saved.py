"""What an evaluation saved, damaged or made by somebody else, is refused with its name, in both reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.errors import PrepError
from prep.pages.saved import read_maps, read_rows
from prep.pages.store_data import response_levels

GOOD: dict[str, Any] = {
    "row_id": "0" * 32, "image": "a.jpg", "expression": "the cup", "groups": ["position"], "no_target": False,
    "point": True, "iou": 0.5, "peak_y": 1, "peak_x": 2, "proposal": None, "proposal_iou": None,
    "margin": 0.1, "entropy": None, "phrases": None,
}  # fmt: skip


def write(path: Path, *changes: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist([{**GOOD, **change} for change in changes]), path)
    return path


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = write(tmp_path / "samples.parquet", {}, {"proposal": 3, "proposal_iou": 1.0, "more": "x"})
    assert read_rows(path)["iou"].to_pylist() == [0.5, 0.5]
    pq.write_table(pa.table({name: pa.array([], pa.null()) for name in GOOD}), path)
    assert len(read_rows(path)) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"iou": "high"}, "its column iou holds string, not numbers"),
        ({"iou": None}, "it has rows without iou"),
        ({"iou": float("nan")}, "its column iou has values that are not finite"),
        ({"entropy": float("inf")}, "its column entropy has values that are not finite"),
        ({"row_id": 5}, "its column row_id holds int64, not text"),
        ({"image": ["a.jpg"]}, "its column image holds"),
        ({"peak_y": 1.5}, "its column peak_y holds double, not whole numbers"),
        ({"peak_x": True}, "its column peak_x holds bool, not whole numbers"),
        ({"point": 1}, "its column point holds int64, not true or false"),
        ({"groups": "position"}, "its column groups holds string, not lists of texts"),
        ({"groups": [1]}, "its column groups holds list"),
        ({"groups": ["a", None]}, "a row has no value in groups"),
        ({"phrases": {"a": 1}}, "its column phrases holds struct"),
    ],
)
def test_a_column_of_another_kind_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = write(tmp_path / "samples.parquet", change)
    with pytest.raises(PrepError) as error:
        read_rows(path)
    assert error.value.message.startswith(f"{path} cannot be read: {told}")
    assert error.value.remedy == "Evaluate again into this folder."


def test_a_file_that_is_no_parquet_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    whole = write(path, {}).read_bytes()
    for data in (b"", b"PAR1", whole[:-9], b"PAR1" + bytes(64) + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(PrepError, match=r"samples\.parquet cannot be read"):
            read_rows(path)
    for name in ("row_id", "iou", "peak_y", "peak_x"):
        pq.write_table(pa.Table.from_pylist([{key: GOOD[key] for key in GOOD if key != name}]), path)
        with pytest.raises(PrepError, match=f"it has rows without {name}"):
            read_rows(path)


def header(shape: str, descr: str = "'<f4'", version: bytes = b"\x01\0") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = len(text).to_bytes(2 if version[:1] == b"\x01" else 4, "little")
    return b"\x93NUMPY" + version + size + text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x93NUMPY", b"PK\3\4", header("(2, 4, 4)"), header("(1099511627776, 4, 4)") + bytes(128),
        header("(2, 4, 4)", version=b"\x02\0")[:8] + b"\xf0\xff\xff\xff",  # a header of 4 GiB
        header("(1, 1, 1)", "'|S999999999999'"), header("(1, 1, 1)", "'|O'") + b"\x80\x04N.",
        header("(1, 1, 1)", "'<c8'") + bytes(8), header("(4, 4)") + bytes(64), header("(0, 4, 4)"),
        header("()") + bytes(4), header("(1, -1, -1)"), header("(" * 500),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_maps_is_refused(tmp_path: Path, data: bytes) -> None:
    """Some say a size that they do not have: numpy would take the memory first."""
    path = tmp_path / "maps.npy"
    path.write_bytes(data)
    for read in (read_maps, response_levels):
        with pytest.raises(PrepError, match=r"maps\.npy"):
            read(path)


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    maps = np.arange(32, dtype=np.float16).reshape(2, 4, 4)
    np.save(tmp_path / "maps.npy", maps)
    assert np.array_equal(read_maps(tmp_path / "maps.npy"), maps)
    maps[0, 0, 0], maps[1, 0, 0] = np.nan, np.inf
    np.save(tmp_path / "maps.npy", maps)
    assert [level[:2] for level in response_levels(tmp_path / "maps.npy")] == [(4, 4)] * 2
