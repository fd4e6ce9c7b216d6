"""pcnet.training.distributed: what the processes of a run leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A step of Adam, as every run takes: it imports modules that may keep the process group.
STEP = """
import os
import pathlib
import torch
from pcnet.training.distributed import Ranks

ranks = Ranks()
ranks.init(torch.device("cpu"))
layer = torch.nn.Linear(3, 3)
layer(ranks.gather(torch.ones(2, 3))).sum().backward()
ranks.mean_gradients(layer.parameters())
torch.optim.AdamW(layer.parameters()).step()
ranks.barrier()

def threads():
    return [one.read_text().strip() for one in pathlib.Path("/proc/self/task").glob("*/comm")]

assert any("gloo" in name for name in threads())
ranks.destroy()
# A file for each process: the lines of two processes can mix.
left = pathlib.Path("left-" + os.environ["RANK"])
left.write_text(str([name for name in threads() if "gloo" in name]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
def test_no_thread_of_the_process_group_outlives_it(tmp_path: Path) -> None:
    """Such a thread can abort a process that has finished, while Python ends."""
    (tmp_path / "step.py").write_text(STEP)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "step.py")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {file.name: file.read_text() for file in tmp_path.glob("left-*")}
    assert left == {"left-0": "[]", "left-1": "[]"}
