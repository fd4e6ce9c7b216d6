"""The rows of an evaluation from somebody else name no file outside its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prep.cache.keys import is_row_id, row_id
from prep.pages.evaluation import EvaluatedRows


def test_maps_are_read_by_row_ids_alone(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    (folder / "stages").mkdir(parents=True)
    found = EvaluatedRows(None)
    found.folder = folder
    good = "0123456789abcdef" * 2
    maps = np.zeros((2, 4, 4), np.float32)
    for path in (folder / "stages" / f"{good}.npy", tmp_path / "secret.npy", folder / "stages/x.npy"):
        np.save(path, maps)
    wanted = {good: 0, "../../secret": 1, str(tmp_path / "secret"): 2, "x": 3}
    assert list(found.maps(wanted)) == ["0"]


@pytest.mark.parametrize("text", ["", "a" * 31, "A" * 32, "a" * 33, "a" * 32 + "\n", "../" + "a" * 29])
def test_what_is_no_row_id(text: str) -> None:
    assert not is_row_id(text)
    assert is_row_id(row_id("refcoco", "unc", 1, 2, "the cup", "a.jpg", 0))
