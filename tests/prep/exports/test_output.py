"""Exports resume, follow their input, and neither leave their folder nor break for any name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prep.cache.schema import PROPOSALS
from prep.cache.store import Store, open_store
from prep.datasets.catalogue import open_dataset, open_jsonl
from prep.datasets.refer import RefDataset
from prep.errors import PrepError
from prep.exports.layouts import LAYOUTS, export
from prep.exports.output import Exported, Output, file_name
from prep.exports.request import Request
from prep.masks import rle
from prep.proposals.rows import answer, make_row
from prep.records import Proposal
from tests.prep.exports import readers
from tests.prep.exports.worlds import add_phrases, add_proposals, add_scores, filled

IN_FOLDER = [name for name in LAYOUTS if name != "croissant"]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every visible file with its content and time of change."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def request(layout: str, store: Store, to: Path, dataset: RefDataset, **more: Any) -> Request:
    return Request(layout, store, to, dataset if LAYOUTS[layout].dataset else None, **more)


@pytest.mark.parametrize("layout", IN_FOLDER)
def test_a_second_run_writes_nothing_and_a_lost_file_comes_back(
    store: Store, dataset: RefDataset, tmp_path: Path, layout: str
) -> None:
    asked = request(layout, store, tmp_path, dataset)
    first = export(asked)
    before = state(tmp_path)
    again = export(asked)
    assert state(tmp_path) == before
    assert (again.written, again.unchanged, again.removed) == (0, len(before), 0)
    assert (again.counts, again.left_out, again.notes) == (first.counts, first.left_out, first.notes)
    lost, damaged = sorted(before)[0], sorted(before)[-1]
    (tmp_path / lost).unlink()
    (tmp_path / damaged).write_bytes(b"damaged")
    mended = export(asked)
    assert mended.written == len({lost, damaged})
    assert {name: data for name, (data, _) in state(tmp_path).items()} == {
        name: data for name, (data, _) in before.items()
    }
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("layout", ["pseudo-png", "simrec"])
def test_a_run_that_was_killed_is_completed(
    store: Store, dataset: RefDataset, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(request(layout, store, tmp_path / "whole", dataset))
    put, calls = Output.put, iter(range(5))

    def killed(self: Output, *arguments: Any) -> None:
        next(calls)  # StopIteration at the sixth file stands for a kill
        put(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Output, "put", killed)
        with pytest.raises((StopIteration, RuntimeError)):
            export(request(layout, store, tmp_path / "cut", dataset))
    with open(next((tmp_path / "cut").glob(".export-*")), "a") as record:
        record.write('{"file": "half a li')
    done = export(request(layout, store, tmp_path / "cut", dataset))
    assert (done.unchanged, done.written) == (5, whole.written - 5)
    assert {name: data for name, (data, _) in state(tmp_path / "cut").items()} == {
        name: data for name, (data, _) in state(tmp_path / "whole").items()
    }


@pytest.mark.parametrize("layout", IN_FOLDER)
def test_other_rows_and_another_dataset_are_followed(
    data: Path, dataset: RefDataset, tmp_path: Path, layout: str
) -> None:
    root = tmp_path / "coco"
    shutil.copytree(data, root)
    changed = open_dataset(root, "refcoco")
    store = filled(tmp_path / "store", changed)
    to = tmp_path / "out"
    export(request(layout, store, to, changed))
    path = root / "refer" / "refcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(refs[1:], protocol=2))
    changed = open_dataset(root, "refcoco")
    add_proposals(store, changed.images(), seed=4)
    add_scores(store, changed, seed=4)
    done = export(request(layout, store, to, changed))
    assert done.written > 0
    fresh = tmp_path / "fresh"
    export(request(layout, store, fresh, changed))
    assert {name: data for name, (data, _) in state(to).items()} == {
        name: data for name, (data, _) in state(fresh).items()
    }
    if layout in ("pseudo-png", "simrec"):
        assert done.removed == 1


def test_exports_of_two_splits_add_up(store: Store, dataset: RefDataset, tmp_path: Path) -> None:
    for split in dataset.splits():
        export(request("pseudo-png", store, tmp_path / "parts", dataset, splits=(split,)))
    export(request("pseudo-png", store, tmp_path / "whole", dataset))
    assert [*sorted(state(tmp_path / "parts"))] == [*sorted(state(tmp_path / "whole"))]


def test_scores_of_other_proposals_are_refused(store: Store, dataset: RefDataset, tmp_path: Path) -> None:
    other = filled(tmp_path / "store", dataset)
    add_proposals(other, dataset.images(), seed=9)
    with pytest.raises(PrepError, match="belong to other proposals"):
        export(request("pseudo-png", other, tmp_path / "out", dataset))
    shutil.rmtree(tmp_path / "store" / "scores")
    with pytest.raises(PrepError, match="has no scores"):
        export(request("pseudo-png", open_store(tmp_path / "store"), tmp_path / "out", dataset))
    with pytest.raises(PrepError, match="not for the layout"):
        export(request("pseudo-png", store, tmp_path / "out", dataset, masks="truth"))
    with pytest.raises(PrepError, match="not for the layout"):
        export(request("coco", store, tmp_path / "out", dataset, masks="best"))
    with pytest.raises(PrepError, match="neither truth, best nor a folder"):
        export(request("simrec", store, tmp_path / "out", dataset, masks=str(tmp_path / "none")))


def test_a_record_from_outside_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    entry = {"key": "k", "size": 4, "mtime_ns": 1}
    lines = [
        {"file": "../mine.txt", **entry}, {"file": str(tmp_path / "mine.txt"), **entry}, {"file": 3, **entry},
        ["file"], {"file": "a", **entry, "told": {"counts": {"a": "b"}}}, None,
    ]  # fmt: skip
    record = tmp_path / "out" / ".export-coco.jsonl"
    record.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\0\xff\n")
    Output(Exported("coco", tmp_path / "out")).finish()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="not a path below"):
        Output(Exported("coco", tmp_path / "out")).put("../x", b"")


def test_files_of_others_are_never_replaced(data: Path, tmp_path: Path, store: Store) -> None:
    """An export into the data root itself must not replace the annotations that it reads."""
    root = tmp_path / "coco"
    shutil.copytree(data, root)
    before = state(root)
    with pytest.raises(PrepError, match="this export did not write it"):
        export(request("refer", store, root, open_dataset(root, "refcoco")))
    assert state(root) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "instances.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(PrepError, match="this export did not write it"):
        export(Request("coco", store, tmp_path / "out"))
    assert not (tmp_path / "elsewhere.json").exists()


def test_a_file_that_was_being_written_when_the_run_was_killed_is_its_own(tmp_path: Path) -> None:
    killed = Output(Exported("coco", tmp_path)).open("a.json", "key")
    killed.__enter__().write(b"half")
    (tmp_path / "a.json").write_bytes(b"renamed, but not yet recorded")
    assert not killed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    done = Exported("coco", tmp_path)
    again = Output(done)
    assert not again.current("a.json", "key")
    again.put("a.json", b"whole", "key")
    assert (again.finish().written, (tmp_path / "a.json").read_bytes()) == (1, b"whole")


def test_a_folder_that_cannot_be_written_is_explained(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepError, match="could not be written"):
        export(Request("coco", store, tmp_path / "file"))


# Names as users and attackers give them: paths out, control characters, line ends, quotes, long, empty.
NAMES = st.one_of(
    st.sampled_from(
        [
            "../../x", "/etc/x", "a/../../b.jpg", "..", ".", "-rf", "a\nb.jpg", "a\r\nb", "\x01\x7f.png",
            "a\tb", '"<&>\'].jpg', "é" * 200 + ".jpg", "COCO_train2014_a_b.png", "train2014/COCO_1.jpg",
            "a b.jpg",
            "\u2028x.jpg", "\ufeff", "\u202egpj.exe", "名前.jpg", "con", "x" * 300, "a\\b.jpg", "C:/x", "",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
LINES = st.lists(
    st.tuples(NAMES, NAMES, NAMES, NAMES, st.integers(0, 3), st.booleans()), min_size=1, max_size=5
)


def world(folder: Path, lines: list[Any]) -> tuple[Store, Any]:
    """A JSONL file with these names and a store of it; masks have their size, so no image is needed."""
    mask = np.zeros((6, 7), bool)
    mask[1:4, 2:5] = True
    counts = rle.counts_of(mask)
    entries = [
        {
            "sent": f"{text} thing", "image": image, "dataset": dataset, "split_by": split_by,
            "mask": {"size": [6, 7], "counts": counts}, **({"ref_id": ref_id} if given else {}),
        }
        for image, dataset, split_by, text, ref_id, given in lines
    ]  # fmt: skip
    path = folder / "in" / "mine.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))
    dataset = open_jsonl(path)
    store = open_store(folder / "store", create=True)
    add_phrases(store, dataset)
    found = answer([Proposal(counts, 9, (2.0, 1.0, 3.0, 3.0))], 6, 7)
    rows = [make_row(ref, None, found, "random", f"key of {ref.image} 3") for ref in dataset.images()]
    with store.stage("proposals").writer({"generator": "random"}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PROPOSALS))
    add_scores(store, dataset, many=1)
    return store, dataset


def check_formats(out: Path, store: Store) -> None:
    """Every format is whole, and the readers find the images that the store has."""
    images = set(store.stage("proposals").reader().read(["image"])["image"].to_pylist())
    loaded = json.loads((out / "coco" / "instances.json").read_text())
    assert {one["file_name"] for one in loaded["images"]} == images
    assert set(readers.label_studio(out / "labelstudio")) == images
    assert set(readers.cvat(out / "cvat" / "annotations.xml")) <= images
    for refs in (out / "refer").rglob("refs(*).p"):
        assert pickle.loads(refs.read_bytes())
        assert refs.relative_to(out / "refer").parts[0] == "refer"
        assert len(refs.relative_to(out / "refer").parts) == 3
    for path in (out / "reclip").glob("[!.]*.jsonl"):
        detections = json.loads(next(path.parent.glob("*_dets_dict.json")).read_text())
        assert all(json.loads(line)["sentences"] for line in path.read_text().split("\n")[:-1])
        assert all(len(box) == 4 for boxes in detections.values() for box in boxes)
    for path in (out / "triplets").glob("*_triplets.jsonl"):
        assert all(entry["relations"] for entry in readers.triplets(path).values())


@pytest.mark.slow
@settings(max_examples=15)
@given(lines=LINES)
@example([("../../x.jpg", "../../y", "../z", "a", 1, True), ("a\nb.jpg", "a/b", "\x00", "b", 1, False)])
@example(
    [("COCO_train2014_a_b.png", "refcocog", "umd", "red", 1, True), ("é" * 99, "x" * 300, "", "b", 2, True)]
)
def test_no_name_leaves_the_folder_or_breaks_a_format(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    store, dataset = world(folder, lines)
    if not store.stage("proposals").reader().num_rows:
        return
    around = {path for path in folder.rglob("*") if "out" not in path.parts}
    for layout in IN_FOLDER:
        done = export(request(layout, store, folder / "out" / layout, dataset))
        assert (done.held + done.missing) > 0
    assert {path for path in folder.rglob("*") if "out" not in path.parts} == around
    assert {path.name for path in (folder / "out").iterdir()} == set(IN_FOLDER)
    for path in (folder / "out").rglob("*"):
        assert not path.is_symlink()
        assert path.name.isprintable()
        assert os.fsencode(path.name) == path.name.encode()
    check_formats(folder / "out", store)


@given(st.lists(st.one_of(NAMES, st.text(max_size=300)), min_size=1, max_size=20, unique=True))
def test_file_names_are_plain_and_distinct(texts: list[str]) -> None:
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in ("", ".", "..")
        assert name.isprintable()
        assert "/" not in name
        assert len(name.encode()) <= 150
        assert file_name(name) == name or len(name.encode()) > 100
    assert file_name("refcoco+") == "refcoco+"
