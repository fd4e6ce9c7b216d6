"""A command's flags as a manifest keeps them, and as the runs of the stages take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from prep.commands import options as shared
from prep.commands.stage_run import recorded_arguments, run_options


def called(*words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is recorded and passed on of a command that is called with ``words``."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    app = typer.Typer()

    @app.command("fill")
    def fill(
        context: typer.Context,
        data: shared.Data = shared.COCO,
        dataset: shared.Datasets = shared.REFCOCO,
        split: shared.Splits = None,
        input: shared.Input = None,
        cache: shared.Cache = None,
        replace: shared.Replace = False,
        workers: shared.Workers = None,
        gpus: shared.Gpus = None,
        ray_address: shared.RayAddress = None,
        plan: shared.PlanOnly = False,
        as_json: shared.Json = False,
    ) -> None:
        seen.append((recorded_arguments(context), run_options(context)))

    app.command("other")(lambda: None)
    app(["fill", *words], standalone_mode=False)
    return seen[0]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_defaults_are_recorded_and_what_was_not_given_is_not() -> None:
    recorded, passed = called()
    folder = os.getcwd()
    assert recorded == {"command": "fill", "folder": folder, "data": "coco", "dataset": ["refcoco"]}
    assert passed == {
        "replace": False,
        "cache": None,
        "ray_address": None,
        "splits": None,
        "arguments": recorded,
    }


def test_flags_are_recorded_as_plain_values_in_the_order_of_the_command() -> None:
    recorded, passed = called(
        "--gpus", "0", "--split", "val", "--split", "testA", "--dataset", "refcoco+", "--data", "./tree/",
        "--replace", "--plan", "--json", "--input", "own.jsonl",
    )  # fmt: skip
    assert list(recorded.items()) == [
        ("command", "fill"),
        ("folder", os.getcwd()),
        ("data", str(Path("tree"))),
        ("dataset", ["refcoco+"]),
        ("split", ["val", "testA"]),
        ("input", "own.jsonl"),
        ("gpus", 0),
    ]
    assert (passed["splits"], passed["replace"]) == (["val", "testA"], True)


def test_a_cluster_that_the_job_names_is_passed_on_and_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    recorded, passed = called()
    assert "ray_address" not in recorded
    assert passed["ray_address"] == "auto"
    recorded, passed = called("--ray-address", "ray://host:1")
    assert "ray_address" not in recorded  # a manifest from somebody else must not name one either
    assert passed["ray_address"] == "ray://host:1"


def test_a_switch_that_was_turned_off_is_recorded() -> None:
    seen: list[dict[str, Any]] = []
    app = typer.Typer()

    @app.command("fill")
    def fill(
        context: typer.Context,
        masks: Annotated[bool | None, typer.Option()] = None,
        same: Annotated[bool, typer.Option()] = True,
        replay: Annotated[bool, typer.Option()] = False,
    ) -> None:
        recorded = recorded_arguments(context)
        seen.append({name: recorded[name] for name in ("masks", "same", "replay") if name in recorded})

    app.command("other")(lambda: None)
    for words in ([], ["--no-masks", "--no-same", "--no-replay"], ["--masks"]):
        app(["fill", *words], standalone_mode=False)
    assert seen == [{"same": True}, {"masks": False, "same": False}, {"masks": True, "same": True}]
