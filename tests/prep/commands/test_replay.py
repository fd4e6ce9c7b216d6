"""What a manifest from somebody else may make ``verify --repair`` and ``--from-manifest`` do."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from prep.cache.store import open_store
from prep.errors import PrepError

TEXTS = ["the man on the left", "a red cup", "the dog"]


def run(*words: str | Path) -> Any:
    return cli.prep_app([*map(str, words)], standalone_mode=False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"sent": text}) + "\n" for text in TEXTS))
    run("phrases", "--input", "mine.jsonl", "--llm", "rules", "--store", "st")
    return tmp_path / "st"


def spoil(store: Path, **recorded: Any) -> None:
    """Damage a shard, and change what the manifest records of the run that made it."""
    place = store / "_state" / "phrases" / "manifest.json"
    manifest = json.loads(place.read_text())
    arguments = manifest["runs"][-1]["arguments"]
    manifest["runs"] = [{"arguments": {**arguments, **recorded}}]
    place.write_text(json.dumps(manifest))
    for shard in (store / "phrases").glob("*.parquet"):
        shard.write_bytes(b"PAR1")


def test_a_manifest_names_no_cluster_that_could_run_its_code_here(store: Path, tmp_path: Path) -> None:
    spoil(store, ray_address="127.0.0.1:1")
    assert run("verify", store, "--repair") == 0
    assert open_store(store).stage("phrases").reader().num_rows == len(TEXTS)
    spoil(store, ray_address="127.0.0.1:1")
    manifest = store / "_state" / "phrases" / "manifest.json"
    assert not run("phrases", "--from-manifest", manifest, "--store", tmp_path / "again")
    assert open_store(tmp_path / "again").stage("phrases").reader().num_rows == len(TEXTS)


def test_a_recorded_cache_is_used_only_where_there_is_one(store: Path, tmp_path: Path) -> None:
    spoil(store, cache=str(tmp_path / "elsewhere"))
    before = {path.name for path in tmp_path.iterdir()}
    assert run("verify", store, "--repair") == 0
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["demo", "run", "export", "init", "--help", "", 5, ["phrases"], None])
def test_a_repair_repeats_only_commands_that_write_a_table(store: Path, name: Any) -> None:
    spoil(store, command=name)
    bytes_of = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(
        PrepError, match=r"cannot be made again: .*no command that writes a table.*Nothing was"
    ):
        run("verify", store, "--repair")
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == bytes_of


@pytest.mark.parametrize(
    "flags",
    [
        {"workers": {"a": 1}}, {"dataset": 5}, {"data": ["a"]}, {"input": 3}, {"limit": "x"}, {"llm": []},
        {"split": {"a": 1}}, {"llm": "no/such/folder"}, {"folder": 7},
        {"folder": "\0"},
        {"keep_missing": "maybe"}, {"revision": 5}, {"limit": 1e300}, {"input": "\0"}, {"out": ["x"]},
    ],
)  # fmt: skip
def test_odd_recorded_flags_raise_nothing_but_errors_with_a_remedy(
    store: Path, flags: dict[str, Any]
) -> None:
    spoil(store, **flags)
    with contextlib.suppress(PrepError, typer.BadParameter):
        assert run("verify", store, "--repair") in (0, 1, None)
