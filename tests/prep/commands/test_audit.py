"""`pcnet-prep audit` and the file that `pcnet train --exclude` takes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

import cli
from pcnet.data.table import Selection, load_samples
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.inputs import read_lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefCOCO and a RefCOCOg of the same images, which holds out two that RefCOCO trains on."""
    from prep.demo.dataset import write

    place = tmp_path_factory.mktemp("audit")
    made = write(place, images=12, seed=2)
    shutil.copytree(made / "refer" / "refcoco", made / "refer" / "refcocog")
    path = made / "refer" / "refcocog" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        ref["split"] = "test" if ref["image_id"] in (1, 2) else "train"
    path.with_name("refs(umd).p").write_bytes(pickle.dumps(refs, protocol=2))
    path.unlink()
    return made


def audit(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli.prep_app(["audit", "--data", str(root), *words], standalone_mode=False)
    return capsys.readouterr().out


def test_leaks_are_told_and_written(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = audit(root, capsys, "--exclude", str(tmp_path / "held-out.txt"))
    assert "2 of 11 images of refcoco unc train are in refcocog umd test" in told
    assert "1 of 10 images of refcocog umd train are in refcoco unc val" in told
    names = read_lines(tmp_path / "held-out.txt")
    assert names[:2] == [
        "train2014/COCO_train2014_000000000001.jpg",
        "train2014/COCO_train2014_000000000002.jpg",
    ]
    assert len(names) == 3
    found = json.loads(audit(root, capsys, "--json"))
    assert {one["images"] for one in found["overlaps"]} == {1, 2}
    assert len(found["same_image"]) > 0
    alone = json.loads(audit(root, capsys, "--json", "--dataset", "refcoco"))
    assert (alone["datasets"], alone["overlaps"]) == (["refcoco unc"], [])


@pytest.mark.slow
def test_excluded_images_are_not_trained_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ("phrases --llm rules", "sam --generator segments --min-area 20"):
        more = ["--data", str(root), "--dataset", "refcoco", "--store", str(tmp_path / "store")]
        cli.prep_app([*words.split(), *more], standalone_mode=False)
    audit(root, capsys, "--exclude", str(tmp_path / "held-out.txt"))
    words = [
        "train",
        "--store",
        str(tmp_path / "store"),
        "--data",
        str(root),
        "--encoder",
        "tiny",
        "--steps",
        "1",
    ]
    words += ["--recipe", "plus", "--size", "32", "--batch-size", "4", "--stages", "1", "--gpus", "0"]
    words += ["--out", str(tmp_path / "run"), "--exclude", str(tmp_path / "held-out.txt")]
    cli.pcnet_app(words, standalone_mode=False)
    assert "left out: image is in --exclude" in capsys.readouterr().err
    excluded = frozenset(read_lines(tmp_path / "held-out.txt"))
    store = open_store(tmp_path / "store")
    table = load_samples(store, Selection("refcoco", "train", exclude=excluded))
    whole = load_samples(store, Selection("refcoco", "train"))
    assert not excluded & set(table.images)
    assert table.skipped["image is in --exclude"] == len(whole) - len(table) > 0
    with pytest.raises(PrepError, match="No usable sample"):
        load_samples(store, Selection("refcoco", "train", exclude=frozenset(whole.images)))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--data", "nowhere"], "no dataset"),
        (["--dataset", "grefcoco"], "grefcoco"),
        (["--dataset", "refcoco", "--split-by", "google"], "refs\\(google\\)"),
        (["--exclude", "nowhere/x.txt"], "could not be written"),
    ],
)
def test_what_is_missing_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrepError, match=match):
        cli.prep_app(["audit", "--data", str(root), *words], standalone_mode=False)


def test_the_list_is_text_with_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa b.jpg\r\n\n#c.jpg\nd")
    assert read_lines(path) == ["a b.jpg", "#c.jpg", "d"]
    path.write_bytes(b"\xff\xfea\0b\0")
    with pytest.raises(PrepError):
        read_lines(path)
    with pytest.raises(PrepError, match="cannot be read"):
        read_lines(tmp_path / "none.txt")
