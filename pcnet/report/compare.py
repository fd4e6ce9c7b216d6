"""Compares two runs on the same expressions: joins rows by id, counts hits and selects the best
and worst cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pcnet.report.runs import Evaluation

# Number of expressions at each end of a ranking that get a picture.
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of an expression in one evaluation: point inside, IoU in [0, 1], peak in pixels, proposal,
    margin, entropy, and the phrases that the stages read; the last three are None in older evaluations.
    """

    hit: bool
    iou: float
    peak_y: int
    peak_x: int
    proposal: int | None
    margin: float | None = None
    entropy: float | None = None
    phrases: tuple[str, ...] | None = None

    def to_json(self) -> list[object]:
        """The values in the order in which the page reads them."""
        sure = [None if value is None else round(value, 4) for value in (self.margin, self.entropy)]
        return [self.hit, round(self.iou, 4), self.peak_y, self.peak_x, self.proposal, *sure, self.phrases]


@dataclass(frozen=True, slots=True)
class Case:
    """An expression with a target and its scores, one per run; None if a run did not score it."""

    row_id: str
    image: str
    text: str
    kinds: tuple[str, ...]
    evaluation: str
    scores: tuple[Score | None, ...]


@dataclass
class Agreement:
    """For the expressions that both runs scored: which runs hit the object, by expression type."""

    label: str
    kind: str
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    gain: float = 0.0

    def add(self, first: Score, second: Score) -> None:
        """Count an expression: [both, only the first, only the second, neither]; ``gain`` is the summed IoU
        difference.
        """
        self.counts[(not first.hit) * 2 + (not second.hit)] += 1
        self.gain += second.iou - first.iou

    def to_json(self) -> dict[str, object]:
        """Counts, the second run's mean gain in IoU points, and the exact two-sided p-value of the
        difference.
        """
        from scipy.special import bdtr

        _, one, other, _ = self.counts
        p = min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5))) if one + other else 1.0
        n = sum(self.counts)
        return {
            "label": self.label,
            "kind": self.kind,
            "counts": self.counts,
            "gain": 100 * self.gain / n,
            "p": p,
        }


def join(label: str, evaluations: Sequence[Evaluation | None]) -> list[Case]:
    """The expressions with a target that any of the evaluations scored, joined by ``row_id``.

    IoU is that of the chosen proposals if every evaluation has them (``--refine``), else of the maps' masks.
    """
    tables = [None if one is None else one.rows for one in evaluations]
    refined = all(
        t is None or ("proposal_iou" in t.column_names and t["proposal_iou"].null_count == 0) for t in tables
    )
    cases: dict[str, Case] = {}
    for at, table in enumerate(tables):
        for row in table.to_pylist() if table is not None else ():
            if row["no_target"]:
                continue
            overlap = row["proposal_iou"] if refined else row["iou"]
            chosen = row["proposal"] if refined else None
            phrases = row.get("phrases")
            score = Score(
                bool(row["point"]), float(overlap), row["peak_y"], row["peak_x"], chosen,
                row.get("margin"), row.get("entropy"), None if phrases is None else tuple(phrases),
            )  # fmt: skip
            known = cases.get(row["row_id"])
            before = known.scores if known else (None,) * len(tables)
            cases[row["row_id"]] = Case(
                row["row_id"], row["image"], row["expression"], tuple(row["groups"]), label,
                (*before[:at], score, *before[at + 1 :]),
            )  # fmt: skip
    return list(cases.values())


def agreements(cases: Sequence[Case]) -> list[Agreement]:
    """Agreement of two runs on what both scored: per evaluation, then per expression type."""
    found: dict[tuple[str, str], Agreement] = {}
    for case in cases:
        first, second = case.scores
        if first is not None and second is not None:
            for kind in ("", *case.kinds):
                found.setdefault((case.evaluation, kind), Agreement(case.evaluation, kind)).add(first, second)
    return [found[key] for key in sorted(found)]


def extremes(cases: Sequence[Case], shown: int = SHOWN) -> list[Case]:
    """The best and worst cases of each run and, for two runs, the largest gains and losses of the second,
    interleaved.
    """
    orders = []
    for run in range(len(cases[0].scores) if cases else 0):
        own = [(score.iou, score.hit, case) for case in cases if (score := case.scores[run]) is not None]
        own.sort(key=lambda entry: (entry[0], entry[1], entry[2].row_id))
        orders += [[case for *_, case in own[:shown]], [case for *_, case in own[::-1][:shown]]]
    changed = [
        (case.scores[1].iou - case.scores[0].iou, case)
        for case in cases
        if len(case.scores) == 2 and case.scores[0] is not None and case.scores[1] is not None
    ]
    changed.sort(key=lambda entry: (entry[0], entry[1].row_id))
    if changed:
        orders += [[case for _, case in changed[:shown]], [case for _, case in changed[::-1][:shown]]]
    in_turn = (order[place] for place in range(shown) for order in orders if place < len(order))
    return list({case.row_id: case for case in in_turn}.values())
