"""The commands beside the figures of the README and the documentation run, in their smallest form."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kinds import groups

PROPOSALS = ("benchmarks/proposals.py", "--count", "1", "--post-points", "2", "--points", "2")


@pytest.mark.slow
def test_the_agreement_with_the_released_code(python: Callable[..., str], shared: Path) -> None:
    path = shared / "conformance" / "pcnet_released_small.npz"
    if not path.exists():
        pytest.skip("the recorded values are not here")
    last = python("benchmarks/released_agreement.py", str(path)).splitlines()[-1]
    assert last.startswith("maximum")
    assert float(last.split()[-1]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_no_mask_after_the_decoder_is_recomputed(python: Callable[..., str], threads: str) -> None:
    said = python(*PROPOSALS, "--threads", threads, "--sections", "post")
    assert f"{threads} threads" in said
    assert "0.0% of" in said


@pytest.mark.slow
def test_no_mask_of_sam_2_is_recomputed(python: Callable[..., str]) -> None:
    said = python(*PROPOSALS, "--threads", "1", "--sections", "post2")
    masks, whole = re.findall(r"(\d+) of (\d+) masks equal", said)[0]
    assert masks == whole
    assert "0.0% of" in said


@pytest.mark.slow
def test_the_fast_networks_of_a_cpu_beside_the_exact_ones(python: Callable[..., str]) -> None:
    """A minute: the encoder of ViT-B runs as it is."""
    said = python(
        "benchmarks/proposals.py", "--count", "1", "--points", "2", "--repeats", "1", "--sections", "fast"
    )
    masks, whole = re.findall(r"exact: (\d+) of (\d+) masks equal", said)[0]
    assert masks == whole
    assert len(re.findall(r"% with IoU above 0\.99", said)) == 2
    assert "fidelity fast on this CPU" in said


@pytest.mark.slow
def test_the_encoder_of_a_cpu_in_several_ways(python: Callable[..., str]) -> None:
    said = python("-m", "benchmarks.encoders", "--points", "2", "--repeats", "1", "--ways", "ours")
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["reference", "ours"]
    assert "embedding differs by 0.0e+00; IoU > 0.99 of 12 of 12 masks" in said
    assert re.search(r"  ours .* IoU > 0\.99 of (10|11|12) of 12 masks", said)


@pytest.mark.slow
def test_the_orders_of_operations(python: Callable[..., str]) -> None:
    lines = python("benchmarks/orders.py", "--threads", "2", "--masks", "3").splitlines()[1:]
    assert lines
    assert all("5 of 5; 0.0%, 0.0%;" in line for line in lines)


@pytest.mark.slow
def test_a_student_beside_its_teacher(python: Callable[..., str], tmp_path: Path) -> None:
    smallest = ("--teacher-steps", "30", "--steps", "2", "--seeds", "1", "--images", "60", "--threads", "1")
    lines = python("benchmarks/student.py", *smallest, "--out", str(tmp_path)).splitlines()
    assert [one.split("  ")[0] for one in lines if not one.startswith(("#", "%"))] == [
        "teacher, map",
        "teacher, proposal under peak",
        "student, map",
        "student, proposal under peak",
    ]


@pytest.mark.slow
def test_a_killed_run_loses_and_doubles_nothing(python: Callable[..., str]) -> None:
    only = ("--only", "pcnet-prep", "--workers", "1", "--rows", "3000", "--repeats", "1", "--kills", "1")
    lines = python("benchmarks/peers.py", *only).splitlines()
    assert lines[0].startswith("pcnet-prep, 1 worker: rows per CPU second ")
    assert [line.rpartition("; ")[2] for line in lines[1:]] == ["lost 0, doubled 0"] * 3


@pytest.mark.slow
def test_every_step_of_the_gpu_benchmark_on_a_cpu(python: Callable[..., str], tmp_path: Path) -> None:
    """All but vLLM's, which needs a GPU and says so."""
    said = python("benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"device", "kernel", "sam", "sam2", "training", "vllm", "scores"}
    assert set(summary.values()) == {"passed"}
    assert "skipped: needs a GPU" in said
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in summary}
    assert all(row["wrong"] == 0 for row in results["kernel"]["rows"])
    rows = [*results["sam"]["rows"], results["sam2"]]
    assert all(row["equal"] == row["masks"] > 0 for row in rows), rows


@pytest.mark.slow
def test_the_same_photo_as_a_whole_process(python: Callable[..., str]) -> None:
    """One point; ViT-B's encoder runs once."""
    only = ("--count", "1", "--points", "1", "--repeats", "1", "--only", "pcnet-prep")
    line = python("benchmarks/photos.py", *only).splitlines()[-1]
    figures = re.fullmatch(
        r"pcnet-prep: CPU s ([\d.]+) \(encoder ([\d.]+), decoder ([\d.]+), rest ([\d.]+)\); "
        r"wall s [\d.]+; MiB [\d,]+; 3 masks",
        line,
    )
    assert figures, line
    whole, *parts = map(float, figures.groups())
    assert whole == pytest.approx(sum(parts), abs=0.3)
    assert min(parts) > 0


@pytest.mark.slow
def test_what_commands_cost_on_a_store(python: Callable[..., str]) -> None:
    line = python("benchmarks/growth.py", "--rows", "300").strip()
    names = re.findall(r"(\w+) [\d.]+ s [\d,]+ MiB", line)
    assert line.startswith("300 rows: ")
    assert names == ["phrases", "again", "open", "status", "verify", "report", "compact"]


@pytest.mark.slow
def test_the_pairs_that_are_withheld(python: Callable[..., str], tmp_path: Path) -> None:
    smallest = ("--steps", "2", "--seeds", "1", "--images", "200", "--arms", "plus", "--out", str(tmp_path))
    title, figures, counts = python("benchmarks/unseen.py", *smallest).splitlines()
    assert title.split()[2:] == ["unseen", "unseen,", "named", "seen", "seen,", "named"]
    assert figures.startswith("plus ")
    left_out = (tmp_path / "runs" / "unseen-plus-2-seed0" / "withheld.txt").read_text().splitlines()
    assert 20 < len(left_out) < 200
    assert "'unseen'" in counts


@pytest.mark.slow
def test_the_response_along_the_border(python: Callable[..., str], tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    smallest = ["demo", "--images", "60", "--steps", "2", "--out", str(demo)]
    python("-c", f"import cli; cli.prep_app({smallest}, standalone_mode=False)")
    data = ("--store", str(demo / "prepared"), "--data", str(demo / "data" / "coco"))
    first, _, *rows = python("benchmarks/borders.py", str(demo / "run" / "best.pt"), *data).splitlines()
    assert re.fullmatch(r"\d+ of \d+ proposals are background, in \d+ of \d+ images", first)
    assert [row.split(", stage")[0] for row in rows[::3]] == [
        "as trained",
        "replicated padding",
        "no pixel coordinates",
        "both",
        "no map coordinates",
    ]


@pytest.mark.slow
def test_threads_that_wait(python: Callable[..., str]) -> None:
    smallest = ("--steps", "2", "--repeats", "1", "--jobs", "train", "--loads", "0")
    said = python("benchmarks/waiting.py", *smallest).splitlines()
    rows = [line.split() for line in said if not line.startswith("#")][1:]
    assert [row[3] for row in rows] == ["ours", "ours", "sleep", "spin"]
    assert all(float(row[-1]) > 0 for row in rows)


@pytest.mark.slow
def test_the_report_on_a_large_store(python: Callable[..., str]) -> None:
    said = python("benchmarks/report.py", "--rows", "2000")
    assert said.startswith("2,000 rows: ")
    assert "page of 0." in said


@pytest.mark.slow
def test_the_photo_of_the_readme(repository: Path) -> None:
    path = repository / "benchmarks" / "photo.py"
    spec = importlib.util.spec_from_file_location("photo", path)
    assert spec
    assert spec.loader
    photo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(photo)
    row = photo.photo_row("the red cup on the left")
    assert row.shape[1:] == (photo.WIDTH, 3)
    left, right = row[60:, :490], row[60:, 510:]
    assert abs(left.astype(int) - right[:, :490]).mean() > 10  # the second panel has the proposals over it


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("the red cup", []),
        ("on the left", ["no head noun (by the rules)"]),
        ("a dog. it is brown", ["several sentences"]),
        ("cup near the plate", ["relation"]),
        ("Second man", ["ordinal"]),
        ("leftmost nut", ["ordinal"]),
        ("man without a hat", ["negation"]),
    ],
)
def test_the_kinds_of_an_expression(text: str, kinds: list[str]) -> None:
    assert groups("refcoco", text) == ["refcoco", *kinds, "all"]


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ["benchmarks", "tests", *(path.stem for path in BENCHMARKS.glob("*.py"))]
WITH_NEIGHBOURS = [
    path
    for path in sorted(BENCHMARKS.glob("*.py"))
    if any(re.search(rf"^\s*from {name}[. ]", path.read_text("utf-8"), re.MULTILINE) for name in NAMES)
]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_NEIGHBOURS, ids=lambda path: path.stem)
def test_a_benchmark_starts_as_its_docstring_says(path: Path) -> None:
    """Without a path to the checkout, which only tests set: with ``-m`` where it needs its neighbours."""
    module = f"-m benchmarks.{path.stem}" in path.read_text(encoding="utf-8")
    command = ["-m", f"benchmarks.{path.stem}"] if module else [str(path)]
    paths = ("PYTHONPATH", "PYTHONSAFEPATH")
    environment = {name: value for name, value in os.environ.items() if name not in paths}
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=path.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
