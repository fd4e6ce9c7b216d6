"""A table follows its input: rows are updated, set aside, taken back or made again, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prep.cache.follow as follow_module
from prep.cache.compact import compact
from prep.cache.keyset import hash_keys
from prep.cache.maintain import status
from prep.cache.sources import Origin, keys_of_input, predecessor, read_keys, record
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from prep.datasets.catalogue import open_jsonl
from prep.engine.runner import Summary
from prep.engine.sources import follow_source, origin_of
from prep.errors import PrepError
from prep.phrases.run import run_phrases

TEXTS = ("the red cup", "the blue cup", "the left man", "a dog on a chair", "the tall tree")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def entries(split: str = "train", **changes: Any) -> list[dict[str, Any]]:
    return [
        {"sent": text, "image": f"{n}.png", "split": split, "image_id": n, **changes}
        for n, text in enumerate(TEXTS)
    ]


def run(file: Path, store: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Store, Summary]:
    file.write_text(lines(*rows), encoding="utf-8")
    opened = open_store(store, create=True)
    return opened, run_phrases(None, [open_jsonl(file)], opened, **options)[0]


def held(store: Store, *columns: str) -> list[tuple[Any, ...]]:
    table = store.stage("phrases").reader().read(list(columns))
    return sorted(zip(*(table[name].to_pylist() for name in columns), strict=True))


def content(store: Store) -> list[dict[str, Any]]:
    rows = store.stage("phrases").reader().read().to_pylist()
    return sorted(rows, key=lambda row: row["row_id"])


@pytest.mark.parametrize("change", ["split", "image_id"])
def test_columns_of_the_input_are_updated_without_making_the_row_again(tmp_path: Path, change: str) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    changed = entries()
    changed[1][change], changed[3][change] = ("val", "test") if change == "split" else (71, None)
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", changed)
    assert (summary.done, summary.reused) == (0, 5)
    assert summary.extra["rows updated from the input"] == 2
    fresh, _ = run(tmp_path / "mine.jsonl", tmp_path / "fresh", changed)
    assert content(store) == content(fresh)
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    assert held(store, "split", "image_id") == [("train", n) for n in range(5)]
    assert summary.total == 5
    counted = [name for name in summary.extra if name.startswith("rows ")]
    assert counted == ["rows updated from the input"]  # none is set aside, taken back or made again


def test_rows_that_left_are_set_aside_and_come_back(tmp_path: Path) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    edited = [{**entries()[0], "sent": "the green cup"}, *entries()[2:]]
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", edited)
    assert summary.extra["rows set aside, as the input no longer has them"] == 2
    assert [text for (text,) in held(store, "expression")] == sorted(row["sent"] for row in edited)
    assert status(store).stages[0].set_aside == 2
    assert verify(store).ok
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries("val"))
    assert (summary.done, summary.extra["rows taken back, as the input has them again"]) == (0, 2)
    assert held(store, "expression", "split") == sorted((text, "val") for text in TEXTS)
    assert status(store).stages[0].set_aside == 1
    fresh, _ = run(tmp_path / "mine.jsonl", tmp_path / "fresh", entries("val"))
    assert content(store) == content(fresh)


def test_keep_missing_leaves_them(tmp_path: Path) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:3], keep_missing=True)
    assert summary.extra["rows kept that the input no longer has"] == 2
    assert len(held(store, "row_id")) == 5
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:3])
    assert summary.extra["rows set aside, as the input no longer has them"] == 2
    assert len(held(store, "row_id")) == 3


def test_other_files_and_splits_keep_their_rows(tmp_path: Path) -> None:
    """Two files whose rows name the same dataset; a run over one split covers the other splits too."""
    mixed = entries(dataset="kitchen")
    mixed[0]["split"] = "val"
    run(tmp_path / "a.jsonl", tmp_path / "st", mixed)
    more = [{"sent": "the spoon", "image": "9.png", "dataset": "kitchen"}, mixed[1]]
    store, summary = run(tmp_path / "b.jsonl", tmp_path / "st", more)
    assert (summary.done, summary.reused) == (1, 1)
    assert len(held(store, "row_id")) == 6
    store, summary = run(tmp_path / "a.jsonl", tmp_path / "st", [mixed[0], *mixed[3:]], splits=["val"])
    assert summary.total == 1
    # The row of mixed[1] is one of b's too; that of mixed[2] is gone.
    assert [text for (text,) in held(store, "expression")] == sorted(
        [TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[4], "the spoon"]
    )


def test_two_files_of_one_name_are_refused_and_a_moved_one_is_not(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    run(tmp_path / "x" / "mine.jsonl", tmp_path / "st", entries())
    with pytest.raises(PrepError, match=r"x/mine\.jsonl.*y/mine\.jsonl.*same name"):
        run(tmp_path / "y" / "mine.jsonl", tmp_path / "st", entries()[:2])
    store = open_store(tmp_path / "st")
    assert len(held(store, "row_id")) == 5
    _, summary = run(tmp_path / "y" / "mine.jsonl", tmp_path / "st", entries())  # a copy
    assert (summary.done, summary.reused) == (0, 5)
    (tmp_path / "y" / "mine.jsonl").unlink()
    store, summary = run(tmp_path / "x" / "mine.jsonl", tmp_path / "st", entries()[:2])
    assert len(held(store, "row_id")) == 2


def test_a_row_whose_error_the_input_caused_is_made_again(tmp_path: Path) -> None:
    broken = entries()
    broken[2]["ref_id"] = "x7"
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", broken)
    assert summary.failed == 1
    mended = entries()
    mended[2]["ref_id"] = None
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", mended)
    assert (summary.done, summary.failed) == (1, 0)
    fresh, _ = run(tmp_path / "mine.jsonl", tmp_path / "fresh", mended)
    assert content(store) == content(fresh)


def test_a_store_without_recorded_sources_sets_aside_what_is_its_datasets(tmp_path: Path) -> None:
    """As 0.1.0 wrote it."""
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    manifest = tmp_path / "st/_state/phrases/manifest.json"
    old = {name: value for name, value in json.loads(manifest.read_text()).items() if name != "sources"}
    manifest.write_text(json.dumps(old))
    for keys in (tmp_path / "st/_state/phrases").glob("keys-*"):
        keys.unlink()
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries("val")[1:])
    assert summary.extra["rows set aside, as the input no longer has them"] == 1
    assert held(store, "split") == [("val",)] * 4


def test_compact_keeps_what_is_known_of_the_sources(tmp_path: Path) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:3])
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    compact(open_store(tmp_path / "st"))
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[1:])
    assert summary.extra["rows set aside, as the input no longer has them"] == 1
    assert len(held(store, "row_id")) == 4


def test_a_replacement_that_fails_does_not_begin_with_rows_that_come_back(tmp_path: Path) -> None:
    """The rows set aside would else be the first new ones, and end those that they replace."""
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    store, _ = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:3])
    before = content(store)
    file = tmp_path / "mine.jsonl"
    file.write_text(lines(*entries()))
    settings = store.stage("phrases").reader().settings
    source = open_jsonl(file)
    rows = [(e.row_id, {"split": e.split, "image_id": e.image_id}, "") for e in source.expressions()]
    with store.stage("phrases").writer(settings, replace=True) as writer:  # and no row is written
        follow_source(writer, origin_of(source), lambda: rows, keep_missing=False)
    assert content(store) == before
    assert status(store).stages[0].set_aside == 2


def test_rows_that_a_replacement_makes_again_are_not_set_aside(tmp_path: Path) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    store, _ = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:2])
    assert status(store).stages[0].set_aside == 3
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:4], replace=True)
    assert summary.done == 4
    assert status(store).stages[0].set_aside == 1  # the last text alone


@pytest.mark.parametrize(
    "sources",
    [{"mine.jsonl": {}}, {"mine.jsonl": 3}, {"mine.jsonl": {"place": 3, "root": "", "inputs": {}}}, [1], "x"],
)
def test_sources_that_are_none_are_a_broken_manifest(tmp_path: Path, sources: Any) -> None:
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    manifest = tmp_path / "st/_state/phrases/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "sources": sources}))
    with pytest.raises(PrepError, match="not a valid manifest"):
        run(tmp_path / "mine.jsonl", tmp_path / "st", entries("val"))


KILLED = """
import os, signal, sys
from pathlib import Path
import prep.cache.{module} as module
original = module.{name}
def stop(*arguments, **options):
    if {after}:
        original(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = stop
from prep.cache.store import open_store
from prep.datasets.catalogue import open_jsonl
from prep.phrases.run import run_phrases
run_phrases(None, [open_jsonl(Path(sys.argv[1]))], open_store(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["_set_aside", "rewrite", "_apply", "_take_back", "record"])
def test_a_kill_at_any_step_is_mended_by_the_next_run(tmp_path: Path, name: str, after: bool) -> None:
    assert hasattr(follow_module, name)
    file, store = tmp_path / "mine.jsonl", tmp_path / "st"
    run(file, store, entries())
    run(file, store, entries()[:4])  # one is set aside, and comes back below
    wanted = [*entries("val")[1:], {"sent": "the new lamp", "image": "8.png"}]
    file.write_text(lines(*wanted))
    code = KILLED.format(module="follow", name=name, after=after)
    done = subprocess.run([sys.executable, "-c", code, str(file), str(store)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    opened, _ = run(file, store, wanted)
    fresh, _ = run(file, tmp_path / "fresh", wanted)
    assert content(opened) == content(fresh)
    assert status(opened).stages[0].set_aside == 1
    assert verify(opened).ok


@pytest.mark.parametrize("damaged", [np.zeros((2, 3), np.uint64), np.zeros(3), np.zeros(3, np.int64)])
def test_keys_of_another_shape_or_type_are_none(tmp_path: Path, damaged: np.ndarray) -> None:
    """They are read from the rows then, so that nothing is lost."""
    from prep.cache.manifest import load_manifest

    store, _ = run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    files = store.stage("phrases").files
    manifest = load_manifest(files)
    assert manifest is not None
    (source,) = manifest.sources
    kept = read_keys(files, manifest, source)
    assert kept is not None
    assert len(kept) == 5
    (path,) = (tmp_path / "st/_state/phrases").glob("keys-*")
    np.save(path, damaged)
    assert read_keys(files, manifest, source) is None


def test_rows_that_were_kept_although_missing_are_still_the_sources_own(tmp_path: Path) -> None:
    """A later run without --keep-missing sets them aside."""
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    for count in (4, 3):
        store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:count], keep_missing=True)
        assert summary.extra["rows kept that the input no longer has"] == 5 - count
    store, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:3])
    assert summary.extra["rows set aside, as the input no longer has them"] == 2
    assert len(held(store, "row_id")) == 3


def test_rows_set_aside_with_other_settings_are_replaced(tmp_path: Path) -> None:
    """They cannot come back: a row of other settings is another row."""
    run(tmp_path / "mine.jsonl", tmp_path / "st", entries())
    store, _ = run(tmp_path / "mine.jsonl", tmp_path / "st", entries()[:4])
    table = store.stage("phrases")
    other = {**table.reader().settings, "made": "otherwise"}
    aside = tmp_path / "st/_state/phrases"
    assert aside.is_dir()
    file = tmp_path / "mine.jsonl"
    source = open_jsonl(file)
    rows = [(e.row_id, {"split": e.split, "image_id": e.image_id}, "") for e in source.expressions()]
    with table.writer(table.reader().settings) as writer:
        kept = table.reader().read()
    assert table.aside.reader().num_rows == 1
    with table.writer(other, replace=True) as writer:
        writer.write(kept)
    with table.writer(other) as writer:
        follow_source(writer, origin_of(source), lambda: rows[:3], keep_missing=False)
    assert table.aside.reader().settings == other
    assert table.aside.reader().num_rows == 1  # the one that left now
    assert table.reader().num_rows == 3


def folder_origin(place: Path) -> Origin:
    return Origin(str(place), ("photos", ""), str(place), str(place))


def test_a_folder_that_was_moved_is_known_by_its_last_name(tmp_path: Path) -> None:
    """If it is gone from where it was, there is one such, and no other table of the new place."""
    store = open_store(tmp_path / "st", create=True)
    place, moved = tmp_path / "a/photos", tmp_path / "b/photos"
    place.mkdir(parents=True)
    keys = np.array([3, 5], np.uint64)
    with store.stage("phrases").writer({"made": 1}) as writer:
        record(writer, folder_origin(place), keys, False)
        assert predecessor(writer, folder_origin(moved)) == str(moved)  # the old one is still there
        place.rmdir()
        assert predecessor(writer, folder_origin(moved)) == str(place)
        assert predecessor(writer, folder_origin(tmp_path / "b/pictures")) == str(tmp_path / "b/pictures")
        file = Origin("photos", ("photos", ""), str(moved), "", {"photos": "ab"})
        assert predecessor(writer, file) == "photos"  # a file, known by its content
        record(writer, replace(folder_origin(tmp_path / "c/photos"), inputs={"x": "y"}), keys, False)
        assert predecessor(writer, folder_origin(moved)) == str(place)
        twin = folder_origin(tmp_path / "d/photos")
        writer.manifest.sources[twin.name] = twin.entry(False)
        assert predecessor(writer, folder_origin(moved)) == str(moved)  # which of the two?
        del writer.manifest.sources[twin.name]
        record(writer, folder_origin(moved), np.array([7], np.uint64), True)
        assert str(place) not in writer.manifest.sources
        assert predecessor(writer, folder_origin(moved)) == str(moved)
        found = read_keys(writer.files, writer.manifest, str(moved))
        assert found is not None
        assert found.tolist() == [3, 5, 7]  # what it had under its old name, too


def test_the_rows_of_a_file_are_found_by_what_was_read_from_it(tmp_path: Path) -> None:
    file, other = tmp_path / "mine.jsonl", tmp_path / "else" / "mine.jsonl"
    other.parent.mkdir()
    store, _ = run(file, tmp_path / "st", entries())
    reader = store.stage("phrases").reader()
    keys = keys_of_input(reader, file)
    assert keys is not None
    assert keys.tolist() == np.unique(hash_keys(reader.read(["row_id"])["row_id"].to_pylist())).tolist()
    assert keys_of_input(reader, tmp_path / "never.jsonl") is None
    assert keys_of_input(store.stage("scores").reader(), file) is None  # a table without rows
    other.write_bytes(file.read_bytes())
    assert keys_of_input(reader, other) is not None  # a copy
    other.write_text(lines(*entries()[:2]))
    with pytest.raises(PrepError) as error:
        keys_of_input(reader, other)
    assert error.value.message == f"{reader.stage.files.uri} has the rows of {file}, not of {other}."
    assert error.value.remedy == f"Run: pcnet-prep phrases --input {other} --store OTHER"
    file.write_text(lines(*entries()[:2]))
    with pytest.raises(PrepError) as error:
        keys_of_input(reader, file)
    assert error.value.message == f"{file} has changed since {reader.stage.files.uri} was made of it."
    assert error.value.remedy == f"Run: pcnet-prep phrases --input {file} --store {tmp_path / 'st'}"


def test_rows_that_failed_before_are_counted_among_those_that_are_kept(tmp_path: Path) -> None:
    broken = entries()
    broken[2]["ref_id"] = broken[4]["ref_id"] = "x7"
    _, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", broken)
    assert (summary.done, summary.failed, summary.failed_before) == (5, 2, 0)
    more = [*broken, {"sent": "the spoon", "image": "9.png"}]
    for _ in range(2):  # found in the rows, and known of the finished selection
        _, summary = run(tmp_path / "mine.jsonl", tmp_path / "st", more)
        assert (summary.total, summary.reused + summary.done) == (6, 6)
        assert (summary.failed, summary.failed_before) == (0, 2)
