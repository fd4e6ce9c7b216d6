"""Renders the demo's page: expressions, phrases, proposals, response maps per stage and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template

import numpy as np
import numpy.typing as npt

from prep import pictures
from prep.pages.html import document
from prep.records import Json

# Displayed side of a 64-pixel picture; larger pictures are not enlarged.
ENLARGED_SIDE = 192


@dataclass(frozen=True, slots=True)
class Sample:
    """One expression to show. ``pixels`` is H x W x 3 uint8; masks are bool H x W; ``stages`` are raw maps.

    ``peak`` is (row, column) of the last stage's highest response; ``iou`` compares ``prediction`` and
    ``truth``.
    """

    text: str
    kind: str
    phrases: Sequence[str]
    pixels: pictures.Pixels
    proposals: Sequence[pictures.Mask]
    truth: pictures.Mask
    stages: Sequence[npt.NDArray[np.floating]] = ()
    prediction: pictures.Mask | None = None
    peak: tuple[int, int] | None = None
    iou: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """PointM of one kind of expression, in percent: model, random-object baseline and oracle proposal."""

    kind: str
    n: int
    model: float
    random_baseline: float
    oracle: float

    def to_json(self) -> dict[str, Json]:
        """The figure under the names that ``--json`` has had since 0.1.0."""
        return {
            "kind": self.kind, "n": self.n,
            "ours": self.model, "chance": self.random_baseline, "bound": self.oracle,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """The page's contents; ``steps`` are (what, command, seconds)."""

    title: str
    lead: str
    figures: Sequence[Figure]
    samples: Sequence[Sample]
    steps: Sequence[tuple[str, str, float]] = field(default=())


def render(page: Page) -> str:
    """The page as one self-contained HTML document; all text in it is escaped."""
    body = Template((files("prep.demo") / "page.html").read_text("utf-8")).substitute(
        title=escape(page.title),
        lead=escape(page.lead),
        figures=_figures(page.figures),
        samples_title=f"{len(page.samples)} expressions from the validation split",
        samples_lead="Sampled at even intervals, hits and misses alike. The ring marks the highest response.",
        samples="\n".join(_sample(sample) for sample in page.samples),
        steps=_steps(page.steps),
    )
    return document(page.title, body)


def _figures(figures: Sequence[Figure]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(figure.kind)}</th><td class=number>{figure.n:,}</td>"
        f"<td class=number><b>{figure.model:.1f}%</b></td><td class=number>{figure.random_baseline:.1f}%</td>"
        f"<td class=number>{figure.oracle:.1f}%</td><td class=track><div>{_bars(figure)}</div></td></tr>"
        for figure in figures
    )
    return (
        "<table class=bars><thead><tr><th>expressions<th class=number>n<th class=number>PCNet"
        f"<th class=number>random object<th class=number>oracle<th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _bars(figure: Figure) -> str:
    marks = "".join(
        f'<i class={name} style="left:{min(max(value, 0.4), 99.6):.1f}%"></i>'
        for name, value in (("baseline", figure.random_baseline), ("oracle", figure.oracle))
    )
    return f'<i class=model style="width:{min(max(figure.model, 0), 100):.1f}%"></i>{marks}'


def _sample(sample: Sample) -> str:
    factor = max(1, round(ENLARGED_SIDE / max(sample.pixels.shape[:2])))
    shown = [("image", pictures.enlarge(sample.pixels, factor))]
    if sample.proposals:
        drawn = pictures.draw_masks(sample.pixels, sample.proposals, factor=factor)
        shown.append((f"{len(sample.proposals)} proposals", drawn))
    for stage, response in enumerate(sample.stages):
        drawn = pictures.draw_response(sample.pixels, response, factor)
        if stage == len(sample.stages) - 1 and sample.peak is not None:
            drawn = pictures.draw_point(drawn, *sample.peak, factor=factor)
        phrase = f": {sample.phrases[stage]}" if stage < len(sample.phrases) else ""
        shown.append((f"stage {stage + 1}{phrase}", drawn))
    if sample.prediction is not None:
        drawn = pictures.draw_masks(sample.pixels, [sample.prediction], [pictures.PREDICTION], factor)
        shown.append(("mask: proposal under the peak", drawn))
    shown.append(
        ("ground truth", pictures.draw_masks(sample.pixels, [sample.truth], [pictures.TRUTH], factor))
    )
    strip = "".join(
        f'<figure><img alt="{escape(name)}" src="{pictures.data_uri(drawn)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, drawn in shown
    )
    chips = "".join(f"<span class=chip>{escape(phrase)}</span>" for phrase in sample.phrases)
    return (
        f"<article class='card sample'><h3><bdi>{escape(sample.text)}</bdi>{_verdict(sample)}</h3>"
        f"<div><span class=soft>{escape(sample.kind)}, phrases:</span> {chips}</div>"
        f"<div class=strip>{strip}</div></article>"
    )


def _verdict(sample: Sample) -> str:
    if sample.peak is None:
        return ""
    hit = bool(sample.truth[sample.peak])
    overlap = "" if sample.iou is None else f", IoU {100 * sample.iou:.0f}%"
    return f"<span class='badge {'good' if hit else 'bad'}'>{'hit' if hit else 'miss'}{overlap}</span>"


def _steps(steps: Sequence[tuple[str, str, float]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td><code>{escape(command)}</code></td>"
        f"<td class=number>{seconds:.0f} s</td></tr>"
        for what, command, seconds in steps
    )
    return f"<table><tbody>{rows}</tbody></table>"
