"""The command that starts several training processes, and what a run writes down of its settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pcnet.training.launch import command
from pcnet.training.setup import TrainConfig


@pytest.mark.slow
def test_nothing_of_the_current_folder_is_imported(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "data"
    folder.mkdir()
    script.write_text("import os\nopen(f'rank{os.environ[\"RANK\"]}', 'w')\n")
    for name in ("torch", "json", "numpy"):
        (folder / f"{name}.py").write_text("open('ran', 'w')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(command(2, [str(script)]), cwd=folder, env=environment, check=True, timeout=200)
    assert sorted(path.name for path in folder.glob("ra*")) == ["rank0", "rank1"]


def test_a_run_writes_down_no_credentials() -> None:
    written = TrainConfig(store="s3://key:secret@bucket/a").as_dict()
    assert written["store"] == "s3://bucket/a"
