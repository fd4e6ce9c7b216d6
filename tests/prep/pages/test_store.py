"""The report against counts made by hand, and its page in a real browser: it loads, searches, stays inert."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.pages.counts import Histogram, PhraseCounts, ProposalCounts, covered, word_counts
from prep.pages.evaluation import EvaluatedRows, best_iou
from prep.pages.gallery import Gallery
from prep.pages.html import render, write
from prep.pages.store import ReportConfig, write_report
from prep.pages.store_data import flat, response_levels

sys.path.insert(0, str(Path(__file__).parents[2]))
from browser import CUT_OFF, LOW_CONTRAST, Browser, find_browser

HOSTILE = [
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">",
    "\u202egnirts desrever\u2066 \U0001f600\U0001f3f3\ufe0f\u200d\U0001f308 \u05e9\u05dc\u05d5\u05dd",
    "x" * 5000,
    "</script><b>bold</b> ${1+1} `tick` \\u003c",
]
BOX = np.zeros((40, 60), dtype=bool)
BOX[10:20, 30:50] = True
COUNTS = coco.encode(np.asfortranarray(BOX.astype(np.uint8)))["counts"].decode()


def _phrase_row(at: int, **change: Any) -> dict[str, Any]:
    row = {
        "row_id": f"{at:032x}",
        "dataset": "mine",
        "split_by": "",
        "split": "val" if at % 4 == 0 else "train",
        "ref_id": at,
        "sent_id": at,
        "image": f"a/{at // 2}.jpg",
        "expression": f"cup number {at}",
        "phrases": ["the cup", f"number {at}"],
        "source": "rules",
        "llm": "rules",
        "key": "k",
        "violations": [],
        "repairs": [],
        "rejected": [],
        "status": "ok",
        "error": None,
        "image_id": None,
    }
    return {**row, **change}


def _proposal_row(image: str, **change: Any) -> dict[str, Any]:
    mask = {
        "counts": COUNTS,
        "area": 200,
        "bbox": [30.0, 10.0, 20.0, 10.0],
        "predicted_iou": 0.9,
        "stability_score": 0.95,
    }
    row = {
        "image": image,
        "height": 40,
        "width": 60,
        "masks": [mask],
        "grid32": bytes(128),
        "generator": "sam",
        "key": "k",
        "status": "ok",
        "error": None,
    }
    return {**row, **change}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1,000 expressions on 500 images: some hostile, some failed, some with violations."""
    folder = tmp_path_factory.mktemp("report")
    rows = [_phrase_row(at) for at in range(1000)]
    for at, text in enumerate(HOSTILE):
        rows[at] = _phrase_row(at, expression=text, phrases=[text])
    rows[10] = _phrase_row(
        10, status="error", error="the expression is empty", expression="", phrases=[], source=None
    )
    rows[11] = _phrase_row(11, violations=["too_long"], source="expression")
    rows[12] = _phrase_row(12, rejected=[{"source": "llm", "violations": ["repeats"]}], image=None)
    images = [_proposal_row(f"a/{at}.jpg") for at in range(500)]
    images[7] = _proposal_row("a/7.jpg", masks=[], grid32=b"", status="error", error="truncated file")
    opened = open_store(folder / "prepared", create=True)
    with opened.stage("phrases").writer({"llm": "rules"}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    with opened.stage("proposals").writer({"generator": "sam", "selection": {"min_area": 20}}) as writer:
        writer.write(pa.Table.from_pylist(images, schema=PROPOSALS))
    (folder / "data/a").mkdir(parents=True)
    for at in (0, 1, 2, 400, 401):
        Image.new("RGB", (60, 40), (200, 30, 30)).save(folder / f"data/a/{at}.jpg")
    (folder / "evaluation/stages").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(EVALUATED), folder / "evaluation/samples.parquet")
    stages = np.zeros((2, 4, 4), dtype=np.float16)
    stages[0, 3, 0], stages[1, 1, 2] = 2.0, 4.0  # below on the left, then where the mask is
    np.save(folder / "evaluation/stages" / f"{800:032x}.npy", stages)
    return folder


def _scored(at: int, hit: bool, iou: float, **change: Any) -> dict[str, Any]:
    row = {
        "row_id": f"{at:032x}", "image": f"a/{at // 2}.jpg", "point": hit, "iou": 0.25, "proposal_iou": iou,
        "proposal": 0, "peak_y": 12, "peak_x": 40, "margin": iou / 2, "entropy": 1 - iou,
        "phrases": ["the cup", f"number {at}"], "groups": ["position"], "no_target": False,
    }  # fmt: skip
    return {**row, **change}


EVALUATED = [
    _scored(4, True, 0.5),
    _scored(800, True, 0.9, groups=["attribute"]),
    _scored(801, False, 0.0, margin=-0.25, entropy=0.1),
    _scored(802, False, 0.0, no_target=True, margin=None, entropy=None),
]


def _report(store: Path, name: str = "report.html", **change: Any) -> tuple[Path, dict[str, int]]:
    out = store / name
    return out, write_report(ReportConfig(str(store / "prepared"), out, **change))


def test_a_histogram_counts_what_numpy_counts() -> None:
    values = np.array([0.0, 0.1, 0.49, 0.5, 0.999, 1.0, 2.0, -1.0, float("nan")])
    histogram = Histogram(0, 1)
    histogram.add(values)
    finite = np.clip(values[np.isfinite(values)], 0, np.nextafter(1, 0))
    assert histogram.counts.tolist() == np.histogram(finite, bins=20, range=(0, 1))[0].tolist()


def test_counts_are_over_every_row() -> None:
    phrases = PhraseCounts()
    rows = [
        _phrase_row(0),
        _phrase_row(1, violations=["a", "a"], repairs=["split"]),
        _phrase_row(2, status="error", error="e", phrases=[]),
    ]
    phrases.add(pa.RecordBatch.from_pylist(rows[:1], schema=PHRASES))
    phrases.add(pa.RecordBatch.from_pylist(rows[1:], schema=PHRASES))
    told = phrases.to_json()
    assert told["splits"] == [("mine train", 2), ("mine val", 1)]
    assert told["sources"] == [("rules", 2)]
    assert told["violations"] == [("a", 1)]
    assert told["repairs"] == [("split", 1)]
    assert told["lengths"] == [(2, 2)]
    assert told["failures"] == [("e", 1)]
    assert told["words"] == [(3, 2)]
    assert told["phrase_words"] == [(2, 4)]
    assert told["examples"] == {"a": [["cup number 1", ["the cup", "number 1"]]]}
    proposals = ProposalCounts()
    images = [_proposal_row("a"), _proposal_row("b", masks=[], grid32=b"", status="empty")]
    proposals.add(pa.RecordBatch.from_pylist(images, schema=PROPOSALS))
    told = proposals.to_json()
    assert sum(count for _, count in told["masks"]["bars"]) == 2
    assert sum(count for _, count in told["area"]["bars"]) == 1
    assert told["area"]["mean"] == pytest.approx(np.log10(200 / 2400))
    assert told["coverage"]["mean"] == 0
    assert list(flat({"a": {"b": 1, "c": None}, "d": "x"})) == [["a.b", "1"], ["d", "x"]]


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_those_of_plain_python(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, words = ["a", "b", "c"], ["the", "red", "cup  on", "left\t"]
    rows = [
        _phrase_row(
            at,
            expression=" ".join(rng.choice(words, rng.integers(0, 5))),
            phrases=[" ".join(rng.choice(words, 2)) for _ in range(rng.integers(0, 4))],
            violations=list(rng.choice(codes, rng.integers(0, 4))),
            source=rng.choice(["rules", "llm"]),
            status="error" if rng.random() < 0.2 else "ok",
        )
        for at in range(60)
    ]
    counts = PhraseCounts()
    for start in range(0, 60, 17):
        counts.add(pa.RecordBatch.from_pylist(rows[start : start + 17], schema=PHRASES))
    kept = [row for row in rows if row["status"] == "ok"]
    told = counts.to_json()
    assert dict(told["violations"]) == Counter(code for row in kept for code in set(row["violations"]))
    assert dict(told["words"]) == Counter(len(row["expression"].split()) for row in kept)
    assert dict(told["phrase_words"]) == Counter(len(one.split()) for row in kept for one in row["phrases"])
    assert dict(told["sources"]) == Counter(row["source"] for row in kept)
    for code, examples in told["examples"].items():
        expected = [[row["expression"], row["phrases"]] for row in kept if code in row["violations"]]
        assert examples == expected[:3]


@given(st.lists(st.text(st.sampled_from("ab \t\nß語")), max_size=8), st.integers(0, 8))
def test_words_are_counted_as_python_splits_them(texts: list[str], start: int) -> None:
    array = pa.array(texts, pa.string()).slice(start)
    assert word_counts(array).tolist() == [len(text.split()) for text in texts[start:]]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_iou_is_that_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = (rng.random((6, 23, 31)) > rng.random((6, 1, 1))).astype(np.uint8)
    masks[1] = 0
    masks[2] = 1
    coded = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    expected = coco.iou(coded[1:], coded[:1], [0]).max()
    counts = [one["counts"].decode() for one in coded]
    assert best_iou(masks[0].astype(bool), counts[1:]) == pytest.approx(expected)
    assert best_iou(masks[0].astype(bool), []) == 0.0


def test_coverage_is_the_share_of_cells_in_any_mask() -> None:
    masks = np.random.default_rng(0).random((3, 32, 32)) > 0.8
    assert covered(np.packbits(masks.reshape(3, -1), axis=1).tobytes()) == masks.any(axis=0).mean()


def test_the_levels_of_a_map_keep_its_maximum(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.array([[[0.5, -1.0]], [[0.0, 8.0]], [[-1.0, -2.0]]], dtype=np.float16))
    assert [entry[3] for entry in response_levels(tmp_path / "maps.npy")] == [0.5, 8.0, 0.0]


def _content(page: Path) -> dict[str, Any]:
    """The content that a page carries."""
    packed = page.read_text("utf-8").split('id="content">')[1].split("<")[0]
    return dict(json.loads(gzip.decompress(base64.b64decode(packed))))


def test_what_the_page_carries_is_bounded_and_evenly_taken(store: Path) -> None:
    _, small = _report(store, "small.html", rows=1000, pictures=5)
    assert small == {"expressions": 1000, "of": 1000, "pictures": 5, "photos": 0}
    rows = open_store(store / "prepared").stage("phrases").reader()
    assert rows.num_rows == 1000


def test_evaluated_expressions_are_kept_and_have_the_pictures(store: Path) -> None:
    out, _ = _report(store, "few.html", rows=0, pictures=3, evaluation=store / "evaluation")
    held = _content(out)
    assert held["gallery"]["text"] == []  # row IDs of this store are small numbers: no share keeps them
    out, _ = _report(store, "few.html", rows=4, pictures=3, evaluation=store / "evaluation")
    held = _content(out)
    assert held["gallery"]["text"] == [f"cup number {at}" for at in (4, 800, 801, 802)]
    images = held["gallery"]["image"]["values"]
    assert {images[int(code)] for code in held["pictures"]} == {"a/2.jpg", "a/400.jpg", "a/401.jpg"}


def test_pictures_go_to_the_worst_and_the_best(store: Path) -> None:
    rows = EvaluatedRows(store / "evaluation")
    assert rows.images(2) == ["a/400.jpg", "a/401.jpg"]  # 801 is the worst; 800 is in the same image
    assert rows.images(9) == ["a/400.jpg", "a/401.jpg", "a/2.jpg"]


def test_wrong_places_are_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="no store"):
        write_report(ReportConfig(str(tmp_path / "none"), tmp_path / "a.html"))
    with pytest.raises(PrepError, match="not a folder"):
        _report(store, data=tmp_path / "none")
    with pytest.raises(PrepError, match=r"samples\.parquet"):
        _report(store, evaluation=tmp_path)


@pytest.fixture(scope="module")
def page(store: Path) -> Iterator[Browser]:
    """The report, open in a browser."""
    program = find_browser()
    out, _ = _report(store, data=store / "data", evaluation=store / "evaluation")
    with Browser(program) as browser:
        browser.open(out, "document.documentElement?.dataset.ready === 'yes'")
        yield browser


def _found(page: Browser) -> str:
    return str(page.run("document.getElementById('found').textContent"))


def _search(page: Browser, text: str) -> None:
    page.run(
        f"(() => {{ const s = document.getElementById('search'); s.value = {text!r};"
        "s.dispatchEvent(new Event('input')) })()"
    )


def _filter(page: Browser, name: str, label: str) -> None:
    name = {"result": "hit"}.get(name, name)
    page.run(
        f"(() => {{ const s = document.getElementById('filter-{name}');"
        f"s.value = [...s.options].find((o) => o.textContent === {label!r}).value;"
        "s.dispatchEvent(new Event('change')) })()"
    )


def _clear(page: Browser) -> None:
    page.run("[...document.querySelectorAll('#filters > button')].at(-1).click()")


def _texts(page: Browser, selector: str) -> list[str]:
    return list(page.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)"))


def _pixels(page: Browser, selector: str, *places: tuple[float, float]) -> list[list[int]]:
    """The colours of a canvas at some places, given as shares of its width and height."""
    page.wait(f"document.querySelector({selector!r})?.dataset.drawn === 'yes'")
    return list(
        page.run(
            f"(() => {{ const c = document.querySelector({selector!r}), x = c.getContext('2d');"
            f"return {json.dumps(places)}.map(([u, v]) => "
            "[...x.getImageData(c.width * u | 0, c.height * v | 0, 1, 1).data].slice(0, 3)) })()"
        )
    )


def _near(colour: list[int], expected: tuple[int, int, int], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True))


def test_the_page_loads_without_an_error_and_without_the_network(page: Browser) -> None:
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    assert "1,000 expressions, 500 images" in str(page.run("document.getElementById('lead').textContent"))
    assert _found(page).startswith("1,000 of 1,000 expressions, 501 entries")
    assert 0 < int(page.run("document.querySelectorAll('#gallery article').length")) < 100
    titles = page.run("[document.title, document.querySelector('h1').textContent]")
    assert titles == ["Store prepared", "Store prepared"]


def test_hostile_text_stays_text(page: Browser) -> None:
    _clear(page)
    _filter(page, "result", "not evaluated")
    texts = _texts(page, "#gallery .text")[:4]
    assert sorted(texts) == sorted(HOSTILE)
    assert page.run("document.title") == "Store prepared"
    assert page.run("document.querySelectorAll('#gallery script, #gallery img, #gallery b').length") == 0
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    _clear(page)


def test_searching_and_filtering_find_what_is_there(page: Browser) -> None:
    _search(page, "NUMBER  99")
    page.wait("document.getElementById('found').textContent.startsWith('19 of')")
    _filter(page, "split", "val")
    # 992 and 996 of the nineteen numbers with 99 in them.
    assert _found(page).startswith("2 of")
    _clear(page)
    assert _found(page).startswith("1,000 of")
    for name, label, n in (
        ("violations", "too_long", "1"), ("violations", "none", "999"), ("source", "expression", "1"),
        ("result", "hit", "2"), ("result", "miss", "1"), ("result", "evaluated", "4"),
        ("kind", "position", "3"),
    ):  # fmt: skip
        _filter(page, name, label)
        assert _found(page).startswith(f"{n} of"), (name, label)
        _clear(page)
    _filter(page, "status", "error")
    assert _found(page).startswith("1 of")
    assert "the expression is empty" in str(page.run("document.getElementById('gallery').textContent"))
    _clear(page)


def test_an_empty_result_says_so_and_can_be_cleared(page: Browser) -> None:
    _filter(page, "split", "val")
    _search(page, "nothing has this")
    page.wait("document.getElementById('found').textContent.startsWith('0 of')")
    assert "No expression matches" in str(page.run("document.getElementById('gallery').textContent"))
    page.run("document.querySelector('#gallery button').click()")
    assert _found(page).startswith("1,000 of")
    assert "No expression" not in str(page.run("document.getElementById('gallery').textContent"))
    values = "['search', 'filter-split'].map((name) => document.getElementById(name).value)"
    assert page.run(values) == ["", ""]


def test_evaluated_expressions_come_first_and_can_be_ordered(page: Browser) -> None:
    _clear(page)
    badges = ["hit, IoU 50%", "hit, IoU 90%", "miss, IoU 0%", "no target"]
    assert _texts(page, "#gallery .badge") == badges
    assert len(_texts(page, "#gallery article:nth-child(-n+3) .view canvas")) == 3
    for order, first in (
        ("IoU, lowest first", "801"), ("IoU, highest first", "800"), ("margin, lowest first", "801"),
        ("margin, highest first", "800"), ("entropy, highest first", "4"), ("entropy, lowest first", "800"),
    ):  # fmt: skip
        _filter(page, "order", order)
        assert _texts(page, "#gallery .text")[0] == f"cup number {first}", order
    _clear(page)


FIRST = "#gallery .view canvas"


def test_proposals_are_drawn_as_chosen_by_buttons_and_keys(page: Browser) -> None:
    _clear(page)
    _filter(page, "result", "not evaluated")
    inside, edge, outside = (0.66, 0.37), (30.5 / 60, 0.37), (0.2, 0.8)
    red = (200, 30, 30)
    page.run("[...document.querySelectorAll('.switches button')][0].click()")  # the photo alone
    assert all(_near(colour, red) for colour in _pixels(page, FIRST, inside, edge, outside))
    page.key("body", "2")  # outlines
    told = _pixels(page, FIRST, inside, (30.05 / 60, 0.37), outside)
    assert [_near(colour, red) for colour in told] == [True, False, True]
    page.key("body", "3")  # tinted
    assert [_near(colour, red, 3) for colour in _pixels(page, FIRST, inside, outside)] == [False, True]
    pressed = "[...document.querySelectorAll('.switches button')].map((b) => b.getAttribute('aria-pressed'))"
    assert page.run(pressed) == ["false", "false", "true", "false", "true"]
    page.key("body", "4")  # one
    assert _texts(page, "#gallery .name")[0] == "mask 1 of 1, 200 px, predicted IoU 0.90, stability 0.95"
    page.key("#search", "1")  # a digit in a search is a digit
    assert page.run(pressed)[3] == "true"
    page.key("body", "1")
    assert _texts(page, "#gallery .name")[0] == "a/0.jpg"
    page.key(FIRST, "ArrowRight")
    assert page.run("document.getElementById('live').textContent").startswith("mask 1 of 1, 200 px")
    page.key(FIRST, "Escape")
    assert _texts(page, "#gallery .name")[0] == "a/0.jpg"
    _clear(page)


def test_predictions_are_outlines_and_maps_lie_over_the_grey_photo(page: Browser) -> None:
    _clear(page)
    _filter(page, "order", "IoU, highest first")
    blue = (60, 150, 240)
    edge = (30.3 / 60, 0.37)
    assert _near(_pixels(page, FIRST, edge)[0], blue)
    page.key("body", "r")
    assert _near(_pixels(page, FIRST, edge)[0], (200, 30, 30))
    page.key("body", "r")
    captions = _texts(page, "#gallery article:first-child figcaption")
    assert captions == ["1 the cup", "2 number 800"]
    assert page.run(
        "[...document.querySelectorAll('#gallery article:first-child figure')].every((f) => "
        "f.firstElementChild.tagName === 'FIGCAPTION' && "
        "Math.abs(f.querySelector('canvas').width / f.querySelector('canvas').height - 1.5) < 0.02)"
    )
    figures = [f"#gallery article:first-child figure:nth-of-type({at}) canvas" for at in (1, 2)]
    places = (0.125, 0.875), (0.625, 0.375), (0.9, 0.1)
    first, second = (_pixels(page, figure, *places) for figure in figures)
    assert sum(first[0]) > sum(first[2]) + 60  # the peak of stage 1 against the grey photo
    assert sum(second[1]) > sum(first[0]) + 100  # one colour scale: the peak of stage 2 is twice as high
    assert max(first[2]) - min(first[2]) < 3  # grey where nothing responds
    assert _texts(page, "#gallery article:first-child .scale") == ["04"]


def test_expressions_of_an_image_share_its_photo(page: Browser) -> None:
    _clear(page)
    _filter(page, "result", "evaluated")
    counts = "[...document.querySelectorAll('#gallery article')].map((a) => "
    counts += "[a.querySelectorAll('.row').length, a.querySelectorAll('.view canvas').length])"
    assert page.run(counts) == [[1, 1], [2, 1], [1, 1]]
    second = "#gallery article:nth-child(2)"
    assert len(_texts(page, f"{second} figure")) == 2
    page.run(f"document.querySelectorAll('{second} .pick')[1].click()")
    assert page.run("document.getElementById('live').textContent") == "cup number 801: miss, IoU 0%"
    assert _texts(page, f"{second} figure") == []  # no maps were saved for this one
    _clear(page)


def test_a_photo_is_enlarged_by_a_click_or_a_key(page: Browser) -> None:
    _clear(page)
    small = page.run(f"document.querySelector('{FIRST}').width")
    page.run(f"document.querySelector('{FIRST}').click()")
    assert page.run("document.querySelector('dialog[open] canvas').width") > 2 * small
    page.run("[...document.querySelectorAll('dialog button')].at(-1).click()")
    page.wait("document.querySelector('dialog') === null")
    page.key(FIRST, "Enter")
    assert page.run("document.querySelector('dialog[open]') !== null")
    page.run("document.querySelector('dialog').close()")
    page.wait("document.querySelector('dialog') === null")
    assert page.problems == []


def test_figures_of_the_store_are_those_of_its_rows(page: Browser) -> None:
    told = str(page.run("document.body.textContent"))
    assert "The store takes" in told
    assert "phrases" in told.split("The store takes")[1][:80]
    cards = page.run("[...document.querySelectorAll('.panels .card')].map((c) => c.innerText)")
    by_title = {card.split("\n")[0]: card for card in cards}
    assert {
        "Sources",
        "Phrases",
        "Words",
        "Words of a phrase",
        "Violations",
        "Masks",
        "Area",
        "Coverage",
    } <= set(by_title)
    assert "mean 2.00" in by_title["Phrases"]
    assert "too_long" in by_title["Violations"]
    assert "cup number 11" in by_title["Violations"]
    assert "n 499" in by_title["Area"]


def test_columns_are_explained_on_hover_and_on_tap(page: Browser) -> None:
    name = "#runs .term"

    def point(event: str) -> None:
        told = f"new PointerEvent('{event}', {{bubbles: true, pointerType: 'mouse'}})"
        page.run(f"document.querySelector('{name}').dispatchEvent({told})")

    tip = "[document.getElementById('tip').hidden, document.getElementById('tip').textContent]"
    point("pointerenter")
    hidden, text = page.run(tip)
    assert not hidden
    assert text.startswith("Expressions in phrases")
    point("pointerleave")
    assert page.run(tip)[0]
    page.run(f"document.querySelector('{name}').click()")
    assert not page.run(tip)[0]
    page.run("document.body.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}))")
    assert page.run(tip)[0]


@pytest.mark.slow
def test_many_expressions_are_searched_while_few_are_drawn_and_cards_are_compact(tmp_path: Path) -> None:
    program = find_browser()
    gallery = Gallery()
    for at in range(50_000):
        gallery.add(_phrase_row(at))
    content = {
        "store": "large", "stages": [], "phrases": PhraseCounts().to_json(), "disk": {},
        "proposals": {**ProposalCounts().to_json(), "best_iou": Histogram(0, 1).to_json()},
        "gallery": gallery.to_json(), "pictures": {}, "scores": {}, "evaluation": {}, "maps": {}, "truth": {},
        "threshold": 0,
    }  # fmt: skip
    write(render("prep.pages", "store", "Report on a store", content), tmp_path / "large.html")
    few = Gallery()
    for at in range(59):
        few.add(_phrase_row(at, image=f"{at % 7}.jpg", expression=f"the man number {at} on the left"))
    small = {"size": [480, 640], "masks": [], "thumbnail": None}
    content |= {"gallery": few.to_json(), "pictures": {str(code): small for code in range(7)}}
    write(render("prep.pages", "store", "Report on a store", content), tmp_path / "few.html")
    with Browser(program) as browser:
        browser.open(tmp_path / "large.html", "document.documentElement?.dataset.ready === 'yes'")
        assert _found(browser).startswith("50,000 of 50,000 expressions, 25,000 entries")
        _search(browser, "number 4999")
        browser.wait("document.getElementById('found').textContent.startsWith('15 of')")
        assert int(browser.run("document.querySelectorAll('*').length")) < 2_000
        browser.open(tmp_path / "few.html", "document.documentElement?.dataset.ready === 'yes'")
        assert _found(browser).startswith("59 of 59 expressions, 7 entries")
        # Version 0.1.0 needed 9,540 pixels for such a page of photos.
        assert browser.run("document.getElementById('gallery').getBoundingClientRect().height") < 9540 / 4
        assert browser.problems == []


def test_entries_come_as_they_are_scrolled_to(page: Browser) -> None:
    _clear(page)
    before = int(page.run("document.querySelectorAll('#gallery article').length"))
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait(f"document.querySelectorAll('#gallery article').length > {before}")
    page.run("window.scrollTo(0, 0)")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_text_can_be_read_on_any_screen(page: Browser, tmp_path: Path, dark: bool, width: int) -> None:
    _clear(page)
    page.screenshot(tmp_path / "page.png", dark=dark, width=width)
    corner = np.asarray(Image.open(tmp_path / "page.png").convert("L"))[0, 0]
    assert corner < 60 if dark else corner > 200
    assert page.run(LOW_CONTRAST) == []
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.run(CUT_OFF) == []
    page.view()


def test_a_wide_table_has_a_shadow_and_scrolls_with_the_keyboard(
    page: Browser,
) -> None:
    page.view(width=390)
    page.wait("document.querySelector('#runs .scroll').tabIndex === 0")
    assert (
        page.run("getComputedStyle(document.querySelector('#runs .scroll')).backgroundImage").count(
            "gradient"
        )
        == 4
    )
    page.view()
    page.wait("document.querySelector('#runs .scroll').tabIndex === -1")
    assert page.problems == []
