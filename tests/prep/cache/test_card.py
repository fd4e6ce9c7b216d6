"""A store with its README.md is opened by everybody's readers as a folder, a config or a stream."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycocotools import mask as coco
from pycocotools.coco import COCO

from prep.cache.card import BEGIN, END, LICENCES, require_card, write_card
from prep.cache.columns import described
from prep.cache.schema import STAGES
from prep.cache.store import Store, open_store
from prep.datasets.catalogue import DATASETS
from prep.errors import PrepError
from tests.prep.cache.test_readers import phrase, proposal
from tests.test_cli import prep

TABLES = ("phrases", "proposals")


def own_store(place: Path) -> None:
    import pyarrow as pa

    opened = open_store(place, create=True)
    for name, make in (("phrases", phrase), ("proposals", proposal)):
        with opened.stage(name).writer({"made": "here"}, commit_seconds=0) as writer:
            for start in range(0, 60, 20):
                rows = [make(number) for number in range(start, start + 20)]
                writer.write(pa.Table.from_pylist(rows, schema=STAGES[name][0]))
    require_card(opened)


def coco_store(place: Path, data: Path) -> None:
    """Real expressions, and the annotated objects of their photos as masks."""
    annotated = COCO(data / "annotations/instances_train2014.json")
    results = [
        {"image_id": one["image_id"], "category_id": 1, "segmentation": rle, "score": 1.0}
        for one in annotated.dataset["annotations"]
        if (rle := annotated.annToRLE(one))
    ]
    for result in results:
        result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
    (place.parent / "results.json").write_text(json.dumps(results))
    prep("phrases", "--llm", "rules", "--data", data, "--dataset", "refcoco", "--out", place)
    prep(
        "import", place.parent / "results.json", "--layout", "coco", "--data", data, "--dataset", "refcoco",
        "--min-area", "1", "--out", place,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["own", "coco"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "prepared"
    if request.param == "own":
        own_store(folder)
    else:
        coco_store(folder, request.getfixturevalue("shared") / "data" / "coco")
    return folder


def wanted(place: Path, name: str) -> list[dict[str, Any]]:
    return open_store(place).stage(name).reader().read().to_pylist()


def by_key(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row[STAGES[name][1]]))


def check(rows: list[dict[str, Any]], place: Path, name: str) -> None:
    """The rows are the store's, and pycocotools decodes their masks."""
    assert by_key(rows, name) == by_key(wanted(place, name), name)
    assert rows
    for row in rows[:5] if name == "proposals" else ():
        for mask in row["masks"]:
            pixels = coco.decode({"size": [row["height"], row["width"]], "counts": mask["counts"]})
            assert int(pixels.sum()) == mask["area"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_hugging_face_by_config(place: Path, name: str, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(place), name, cache_dir=str(tmp_path))
    assert list(loaded) == ["train"]
    check(list(loaded["train"]), place, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_hugging_face_by_folder(place: Path, name: str, tmp_path: Path) -> None:
    import datasets

    folder = str(place / name)
    loaded = datasets.load_dataset("parquet", data_dir=folder, split="train", cache_dir=str(tmp_path))
    check(list(loaded), place, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_hugging_face_as_a_stream(place: Path, name: str) -> None:
    """By config, and from another file system under a URI, as from the Hub's ``hf://``."""
    import datasets
    import fsspec

    stream = datasets.load_dataset(str(place), name, streaming=True, split="train")
    check(list(stream), place, name)
    memory = fsspec.filesystem("memory")
    memory.put(str(place), "/hub/prepared", recursive=True)
    try:
        files = f"memory://hub/prepared/{name}/*.parquet"
        stream = datasets.load_dataset("parquet", data_files=files, streaming=True, split="train")
        check(list(stream), place, name)
    finally:
        memory.rm("/hub", recursive=True)


@pytest.mark.parametrize("name", TABLES)
def test_polars_by_folder(place: Path, name: str) -> None:
    import polars

    check(polars.read_parquet(place / name).to_dicts(), place, name)
    check(polars.scan_parquet(place / name).collect().to_dicts(), place, name)


@pytest.mark.parametrize("name", TABLES)
def test_pandas_by_folder(place: Path, name: str) -> None:
    import pandas

    frame = pandas.read_parquet(place / name)
    key = STAGES[name][1]
    rows = {row[key]: row for row in wanted(place, name)}
    assert sorted(frame[key]) == sorted(rows)
    column = "phrases" if name == "phrases" else "masks"
    for found, values in zip(frame[key], frame[column], strict=True):
        told = [value if isinstance(value, str) else value["counts"] for value in values]
        assert told == [one if isinstance(one, str) else one["counts"] for one in rows[found][column]]


@pytest.mark.parametrize("name", TABLES)
def test_duckdb_by_folder(place: Path, name: str) -> None:
    import duckdb

    found = duckdb.sql(f"select * from read_parquet('{place / name}/*.parquet')")
    check(found.to_arrow_table().to_pylist(), place, name)


def test_pycocotools_and_supervision_by_image(place: Path) -> None:
    import supervision

    store = open_store(place)
    rows = wanted(place, "proposals")
    assert len(rows) > 5
    for row in rows[:12]:
        masks = store.masks(row["image"])
        found = masks.to_supervision()
        assert isinstance(found, supervision.Detections)
        pixels = [coco.decode(rle).astype(bool) for rle in masks]
        assert len(found) == len(pixels) == len(row["masks"])
        for number, mask in enumerate(pixels):
            assert (found.mask[number] == mask).all()


def front(place: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((place / "README.md").read_text().split("---\n")[1]))


def test_the_card_says_what_is_there(place: Path) -> None:
    text = (place / "README.md").read_text()
    assert [one["config_name"] for one in front(place)["configs"]] == list(TABLES)
    for name in TABLES:
        rows = wanted(place, name)
        assert f"| `{name}` | " in text
        assert f" | {len(rows):,} (" in text
        for one in described(STAGES[name][0]):
            assert f"| `{one.name}` | " in text
    counts = {(row["dataset"], row["split_by"], row["split"]) for row in wanted(place, "phrases")}
    for dataset, split_by, split in counts:
        count = sum(row["split"] == split for row in wanted(place, "phrases"))
        assert f"| {dataset} | {split_by} | {split} | {count:,} |" in text
    assert str(place.parent) not in text  # no folder of this machine is published


def test_a_run_writes_it_with_its_sources_and_licences(shared: Path, tmp_path: Path) -> None:
    place = tmp_path / "st"
    prep("phrases", "--llm", "rules", "--data", shared / "data" / "coco", "--out", place)
    text = (place / "README.md").read_text()
    assert "| `phrases` | refcoco/unc | " in text
    assert "Apache-2.0" in text
    assert '"llm": "rules"' in text


def test_what_people_add_stays(tmp_path: Path) -> None:
    place = tmp_path / "prepared"
    own_store(place)
    path, store = place / "README.md", open_store(place)
    ours = path.read_text()
    edited = ours.replace("---\nconfigs:", "---\nlicense: mit\ntags: [a, 'caf\u00e9']\nconfigs:")
    edited = edited.replace(BEGIN, f"# My data\n\n{BEGIN}") + "\n## Thanks\n\nto all.\n"
    path.write_text(edited)
    shutil.rmtree(place / "proposals")
    assert write_card(store)
    after = path.read_text()
    assert front(place)["license"] == "mit"
    assert front(place)["tags"] == ["a", "caf\u00e9"]
    assert [one["config_name"] for one in front(place)["configs"]] == ["phrases"]
    assert f"# My data\n\n{BEGIN}" in after
    assert after.endswith(f"{END}\n\n## Thanks\n\nto all.\n")
    stamp = path.stat().st_mtime_ns
    assert write_card(store)
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "text",
    [
        "# mine\n",
        f"---\na: [\n---\n{BEGIN}\n{END}\n",
        f"---\n- 1\n---\n{BEGIN}{END}",
        "---\n",
        "x" * (2 << 20),
        "\x00",
    ],
)
def test_a_file_of_somebody_else_is_left_and_named(tmp_path: Path, text: str, capsys: Any) -> None:
    place = tmp_path / "prepared"
    own_store(place)
    (place / "README.md").write_text(text)
    assert not write_card(open_store(place))
    with pytest.raises(PrepError, match=r"README\.md was not written by pcnet-prep"):
        require_card(open_store(place))
    (tmp_path / "mine.jsonl").write_text('{"sent": "the dog", "image": "1.png"}\n')
    prep("phrases", "--llm", "rules", "--input", tmp_path / "mine.jsonl", "--out", tmp_path / "st")
    (tmp_path / "st" / "README.md").write_text(text)
    prep("phrases", "--llm", "rules", "--input", tmp_path / "mine.jsonl", "--out", tmp_path / "st")
    assert "is left as it is" in capsys.readouterr().err
    assert (tmp_path / "st" / "README.md").read_text() == text


def test_names_of_data_cannot_write_markup(tmp_path: Path) -> None:
    hostile = "a|b\n# Title <script> [x](http://u:secret@h/) `c`"
    lines = [{"sent": "the dog", "image": "1.png", "split": hostile, "dataset": "``` d"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prep("phrases", "--llm", "rules", "--input", tmp_path / "mine.jsonl", "--out", tmp_path / "st")
    text = (tmp_path / "st" / "README.md").read_text()
    assert "<script>" not in text
    assert "secret" not in text
    assert "\n# Title" not in text
    (line,) = [line for line in text.splitlines() if "Title" in line]
    assert line.replace("\\|", "").count("|") == 5  # the cells of one row


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "prepared"
    own_store(place)
    text = (place / "README.md").read_text()
    (place / "README.md").unlink()
    prep("card", place, "--json")
    assert json.loads(capsys.readouterr().out) == {"card": str(place / "README.md")}
    assert (place / "README.md").read_text() == text


def test_every_dataset_has_a_word_on_its_licence() -> None:
    assert LICENCES.keys() == DATASETS.keys()


def test_no_card_of_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "phrases").mkdir()
    store: Store = open_store(tmp_path)
    assert write_card(store)
    assert front(tmp_path) == {"configs": []}
