"""The report on runs: its joins and curves against plain recomputation, its page in a real browser."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint, validator
from pcnet.report.compare import Agreement, agreements, extremes, join
from pcnet.report.page import ReportConfig, write_report
from pcnet.report.runs import Evaluation, read_run, thinned
from pcnet.training.trainer import TrainConfig, train
from prep.datasets.catalogue import open_dataset
from prep.errors import PrepError

sys.path.insert(0, str(Path(__file__).parents[2]))
from browser import Browser, find_browser

HOSTILE = [
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">",
    "\u202egnirts desrever\u2066 \U0001f600\U0001f3f3\ufe0f\u200d\U0001f308",
    "x" * 5000,
]


def _row(row_id: str, point: bool, iou: float, **change):
    row = {
        "row_id": row_id,
        "ref_id": 1,
        "sent_id": 1,
        "image": "a.jpg",
        "expression": "the cup",
        "groups": ["attribute"],
        "no_target": False,
        "point": point,
        "iou": iou,
        "peak_y": 1,
        "peak_x": 2,
        "proposal": None,
        "proposal_iou": None,
    }
    return {**row, **change}


def _evaluation(*rows) -> Evaluation:
    return Evaluation(Path(), "val", {}, pa.Table.from_pylist(list(rows)))


def _write(folder: Path, rows, **figures) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"n": len(rows), "miou": 1.0, **figures}))
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "samples.parquet")


def test_runs_are_joined_by_row_id_whatever_their_order() -> None:
    first = _evaluation(_row("a", True, 0.5), _row("b", False, 0.1), _row("c", True, 0.9))
    second = _evaluation(_row("c", False, 0.2), _row("a", True, 0.75), _row("d", True, 1.0))
    cases = {case.row_id: case for case in join("val", [first, second])}
    assert sorted(cases) == ["a", "b", "c", "d"]
    assert [score.iou for score in cases["a"].scores] == [0.5, 0.75]
    assert cases["b"].scores[1] is None
    assert cases["d"].scores[0] is None
    over_all, by_kind = agreements(list(cases.values()))
    assert (over_all.kind, by_kind.kind) == ("", "attribute")
    assert over_all.counts == [1, 1, 0, 0]
    assert over_all.to_json()["gain"] == pytest.approx(100 * (0.25 - 0.7) / 2)
    assert over_all.to_json()["p"] == 1.0


def test_the_sign_test_is_exact() -> None:
    for one, other in ((0, 0), (3, 9), (9, 3), (5, 5), (0, 12), (300, 360)):
        tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1))
        expected = min(1.0, 2 * tail / 2 ** (one + other))
        assert Agreement("val", "", [7, one, other, 2]).to_json()["p"] == pytest.approx(expected)


def test_expressions_without_a_target_are_no_cases() -> None:
    assert join("val", [_evaluation(_row("a", False, 0.0, no_target=True))]) == []


def test_refined_masks_are_compared_only_where_every_run_has_them() -> None:
    refined = _evaluation(_row("a", True, 0.1, proposal=3, proposal_iou=0.8))
    plain = _evaluation(_row("a", True, 0.3))
    (alone,) = join("val", [refined])
    assert (alone.scores[0].iou, alone.scores[0].proposal) == (0.8, 3)
    (both,) = join("val", [refined, plain])
    assert [score.iou for score in both.scores] == [0.1, 0.3]


def test_the_extremes_hold_the_best_and_worst_of_each_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((50, 2))
    runs = [_evaluation(*(_row(str(n), True, values[n, run]) for n in range(50))) for run in (0, 1)]
    found = {case.row_id for case in extremes(join("val", runs), shown=3)}
    gain = values[:, 1] - values[:, 0]
    for order in (values[:, 0], values[:, 1], gain):
        ranked = np.argsort(order)
        assert {str(n) for n in (*ranked[:3], *ranked[-3:])} <= found


def test_a_long_log_is_averaged_evenly() -> None:
    table = {"step": np.arange(1.0, 1001), "total": np.arange(1000.0), "rare": np.full(1000, np.nan)}
    table["rare"][5] = 7.0
    curve = thinned(table, {"step"}, points=10)
    assert curve.step == [float(n) for n in range(100, 1001, 100)]
    assert curve.columns["total"] == [float(n) + 49.5 for n in range(0, 1000, 100)]
    assert curve.columns["rare"] == [7.0] + [None] * 9


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="is not a folder"):
        read_run(tmp_path / "none")
    with pytest.raises(PrepError, match=r"losses\.csv"):
        read_run(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "losses.csv").write_text("step,epoch,lr,total,seconds\n1,0,0.1,2.5,0.1\n2,0")
    with pytest.raises(PrepError, match="2 runs"):
        read_run(tmp_path)
    assert read_run(tmp_path / "a").steps == 1  # the line that a kill cut short is left out
    (tmp_path / "b" / "losses.csv").write_text("step,total\nx,y\n")
    with pytest.raises(PrepError, match="is not the log"):
        read_run(tmp_path / "b")
    _write(tmp_path / "c", [_row("a", True, 1.0)])
    (tmp_path / "c" / "samples.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(PrepError, match=r"samples\.parquet could not be read"):
        read_run(tmp_path / "c")


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory) -> Path:
    """Two short runs on the synthetic data, each validated on the way and evaluated with its maps kept."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = open_dataset(prepared.data, "refcoco")
    usual = TrainConfig(
        store=prepared.store, data=str(prepared.data), encoder="tiny", recipe="plus", val_split="val"
    )
    usual = replace(usual, batch_size=16, size=48, threads=1, device="cpu", quiet=True)
    validate = validator(dataset, store=prepared.store, split="val", size=48)
    for name, steps in (("short", 2), ("long", 6)):
        out = folder / name
        trained = train(replace(usual, out=str(out), steps=steps), validate)
        evaluate_checkpoint(
            trained.best,
            dataset,
            store=prepared.store,
            split="val",
            refine=True,
            out=out / "val",
            settings=EvalSettings(save_stages=out / "val" / "stages"),
        )
    return folder


def test_a_run_is_read_as_it_was_written(runs: Path, prepared) -> None:
    run = read_run(runs / "long")
    assert run.steps == 6
    assert run.losses is not None
    assert run.losses.step == [float(n) for n in range(1, 7)]
    assert run.settings["train"]["steps"] == 6
    assert list(run.evaluations) == ["refcoco unc val"]
    figures = run.evaluations["refcoco unc val"].figures
    assert run.validation is not None
    assert run.validation.step[-1] == 6
    lines = (runs / "long" / "validation.csv").read_text().splitlines()
    best = max(float(line.split(",")[2]) for line in lines[1:])
    assert best == pytest.approx(figures["miou"])  # best.pt is what was evaluated


@pytest.fixture(scope="module")
def page(runs: Path, prepared, tmp_path_factory):
    """The report on both runs, open in a browser."""
    program = find_browser()
    out = tmp_path_factory.mktemp("page") / "report.html"
    held = write_report(ReportConfig([runs / "short", runs / "long"], out, data=prepared.data, pictures=30))
    assert held["pictures"] == len(
        {row.image for row in open_dataset(prepared.data, "refcoco").expressions(["val"])}
    )
    with Browser(program) as browser:
        browser.open(out, "document.documentElement?.dataset.ready === 'yes'")
        yield browser


def _choose(page: Browser, name: str, label: str) -> str:
    page.run(
        f"(() => {{ const s = document.getElementById('filter-{name}');"
        f"s.value = [...s.options].find((o) => o.textContent === {label!r}).value;"
        "s.dispatchEvent(new Event('change')) })()"
    )
    return str(page.run("document.getElementById('found').textContent"))


def _clear(page: Browser) -> None:
    page.run("[...document.querySelectorAll('#filters button')].at(-1).click()")


def test_the_page_shows_both_runs_without_an_error_or_the_network(page: Browser, runs: Path) -> None:
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    names = page.run("[...document.querySelectorAll('#curves h3')].map((h) => h.textContent)")
    assert {"miou", "pointm", "total", "lr"} <= set(names)
    assert page.run("document.querySelectorAll('#curves svg polyline').length") == 2 * len(names)
    cells = page.run(
        "[...document.querySelectorAll('#figures tbody tr:nth-child(-n+2)')].map((r) => r.innerText)"
    )
    for name, cell in zip(("short", "long"), cells, strict=True):
        figures = json.loads((runs / name / "val" / "metrics.json").read_text())
        assert f"{figures['miou']:.2f}" in cell
        assert f"{figures['pointm']:.2f}" in cell
    assert "train.steps" in str(page.run("document.querySelector('#settings .card').innerText"))


def test_counts_of_who_hits_are_those_of_the_tables(page: Browser, runs: Path) -> None:
    tables = [pq.read_table(runs / name / "val/samples.parquet").to_pylist() for name in ("short", "long")]
    points = [{row["row_id"]: row["point"] for row in rows} for rows in tables]
    only = sum(points[1][row_id] and not hit for row_id, hit in points[0].items())
    _clear(page)
    assert _choose(page, "hit", "only B hits") == f"{only:,} of {len(points[0]):,} expressions"
    shown = page.run(
        "[...document.querySelectorAll('#agreement tbody tr:first-child td')].map((c) => c.textContent)"
    )
    assert shown[3] == f"{only:,}"
    _clear(page)


def test_orders_put_the_extremes_first_and_cards_show_the_evidence(page: Browser, runs: Path) -> None:
    _clear(page)
    _choose(page, "pictures", "with a picture")
    _choose(page, "order", "best of B first")
    rows = pq.read_table(runs / "long/val/samples.parquet").to_pylist()
    best = max(row["proposal_iou"] for row in rows)
    badge = str(page.run("document.querySelector('#gallery .badge:nth-of-type(2)').textContent"))
    assert badge.endswith(f"IoU {round(100 * best)}%")
    captions = page.run(
        "[...document.querySelectorAll('#gallery article:first-child figcaption')].map((c) => c.textContent)"
    )
    assert captions[:4] == ["A, stage 1", "A, stage 2", "A, stage 3", "A, prediction"]
    assert captions[-1] == "ground truth"
    _choose(page, "order", "worst of B first")
    badge = str(page.run("document.querySelector('#gallery .badge:nth-of-type(2)').textContent"))
    assert badge.endswith(f"IoU {round(100 * min(row['proposal_iou'] for row in rows))}%")
    _clear(page)


def test_curves_are_read_with_the_keyboard(page: Browser) -> None:
    page.run(
        "(() => { const c = document.querySelector('#curves svg'); c.focus();"
        "c.dispatchEvent(new KeyboardEvent('keydown', {key: 'Home'})) })()"
    )
    reading = str(page.run("document.querySelector('#curves .reading').textContent"))
    assert reading.startswith("step ")
    assert " A " in f" {reading}"


def test_narrow_and_dark_screens_show_it_whole(page: Browser, tmp_path: Path) -> None:
    page.screenshot(tmp_path / "dark.png", dark=True, width=400, height=1200)
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert np.asarray(Image.open(tmp_path / "dark.png").convert("L"))[0, 0] < 60
    page.screenshot(tmp_path / "light.png", width=1280, height=1200)
    assert np.asarray(Image.open(tmp_path / "light.png").convert("L"))[0, 0] > 200


@pytest.mark.slow
def test_hostile_text_stays_text_and_a_run_may_be_an_evaluation_alone(tmp_path: Path) -> None:
    program = find_browser()
    rows = [
        _row(f"{n:032x}", False, n / 10, expression=text, groups=[text]) for n, text in enumerate(HOSTILE)
    ]
    _write(tmp_path / "run", rows, groups={text: {"n": 1, "miou": 0.0} for text in HOSTILE})
    write_report(ReportConfig([tmp_path / "run"], tmp_path / "page.html"))
    with Browser(program) as browser:
        browser.open(tmp_path / "page.html", "document.documentElement?.dataset.ready === 'yes'")
        texts = browser.run("[...document.querySelectorAll('#gallery .text')].map((t) => t.firstChild.data)")
        assert texts == HOSTILE
        assert browser.run("document.title") == "Report on a training run"
        assert browser.run("document.querySelectorAll('#gallery script, #gallery img').length") == 0
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.problems == []
