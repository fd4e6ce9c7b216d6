"""The report on runs: its joins and curves against plain recomputation, its page in a real browser."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint, validator
from pcnet.report.beside import evaluation_command
from pcnet.report.compare import Agreement, agreements, extremes, join
from pcnet.report.page import ReportConfig, title, write_report
from pcnet.report.runs import Evaluation, read_run, thinned
from pcnet.training.trainer import TrainConfig, train
from prep.datasets.catalogue import open_dataset
from prep.errors import PrepError

sys.path.insert(0, str(Path(__file__).parents[2]))
from browser import CUT_OFF, LOW_CONTRAST, Browser, find_browser

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


@pytest.mark.parametrize(
    "figures",
    [
        {"miou": "1.0"}, {"miou": [1]}, {"n": {"a": 1}}, {"pointm": True}, {"groups": [1]},
        {"groups": {"all": 3}}, {"groups": {"all": {"hit": "x"}}}, {"skipped": [["a", 1]]},
        {"skipped": {"a": "b"}}, {"no_target": {"n": "x"}}, {"no_target": 3},
        {"settings": {"threshold": "high"}}, {"settings": [1]},
    ],
)  # fmt: skip
def test_figures_of_another_type_are_refused(figures: dict[str, object], tmp_path: Path) -> None:
    _write(tmp_path / "val", [_row("a", True, 0.5)], **figures)
    with pytest.raises(PrepError, match=r"metrics\.json holds another kind of value"):
        read_run(tmp_path)


@pytest.mark.timeout(60)
def test_numbers_that_a_page_cannot_have_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path / "val", [_row("a", True, 0.5)])
    path = tmp_path / "val" / "metrics.json"
    path.write_text('{"n": 1, "miou": NaN, "hit": 1e999, "oiou": -Infinity, "prms": {"a": NaN}}')
    (figures,) = (one.figures for one in read_run(tmp_path).evaluations.values())
    assert json.loads(json.dumps(figures, allow_nan=False))["miou"] is None
    path.write_text("[" * 100_000)
    with pytest.raises(PrepError, match="could not be read"):
        read_run(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(PrepError, match="could not be read"):
        read_run(tmp_path)


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


def _run(folder: Path) -> Path:
    """A run's folder without any evaluation."""
    folder.mkdir(parents=True)
    (folder / "losses.csv").write_text("step,epoch,lr,total,seconds\n1,0,0.1,2.5,0.1\n")
    (folder / "best.pt").write_bytes(b"")
    trained = {"store": "my store", "data": "coco", "dataset": "refcoco", "split_by": None, "input": None}
    (folder / "settings.json").write_text(json.dumps({"train": trained}))
    return folder


def test_evaluations_beside_a_run_are_found_by_their_checkpoint(tmp_path: Path) -> None:
    run, other = _run(tmp_path / "run"), _run(tmp_path / "other")
    rows = [_row("a", True, 0.5)]
    for name, checkpoint in (
        ("val", run / "best.pt"), ("deep/test", "/moved/run/best.pt"), ("theirs", other / "best.pt"),
        ("gone", "/moved/run/step_5.pt"),
    ):  # fmt: skip
        settings = {"checkpoint": str(checkpoint), "dataset": "mine", "split": name}
        _write(tmp_path / name, rows, settings=settings)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("[")
    (tmp_path / "broken" / "samples.parquet").write_bytes(b"")
    assert sorted(read_run(run).evaluations) == ["mine deep/test", "mine val"]
    assert sorted(read_run(other).evaluations) == ["mine theirs"]
    # From the folder above, the evaluations are its own, and none is listed twice.
    assert len(read_run(tmp_path / "deep").evaluations) == 1


def test_a_run_without_an_evaluation_names_the_command_that_makes_one(tmp_path: Path, capsys) -> None:
    from typer.testing import CliRunner

    from cli import pcnet_app

    run = _run(tmp_path / "my run")
    done = CliRunner().invoke(pcnet_app, ["report", str(run)])
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("pcnet eval"))
    words = shlex.split(line)
    assert words[:4] == ["pcnet", "eval", "--checkpoint", str(run / "best.pt")]
    options = dict(zip(words[2::2], words[3::2], strict=False))
    assert (options["--store"], options["--data"], options["--dataset"]) == ("my store", "coco", "refcoco")
    # The program's own parser takes the line: the first thing it misses is the store.
    tried = CliRunner().invoke(pcnet_app, words[1:])
    assert "No such option" not in tried.output
    (run / "best.pt").unlink()
    assert read_run(run).evaluate is None


def test_the_command_for_own_lines_names_the_folder_of_their_images(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    trained = {"store": "s", "input": "own.jsonl", "data": "my photos", "dataset": "own"}
    words = shlex.split(evaluation_command(tmp_path, {"train": trained}) or "")
    options = dict(zip(words[2::2], words[3::2], strict=False))
    assert (options["--input"], options["--image-root"]) == ("own.jsonl", "my photos")
    assert not {"--data", "--dataset"} & set(options)


def test_the_title_names_the_runs(tmp_path: Path) -> None:
    assert title([tmp_path / "refcoco"]) == "Run refcoco"
    assert title([tmp_path / "a", tmp_path / "b"]) == "Runs a and b"
    assert title([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == "Runs x/run and y/run"


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
    page.run("[...document.querySelectorAll('#filters > button')].at(-1).click()")


def test_the_page_shows_both_runs_without_an_error_or_the_network(page: Browser, runs: Path) -> None:
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    names = page.run("[...document.querySelectorAll('#curves h3')].map((h) => h.textContent)")
    assert {"mIoU", "PointM", "total loss", "learning rate"} <= set(names)
    assert page.run("document.title") == "Runs short and long"
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
    assert _choose(page, "hit", "only B hits").startswith(f"{only:,} of {len(points[0]):,} expressions")
    shown = page.run(
        "[...document.querySelectorAll('#agreement tbody tr:first-child td')].map((c) => c.textContent)"
    )
    assert shown[3] == f"{only:,}"
    _clear(page)


def test_orders_put_the_extremes_first_and_cards_show_the_evidence(page: Browser, runs: Path) -> None:
    _clear(page)
    rows = pq.read_table(runs / "long/val/samples.parquet").to_pylist()
    for name, key, text in (
        ("IoU of B", "proposal_iou", "IoU {}%"),
        ("margin of B", "margin", "B margin {:.3f}"),
    ):
        for order, pick in (("lowest", min), ("highest", max)):
            _choose(page, "order", f"{name}, {order} first")
            value = pick(row[key] for row in rows if row[key] is not None)
            shown = text.format(round(100 * value) if key == "proposal_iou" else value)
            assert shown in page.run("document.querySelector('#gallery .row').textContent"), (name, order)
    read = page.run("document.querySelector('#gallery .text').textContent")
    phrases = next(row["phrases"] for row in rows if row["expression"] == read)
    captions = page.run(
        "[...document.querySelectorAll('#gallery article:first-child figcaption')].map((c) => c.textContent)"
    )
    assert captions == [f"{who} {at + 1} {one}" for who in "AB" for at, one in enumerate(phrases)]
    assert page.run("document.querySelectorAll('#gallery .view canvas').length") == page.run(
        "document.querySelectorAll('#gallery article').length"
    )
    keys = page.run("[...document.querySelectorAll('.legend-line .key')].map((k) => k.textContent)")
    assert keys == ["prediction of A", "prediction of B", "ground truth"]
    _clear(page)


def test_curves_have_ticks_and_are_read_with_the_keyboard(page: Browser) -> None:
    page.key("#curves svg", "Home")
    reading = str(page.run("document.querySelector('#curves .reading').textContent"))
    assert reading.startswith("step ")
    assert " A " in f" {reading}"
    assert reading in page.run("document.getElementById('live').textContent")
    total = (
        "[...document.querySelectorAll('#curves .card')].find((c) => c.textContent.startsWith('total loss'))"
    )
    ticks = f"[...{total}.querySelectorAll('.ytick')].map((t) => [+t.textContent, parseFloat(t.style.top)])"
    assert len(page.run(ticks)) >= 2
    assert page.run(f"{total}.querySelectorAll('.xtick').length") >= 2
    for log in (False, True):
        places = page.run(ticks)
        spots = [math.log(value) if log else value for value, _ in places]
        slopes = {
            round((places[at + 1][1] - places[at][1]) / (spots[at + 1] - spots[at]), 2)
            for at in range(len(places) - 1)
        }
        assert max(slopes) - min(slopes) < 0.02 * abs(min(slopes)), places
        page.run("document.querySelector('#scale button').click()")
        page.wait(f"{total}.textContent.includes('log scale') === {json.dumps(not log)}")


def test_metrics_are_explained_where_they_stand(page: Browser) -> None:
    names = page.run("[...document.querySelectorAll('#figures th .term')].map((t) => t.textContent)")
    assert "PointM" in names
    page.run(
        "[...document.querySelectorAll('#figures th .term')].find((t) => t.textContent === 'PointM').focus()"
    )
    tip = str(page.run("document.getElementById('tip').textContent"))
    assert "inside the true mask" in tip
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "tip"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_text_can_be_read_on_any_screen(page: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    page.screenshot(tmp_path / "page.png", dark=dark, width=width)
    corner = np.asarray(Image.open(tmp_path / "page.png").convert("L"))[0, 0]
    assert corner < 60 if dark else corner > 200
    assert page.run(LOW_CONTRAST) == []
    assert page.run(CUT_OFF) == []
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    page.view()
    assert page.problems == []


@pytest.mark.slow
def test_two_runs_are_compared_in_what_both_have(tmp_path: Path) -> None:
    program = find_browser()
    for name, column, more in (("a", "ras", {"oracle_miou": 9.0}), ("b", "iad", {"hit": 8.0})):
        run = _run(tmp_path / name)
        (run / "losses.csv").write_text(f"step,epoch,lr,{column},seconds\n1,0,0.1,2.5,0.1\n2,0,0.1,2,0.1\n")
        groups = {"both": {"n": 1, "miou": 1.0}, name: {"n": 1, "miou": 1.0}}
        settings = {"dataset": "mine", "split": "val"}
        _write(run / "val", [_row("1" * 32, True, 0.5)], settings=settings, groups=groups, **more)
    _write(
        tmp_path / "a" / "test", [_row("2" * 32, True, 0.5)], settings={"dataset": "mine", "split": "test"}
    )
    write_report(ReportConfig([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html"))
    with Browser(program) as browser:
        browser.open(tmp_path / "page.html", "document.documentElement?.dataset.ready === 'yes'")
        texts = "[...document.querySelectorAll('%s')].map((e) => e.textContent)"
        assert browser.run(texts % "#curves h3") == ["learning rate"]
        notes = "".join(browser.run(texts % "#curves > p"))
        assert "Only A has: region-aware shrinking" in notes
        assert "Only B has: instance-aware disambiguation" in notes
        assert browser.run(texts % "#figures > .card:first-child thead th")[1:] == ["n", "mIoU"]
        kinds = browser.run(texts % "#figures > .card:first-child tbody td:first-child")
        assert kinds == ["all A", "all B", "both A", "both B"]
        assert browser.run(texts % "#figures details summary") == ["Only A has: mine test"]
        assert browser.run("document.getElementById('cases').offsetHeight") > 0
        # A run that was not evaluated has no cases to search.
        write_report(ReportConfig([_run(tmp_path / "c")], tmp_path / "page.html"))
        browser.open(tmp_path / "page.html", "document.documentElement?.dataset.ready === 'yes'")
        assert "pcnet eval" in "".join(browser.run(texts % "#figures code"))
        assert browser.run("document.getElementById('cases').offsetHeight") == 0
        assert browser.problems == []


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
        assert texts == HOSTILE  # the lowest IoU first
        assert browser.run("document.title") == "Run run"
        assert browser.run("document.querySelectorAll('#gallery script, #gallery img').length") == 0
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.problems == []
