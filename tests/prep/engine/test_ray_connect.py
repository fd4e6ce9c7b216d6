"""Ray on this machine: who can reach it, and what its workers import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import psutil, ray
from prep.engine.ray_connect import connect
from prep.stage import Resources

connect(Resources(cpus=1), 1, None)

@ray.remote
def found():
    import colorsys
    return colorsys.__file__

source = ray.get(found.remote())
started = psutil.Process().children(recursive=True)
listening = sorted({
    connection.laddr.ip
    for process in [psutil.Process(), *started]
    for connection in process.net_connections("inet")
    if connection.status == psutil.CONN_LISTEN
})
print(json.dumps([source, os.getcwd(), listening]))
ray.shutdown()
"""


@pytest.mark.slow
def test_workers_import_nothing_of_the_current_folder_and_listen_to_this_machine(tmp_path: Path) -> None:
    script, folder = tmp_path / "driver.py", tmp_path / "data"
    folder.mkdir()
    script.write_text(SCRIPT)
    (folder / "colorsys.py").write_text("")
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    source, where, listening = json.loads(done.stdout.splitlines()[-1])
    assert where == str(folder)
    assert Path(source).parent != folder
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
