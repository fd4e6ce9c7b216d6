"""The readers on trees made here and on the real data: every row has one identity, every fault a reason."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.datasets import jsonl
from prep.datasets.catalogue import DATASETS, open_dataset, open_image_folder, open_jsonl
from prep.demo.dataset import write
from prep.errors import PrepError
from prep.records import DATASET_NAMES, Expression
from tests.limits import limited

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]


def _sentence(number: int | None, text: str) -> dict[str, Any]:
    return {"sent_id": number, "sent": text, "raw": text, "tokens": text.split()}


def _ref(
    number: int, image: int = 1, ann: Any = 10, split: str = "train", texts: tuple[str, ...] = ("a cup",)
) -> Any:
    sentences = [_sentence(100 * number + at, text) for at, text in enumerate(texts)]
    return {
        "ref_id": number,
        "image_id": image,
        "ann_id": ann,
        "category_id": 1,
        "split": split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
    }


def _instances() -> dict[str, Any]:
    images = [
        {"id": at, "file_name": f"COCO_train2014_{at:012d}.jpg", "height": 8, "width": 8} for at in (1, 2, 3)
    ]
    annotations = [
        {"id": at * 10, "image_id": at, "segmentation": SQUARE, "category_id": 1} for at in (1, 2, 3)
    ]
    return {"images": images, "annotations": annotations, "categories": []}


def _tree(root: Path, refs: Any, name: str = "refcoco", author: str = "unc", instances: Any = None) -> Path:
    folder = root / "refer" / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "grefcoco":
        (folder / f"grefs({author}).json").write_text(json.dumps(refs))
    else:
        (folder / f"refs({author}).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(json.dumps(_instances() if instances is None else instances))
    return root


def _rows(root: Path, refs: Any, **how: Any) -> list[Expression]:
    return list(open_dataset(_tree(root, refs, **how), how.get("name", "refcoco")).expressions())


def test_rows_carry_what_the_files_say(tmp_path: Path) -> None:
    rows = _rows(tmp_path, [_ref(5, 2, 20, "testA", ("Left  cup", "it"))])
    first = rows[0]
    assert (first.dataset, first.split_by, first.split, first.ref_id, first.sent_id) == (
        "refcoco",
        "unc",
        "testA",
        5,
        500,
    )
    assert (first.image_id, first.image) == (2, "train2014/COCO_train2014_000000000002.jpg")
    assert [row.text for row in rows] == ["Left  cup", "it"]
    assert all(not row.problem for row in rows)


def test_splits_select_and_unknown_ones_are_refused_with_those_there(tmp_path: Path) -> None:
    data = _tree(
        tmp_path, [_ref(1, split="val"), _ref(2, 2, 20), _ref(3, split="testB"), _ref(4, split="odd")]
    )
    dataset = open_dataset(data, "refcoco")
    assert dataset.splits() == ["train", "val", "testB", "odd"]
    assert [row.ref_id for row in dataset.expressions(["val", "testB"])] == [1, 3]
    assert [image.image_id for image in dataset.images(["train", "val"])] == [1, 2]
    assert [image.path for image in dataset.images(["train"])] == [
        str(tmp_path / "train2014/COCO_train2014_000000000002.jpg")
    ]
    for call in (dataset.expressions, dataset.images):
        with pytest.raises(PrepError, match="no split 'valid'") as caught:
            call(["val", "valid"])
        assert "train, val, testB, odd" in caught.value.remedy


def test_equal_entries_have_identities_of_their_own_whatever_is_selected(tmp_path: Path) -> None:
    twin = _ref(1, texts=("cup", "cup"))
    for sentence in twin["sentences"]:
        sentence["sent_id"] = None
    refs = [twin, {**twin, "split": "val"}, _ref(2, texts=("cup",))]
    rows = _rows(tmp_path, refs)
    assert len({row.row_id for row in rows}) == len(rows) == 5
    chosen = list(open_dataset(tmp_path, "refcoco").expressions(["val"]))
    assert [row.row_id for row in chosen] == [row.row_id for row in rows if row.split == "val"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 9}, "image 9 is not in instances.json"),
        ({"image_id": None}, "no image_id"),
        ({"ann_id": 77}, "annotation 77 is not in instances.json"),
        ({"ann_id": 20}, "belongs to image 2"),
        ({"ann_id": None}, "no usable ann_id"),
        ({"ann_id": "x"}, "no usable ann_id"),
        ({"sentences": []}, "no sentences"),
        ({"sentences": 4}, "no sentences"),
        ({"sentences": [{"sent": None, "sent_id": 1}]}, "no text"),
        ({"sentences": ["a cup"]}, "no text"),
        ({"sentences": [_sentence(1, "")]}, "empty"),
        ({"sentences": [_sentence(1, " \t\n\0")]}, "empty"),
    ],
)  # fmt: skip
def test_a_faulty_entry_becomes_a_row_with_its_reason(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows = _rows(tmp_path, [{**_ref(1), **change}, _ref(2)])
    assert [bool(row.problem) for row in rows] == [True, False]
    assert reason in rows[0].problem


def test_an_entry_that_is_no_reference_becomes_a_row_too(tmp_path: Path) -> None:
    rows = _rows(tmp_path, [3, _ref(2)])
    assert "entry 0 is a int" in rows[0].problem
    assert not rows[1].problem


def test_ambiguous_ids_are_named(tmp_path: Path) -> None:
    instances = _instances()
    instances["images"].append({**instances["images"][1], "width": 9})
    instances["annotations"].append({**instances["annotations"][2], "bbox": [0, 0, 1, 1]})
    refs = [
        _ref(1),
        _ref(1, 1, 10, texts=("again",)),
        _ref(2, 2, 20),
        _ref(3, 3, 30),
        _ref(4),
        _ref(4, 2, 20),
    ]
    problems = [row.problem for row in _rows(tmp_path, refs, instances=instances)]
    assert problems[:2] == ["", ""]
    assert "image 2 is in instances.json twice" in problems[2]
    assert "annotation 30 is in instances.json twice" in problems[3]
    assert all("different references" in problem or "twice" in problem for problem in problems[4:])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "C:\\x.jpg"])
def test_file_names_never_leave_the_image_folder(tmp_path: Path, name: str) -> None:
    instances = _instances()
    instances["images"][0]["file_name"] = name
    data = _tree(tmp_path, [_ref(1), _ref(2, 2, 20)], instances=instances)
    dataset = open_dataset(data, "refcoco")
    first, second = dataset.expressions()
    assert first.image is None
    assert "leaves the image folder" in first.problem
    assert [image.image for image in dataset.images()] == [second.image]


def test_text_is_made_valid_unicode(tmp_path: Path) -> None:
    (row,) = _rows(tmp_path, [_ref(1, texts=("a\ud800\0b",))])
    assert row.text == "a\ufffd\ufffdb"
    assert row.text.encode()


def test_grefcoco_has_several_targets_or_none(tmp_path: Path) -> None:
    instances = _instances()
    instances["annotations"].append({"id": 11, "image_id": 1, "segmentation": SQUARE})
    none = {**_ref(3, ann=[-1]), "no_target": True, "category_id": [-1]}
    data = _tree(
        tmp_path, [_ref(1, ann=[10, 11]), _ref(2, ann=[10]), none], name="grefcoco", instances=instances
    )
    dataset = open_dataset(data, "grefcoco")
    assert [row.problem for row in dataset.expressions()] == ["", "", ""]
    assert dataset.targets == {1: (10, 11), 2: (10,), 3: ()}


def test_refclef_images_lie_in_a_folder_per_thousand_and_share_test_sets(tmp_path: Path) -> None:
    instances = {
        "images": [{"id": 19579, "file_name": "19579.jpg", "height": 8, "width": 8}],
        "annotations": [{"id": 1, "image_id": 19579, "segmentation": []}],
    }
    refs = [_ref(at, 19579, 1, split) for at, split in enumerate(("train", "testA", "testAB", "testBC"))]
    dataset = open_dataset(_tree(tmp_path, refs, name="refclef", instances=instances), "refclef")
    assert next(dataset.images()).image == "saiapr_tc-12/19/images/19579.jpg"
    assert [row.split for row in dataset.expressions(["testA"])] == ["testA", "testAB"]
    assert [row.split for row in dataset.expressions(["testC"])] == ["testBC"]


def test_the_split_authors_are_looked_for_in_order(tmp_path: Path) -> None:
    data = _tree(tmp_path, [_ref(1)], name="refcocog", author="google")
    assert open_dataset(data, "refcocog").split_by == "google"
    _tree(tmp_path, [_ref(1)], name="refcocog", author="umd")
    assert open_dataset(data, "refcocog").split_by == "umd"
    assert open_dataset(data, "refcocog", "google").split_by == "google"
    with pytest.raises(PrepError, match=r"no refs\(berkeley\)\.p") as caught:
        open_dataset(data, "refcocog", "berkeley")
    assert "refs(google).p, refs(umd).p" in caught.value.remedy


def test_a_wrong_place_says_what_was_looked_for(tmp_path: Path) -> None:
    data = _tree(tmp_path / "coco", [_ref(1)])
    for given_path, name, message in (
        (tmp_path / "none", "refcoco", "is not a folder"),
        (data, "refcocog", "contains: refcoco"),
        (data / "refer", "refcoco", f"--data {data}"),
        (data / "refer" / "refcoco", "refcoco", f"--data {data}"),
        (tmp_path, "refcoco", "no refer/ folder"),
        (data, "refcoc0", "Did you mean"),
    ):
        with pytest.raises(PrepError) as caught:
            open_dataset(given_path, name)
        assert message in str(caught.value)
    (data / "refer/refcoco/instances.json").unlink()
    with pytest.raises(PrepError, match=r"instances\.json is missing"):
        list(open_dataset(data, "refcoco").expressions())
    with pytest.raises(PrepError, match=r"instances\.json"):
        open_dataset(data, "refcoco").inputs()
    (data / "refer/refcoco/refs(unc).p").write_bytes(pickle.dumps({"refs": []}))
    with pytest.raises(PrepError, match="contains a dict"):
        open_dataset(data, "refcoco").splits()


def test_inputs_are_hashed_under_their_names(tmp_path: Path) -> None:
    dataset = open_dataset(_tree(tmp_path, [_ref(1)]), "refcoco")
    assert set(dataset.inputs()) == {"refer/refcoco/refs(unc).p", "refer/refcoco/instances.json"}
    before = dataset.inputs()
    _tree(tmp_path, [_ref(2)])
    after = dataset.inputs()
    assert before["refer/refcoco/refs(unc).p"] != after["refer/refcoco/refs(unc).p"]
    assert before["refer/refcoco/instances.json"] == after["refer/refcoco/instances.json"]


def _lines(path: Path, *lines: Any) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


def test_jsonl_rows_have_documented_defaults(tmp_path: Path) -> None:
    path = _lines(
        tmp_path / "mine.jsonl",
        {"sent": "a cup"},
        "",
        {"sent": "a cup", "image": "./x//y.jpg", "image_id": "4", "ref_id": 2.0, "sent_id": 3, "split": "val",
         "split_by": "me", "dataset": "other", "unknown": [1]},
    )  # fmt: skip
    dataset = open_jsonl(path)
    bare, full = dataset.expressions()
    assert (bare.dataset, bare.split_by, bare.split, bare.image, bare.ref_id) == (
        "mine",
        "",
        "train",
        None,
        None,
    )
    assert (full.dataset, full.split_by, full.split, full.image) == ("other", "me", "val", "x/y.jpg")
    assert (full.image_id, full.ref_id, full.sent_id) == (4, 2, 3)
    assert dataset.splits() == ["train", "val"]
    assert [(image.image, image.path) for image in dataset.images()] == [
        ("x/y.jpg", str(tmp_path / "x/y.jpg"))
    ]
    assert [row.row_id for row in dataset.expressions(["val"])] == [full.row_id]
    with pytest.raises(PrepError, match="no split 'test'"):
        dataset.expressions(["test"])
    assert set(dataset.inputs()) == {"mine.jsonl"}


def test_a_bad_line_is_a_row_with_its_number(tmp_path: Path) -> None:
    path = _lines(
        tmp_path / "a.jsonl",
        {"sent": "ok"},
        "{broken",
        "[1]",
        {"text": 1},
        {"sent": ""},
        {"sent": "x", "image": "../y"},
    )
    rows = list(open_jsonl(path).expressions())
    for row, reason in zip(
        rows,
        ["", "line 2 is not JSON", "line 3 is a list", "line 4 has no text", "empty", "line 6: the image"],
        strict=True,
    ):
        assert row.problem.startswith(reason) or reason in row.problem
        assert bool(row.problem) == bool(reason)
    assert len({row.row_id for row in rows}) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x89PNG\r\n", "line 1 is not JSON"), (b"[\n1]", "line 1"), (b"version https://git-lfs", "LFS"),
     ('{"sent": "a"}'.encode("utf-16"), "UTF-16"), (b'"text"', "line 1 is a str")],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(PrepError, match=message):
        list(open_jsonl(path).expressions())


def test_jsonl_survives_marks_long_lines_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = b'{"sent": "' + b"x" * (17 << 20) + b'"}\r\n'
    path.write_bytes(
        b'\xef\xbb\xbf{"sent": "first"}\r\n' + long + b'{"sent": "caf\xe9"}\n{"sent": "last", "mask": []}'
    )
    rows = list(open_jsonl(path).expressions())
    assert [row.text for row in rows] == ["first", "", "", "last"]
    assert rows[2].problem == "line 3 is not UTF-8 text (byte 0xe9 at 13; perhaps cp1252)"
    assert "line 2 is longer than 16 MiB" in rows[1].problem
    dataset = open_jsonl(path)
    ((identity, offset),) = dataset.mask_offsets().items()
    assert identity == rows[3].row_id
    assert dataset.entry_at(offset)["sent"] == "last"


def test_the_longest_jsonl_line_is_read_and_one_byte_more_costs_that_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE", 64)  # its end is counted
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"sent": "x" * (size - 13)}) + "\n" for size in (64, 65, 66, 130, 63, 65)]
    assert [len(line) for line in lines] == [64, 65, 66, 130, 63, 65]
    path.write_text("".join(lines)[:-1])  # the last one has no end, and so 64 bytes
    rows = list(open_jsonl(path).expressions())
    assert [row.problem.partition(" is ")[2][:6] for row in rows] == [
        "",
        "longer",
        "longer",
        "longer",
        "",
        "",
    ]
    dataset = open_jsonl(path)
    offset = sum(map(len, lines[:4]))
    assert dataset.entry_at(0) == json.loads(lines[0])
    assert dataset.entry_at(offset) == json.loads(lines[4])


def test_a_million_rows_would_be_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text('{"sent": "same"}\n' * 20_000)
    stream = open_jsonl(path).expressions()
    first = next(stream)
    with path.open("a") as file:
        file.write('{"sent": "written after the reading began"}\n')
    rest = list(stream)
    assert rest[-1].text == "written after the reading began"
    assert len({first.row_id, *(row.row_id for row in rest)}) == 20_001


def test_missing_jsonl_and_image_root_are_named(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"none\.jsonl is not a file"):
        open_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(PrepError, match="image root"):
        open_jsonl(_lines(tmp_path / "a.jsonl", {"sent": "a"}), tmp_path / "none")


def test_a_folder_of_images_is_listed_by_path(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/2.png", "a/1.webp", "a/notes.txt", ".hidden/x.jpg", "a/.x.jpg", "c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    folder = open_image_folder(tmp_path)
    assert [image.image for image in folder.images()] == ["a/1.webp", "a/2.png", "b.JPG", "c.jpeg"]
    assert all(Path(image.path).is_file() for image in folder.images())
    with pytest.raises(PrepError, match="no splits"):
        folder.images(["train"])
    with pytest.raises(PrepError, match="not a folder"):
        open_image_folder(tmp_path / "b.JPG")


def test_linked_folders_are_listed_once_and_loops_noticed(tmp_path: Path) -> None:
    for name in ("disk/1.png", "disk/deep/2.png", "photos/real/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photos = tmp_path / "photos"
    (photos / "disk").symlink_to(tmp_path / "disk")
    (photos / "other").symlink_to(tmp_path / "disk")  # listed as disk/ already
    (photos / "again").symlink_to(photos / "real")
    (tmp_path / "disk/up").symlink_to(photos)
    (tmp_path / "disk/deep/self").symlink_to("self")
    (photos / "real/here").symlink_to(".")
    (photos / "gone").symlink_to(tmp_path / "none")
    folder = open_image_folder(photos)
    names = ["again/3.png", "disk/1.png", "disk/deep/2.png", "real/3.png"]
    assert [image.image for image in folder.images()] == names
    links = "links to a folder that is listed under another name"
    assert folder.left_out == {links: 4, "files without a suffix": 2}


def test_linked_folders_that_multiply_are_listed_in_time(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / f"real/{level}").mkdir(parents=True)
        for way in "ab":
            (tmp_path / f"real/{level}/{way}").symlink_to(f"../{level + 1}")
    (tmp_path / "real/29/1.png").touch()
    assert len(list(open_image_folder(tmp_path).images())) == 2  # by its own name and one by links


def test_what_a_folder_left_out_is_counted(tmp_path: Path) -> None:
    for name in (
        "a.avif",
        "b.jfif",
        "c.jp2",
        "d.ppm",
        "e.JPE",
        "12:30.png",
        "f.heic",
        "g.HEIC",
        "h.txt",
        "raw",
        ".i",
    ):
        (tmp_path / name).touch()
    folder = open_image_folder(tmp_path)
    assert [image.image for image in folder.images()] == [
        "12:30.png",
        "a.avif",
        "b.jfif",
        "c.jp2",
        "d.ppm",
        "e.JPE",
    ]
    assert folder.left_out == {
        "*.heic": 2, "*.txt": 1, "files without a suffix": 1, "hidden files and folders": 1,
    }  # fmt: skip


def test_a_name_that_is_not_utf8_is_one_image_with_a_reason(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (tmp_path / "good.jpg").touch()
    bad, good = open_image_folder(tmp_path).images()
    assert (bad.image, good.image) == ("caf\\xe9.jpg", "good.jpg")
    assert "not UTF-8" in bad.problem
    assert not good.problem


def test_images_that_names_refuse_are_counted(tmp_path: Path) -> None:
    instances = _instances()
    for image, name in zip(
        instances["images"], ["train2014/x.jpg", "images\\y.jpg", "../z.jpg"], strict=True
    ):
        image["file_name"] = name
    refs = [_ref(at, at, at * 10) for at in (1, 2, 3)]
    dataset = open_dataset(_tree(tmp_path, refs, instances=instances), "refcoco")
    assert [image.image for image in dataset.images()] == ["train2014/x.jpg"]
    assert list(dataset.left_out.values()) == [1, 1]
    assert [bool(row.problem) for row in dataset.expressions()] == [False, True, True]
    lines = open_jsonl(
        _lines(
            tmp_path / "a.jsonl", {"sent": "a"}, {"sent": "b", "image": "a\\b.jpg"}, {"sent": "c", "image": 7}
        )
    )
    assert list(lines.images()) == []
    assert list(lines.left_out.values()) == [2]
    assert "has a backslash" in list(lines.expressions())[1].problem


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("x.jpg", "train2014/x.jpg"),
        ("train2014/x.jpg", "train2014/x.jpg"),
        ("./train2014//x.jpg", "train2014/x.jpg"),
        ("images/train2014/x.jpg", "train2014/x.jpg"),
        ("val2014/x.jpg", "val2014/x.jpg"),
        ("part1/x.jpg", "train2014/part1/x.jpg"),
        ("mytrain2014/x.jpg", "train2014/mytrain2014/x.jpg"),
    ],
)
def test_folders_in_file_names_are_those_of_the_tree(tmp_path: Path, name: str, path: str) -> None:
    (tmp_path / "val2014").mkdir()
    instances = _instances()
    instances["images"][0]["file_name"] = name
    (row,) = _rows(tmp_path, [_ref(1)], instances=instances)
    assert row.image == path


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("the man&#39;s hat", "the man's hat"),
        ("dog &amp; cat", "dog & cat"),
        ("dog &amp;amp; cat", "dog & cat"),
        ("a &quot;red&quot; caf&eacute; &#x1F600;", 'a "red" café 😀'),
        ("<b>red cup</b>", "red cup"),
        ("the <span class='x'>red</span><br/>cup", "the  red  cup"),
        ("AT&T sign, R&D; <3 apples", "AT&T sign, R&D; <3 apples"),
        ("the cup <left> of 1 < 2 > 0", "the cup <left> of 1 < 2 > 0"),
        ("cats&not dogs", "cats&not dogs"),
        ("a &#0; b &#xD800; c &nothing; d", "a &#0; b &#xD800; c &nothing; d"),
    ],
)
def test_expressions_are_read_as_a_page_shows_them(tmp_path: Path, raw: str, text: str) -> None:
    (row,) = open_jsonl(_lines(tmp_path / "a.jsonl", {"sent": raw})).expressions()
    assert row.text == text
    (row,) = _rows(tmp_path, [_ref(1, texts=(raw,))])
    assert row.text == text


def test_a_line_in_another_encoding_is_a_row_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        '{"sent": "左边的杯子"}\n'.encode("gbk") + b'{"sent": "the caf\xe9"}\n{"sent": "left"}\n'
    )
    first, second, third = open_jsonl(path).expressions()
    assert first.problem.startswith("line 1 is not UTF-8 text")
    assert "GBK" in first.problem
    assert "cp1252" in second.problem
    assert (third.text, third.problem) == ("left", "")
    assert "\ufffd" not in first.text + second.text


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fuzz"), images=2)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([1, 10, "val", "..", -1]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["sent", "sent_id", "raw"]), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(["ref_id", "image_id", "ann_id", "split", "sentences", "file_name", "no_target"])
entries = st.dictionaries(names, values, max_size=6) | values


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")))
@given(st.lists(entries, max_size=4), st.lists(entries, max_size=3), st.lists(entries, max_size=3))
@limited()
def test_nothing_but_our_error_escapes_from_odd_entries(
    fuzzed: Path, refs: Any, images: Any, anns: Any
) -> None:
    odd = {"images": images, "annotations": anns}
    with suppress(PrepError):
        rows = _rows(fuzzed, refs, instances=odd)
        assert len({row.row_id for row in rows}) == len(rows)
        for row in rows:
            row.text.encode()
            row.split.encode()
        list(open_dataset(fuzzed, "refcoco").images())


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")))
@given(st.lists(st.binary(max_size=30) | entries.map(lambda value: json.dumps(value).encode()), max_size=6))
@limited()
def test_nothing_but_our_error_escapes_from_odd_lines(fuzzed: Path, lines: list[bytes]) -> None:
    path = fuzzed / "odd.jsonl"
    path.write_bytes(b"\n".join(lines))
    with suppress(PrepError):
        rows = list(open_jsonl(path).expressions())
        assert len({row.row_id for row in rows}) == len(rows)
        list(open_jsonl(path).images())


def test_the_real_tree_is_read_whole(shared: Path) -> None:
    data = shared / "data/coco"
    for name, author, count, splits in (
        ("refcoco", "unc", 59, ["train", "val", "testB"]),
        ("refcocog", "google", 8, ["val"]),
        ("grefcoco", "unc", 6, ["testB"]),
    ):
        dataset = open_dataset(data, name)
        rows = list(dataset.expressions())
        assert (dataset.split_by, len(rows), dataset.splits()) == (author, count, splits)
        assert all(not row.problem for row in rows)
        assert len({row.row_id for row in rows}) == count
        assert all(Path(image.path).is_file() for image in dataset.images())
    assert set(DATASETS) == {"refcoco", "refcoco+", "refcocog", "grefcoco", "refclef"}
    assert tuple(DATASETS) == DATASET_NAMES


def test_the_real_expressions_have_distinct_identities(shared: Path) -> None:
    rows = list(open_jsonl(shared / "data/expressions.jsonl").expressions())
    assert len(rows) == len({row.row_id for row in rows}) == 20_970
    assert not any(row.problem for row in rows)
    edge = list(open_jsonl(shared / "data/bad_inputs/expressions_edge.jsonl").expressions())
    assert len({row.row_id for row in edge}) == 43
    assert sum(bool(row.problem) for row in edge) == 3
