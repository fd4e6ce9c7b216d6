"""Formats the doctor's findings as lines of text, followed by the commands to run next."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from prep.machine.doctor import DEFAULT_LLM, DEFAULT_SAM
from prep.machine.finding import Finding

WIDTH = 110
SHORT_INDENT = 12  # of a command, which is not wrapped: it is to be copied
SIGNS = {True: "ok", False: "--", None: "  "}


def screen(findings: Iterable[Finding], steps: Iterable[str]) -> str:
    """All findings, a few lines each, then the steps."""
    lines = []
    for finding in findings:
        head = f"{SIGNS[finding.ok]} {finding.area:<8} {finding.name:<14} "
        indent = " " * len(head)
        lines += textwrap.wrap(
            head + finding.text,
            WIDTH,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if finding.area == "data" and finding.remedy:
            lines.append(f"{' ' * SHORT_INDENT}{finding.remedy}")
    return "\n".join([*lines, "next:", *(f"   {step}" for step in steps)])


def next_steps(findings: Iterable[Finding], data: Path, store: str) -> list[str]:
    """The commands to run next, the first one first."""
    state = {(finding.area, finding.name): finding for finding in findings}

    def good(area: str, name: str) -> bool:
        return (area, name) in state and state[area, name].ok is True

    if ("packages", "missing") in state:
        return [state["packages", "missing"].remedy]
    datasets = [
        finding.name
        for finding in state.values()
        if finding.area == "data" and finding.name != "datasets" and finding.ok is not None
    ]
    if not datasets:
        return [
            "pcnet-prep demo        # the whole chain on synthetic data",
            "docs/datasets.md       # real data",
        ]
    where = f" --data {data} --dataset {datasets[0].split()[0]}"
    gpu, steps = good("machine", "GPUs"), []
    if not good("store", "phrases"):
        llm = DEFAULT_LLM if gpu and good("packages", "extra [vllm]") else "rules"
        steps.append(f"pcnet-prep phrases --llm {llm}{where} --store {store}")
    if not good("store", "proposals"):
        weights = state.get(("weights", f"SAM {DEFAULT_SAM}"))
        if gpu and weights is not None and not weights.ok:
            steps.append(weights.remedy.split("\n")[1].strip())
        generator = "" if gpu else " --generator segments"
        steps.append(f"pcnet-prep sam{generator}{where} --store {store}")
    encoder = "" if gpu else " --encoder tiny --recipe plus"
    steps.append(f"pcnet train{encoder}{where} --store {store}")
    return steps
