"""The notebook does what it says, from photos to a prediction, without an error in any cell."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_notebook_runs_from_photos_to_a_prediction(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer scenes and steps; the cells are otherwise as they stand."""
    notebook = nbformat.read(repository / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []  # none is kept in the file
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "SCENES, STEPS = 1500, 500" in first.source
    first.source = first.source.replace("SCENES, STEPS = 1500, 500", "SCENES, STEPS = 60, 5")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    printed = "".join(output.get("text", "") for output in shown)
    for part in ("phrases:", "proposals:", "5 steps", "mask: prediction/mask.png"):
        assert part in printed, printed
    assert shutil.which("pcnet-prep")
    assert (tmp_path / "prediction" / "stages.png").is_file()
