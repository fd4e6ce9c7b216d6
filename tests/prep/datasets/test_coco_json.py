"""The element-by-element reader against json.loads, and every kind of wrong file by its message."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.datasets import coco_json as annotations
from prep.datasets.coco_json import (
    integer,
    list_elements,
    read_annotations,
    read_instances,
    read_text,
    sections,
)
from prep.errors import PrepError
from tests.limits import limited

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=3)


def _write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("annotations")


@settings(max_examples=150)
@given(
    st.dictionaries(st.text(max_size=6), values, max_size=3),
    st.lists(objects | values, max_size=4),
    st.lists(objects, max_size=4),
    st.sampled_from([None, 1]),
)
def test_sections_are_what_json_says(
    folder: Path, rest: dict[str, Any], images: list[Any], anns: list[Any], indent: int | None
) -> None:
    whole = {**rest, "images": images, "annotations": anns}
    path = folder / "any.json"
    path.write_text(json.dumps(whole, indent=indent))
    found: dict[str, list[Any]] = {"images": [], "annotations": []}
    for name, value, _ in sections(path, ("images", "annotations")):
        found[name].append(value)
    assert found == {name: [v for v in whole[name] if isinstance(v, dict)] for name in found}
    path.write_text(json.dumps(images))
    assert list(list_elements(path)) == images


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")))
@given(st.data())
@limited()
def test_nothing_but_our_error_escapes_from_damaged_json(folder: Path, data: st.DataObject) -> None:
    whole = {
        "images": data.draw(st.lists(objects, max_size=2)),
        "annotations": data.draw(st.lists(objects, max_size=2)),
    }
    raw = bytearray(json.dumps(whole).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.json"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    for read in (
        lambda: read_instances(path),
        lambda: read_annotations(path, {1}, "segmentation"),
        lambda: list(list_elements(path)),
    ):
        with suppress(PrepError):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not whole JSON"),
        ('{"images": [{"id": 1}', "not whole JSON"),
        ('{"images": [], "annotations": []} x', "Extra data"),
        ("[]", "not whole JSON"),
        ("{}", "no list named annotations or images"),
        ('{"images": 3, "annotations": []}', "not whole JSON"),
        ('{"images": [], "annotations": ' + "[" * 100_000, "not whole JSON"),
        ('{"a": {"b": 1}, "images": []}', "no list named annotations"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
    ],
    ids=["empty", "cut", "extra", "list", "nothing", "number", "deep", "half", "pointer"],
)
def test_a_wrong_file_is_described(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(PrepError, match=message) as caught:
        read_instances(_write(tmp_path / "instances.json", content))
    assert "instances.json" in str(caught.value)


def test_files_too_large_or_not_text_or_absent_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "instances.json"
    with pytest.raises(PrepError, match="missing"):
        read_text(path)
    with pytest.raises(PrepError, match="cannot be read"):
        read_text(tmp_path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(PrepError, match="not UTF-8"):
        read_text(path)
    # A sparse file: ten gigabytes that take no disk, and must take no memory either.
    with path.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(PrepError, match="10,240 MiB"):
        read_instances(path)
    assert annotations.MAX_BYTES < 10 << 30


def test_duplicate_ids_are_ambiguous_only_where_they_differ(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}
    annotation = {"id": 7, "image_id": 1, "segmentation": [[0, 0, 1, 1, 2, 2]]}
    other = {**annotation, "id": 8}
    path = _write(
        tmp_path / "instances.json",
        {
            "images": [image, image, {**image, "id": 2}, {**image, "id": 2, "width": 6}, {"id": None}, 3],
            "annotations": [annotation, annotation, other, {**other, "image_id": 2}],
        },
    )
    found = read_instances(path)
    assert (found.images[1].file_name, found.images[1].height, found.images[1].width) == ("a.jpg", 4, 5)
    assert found.image_of == {7: 1, 8: 1}
    assert found.ambiguous_images == {2}
    assert found.ambiguous_annotations == {8}
    assert read_annotations(path, {7}, "segmentation") == {7: [[0, 0, 1, 1, 2, 2]]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (-1, -1), (3.0, 3), ("12", 12), (" -4 ", -4), (True, None), (3.5, None), (float("nan"), None),
     (float("inf"), None), (1 << 63, None), (-(1 << 63), -(1 << 63)), ("9" * 5000, None), (None, None)],
)  # fmt: skip
def test_integers_are_recognised_as_tables_write_them(value: Any, expected: int | None) -> None:
    assert integer(value) == expected


def test_the_bad_files_of_the_real_data_are_described(shared: Path) -> None:
    bad = shared / "data/bad_inputs/annotations"
    with pytest.raises(PrepError, match="not whole JSON"):
        read_instances(bad / "truncated.json")
    with pytest.raises(PrepError, match="LFS pointer"):
        read_instances(bad / "lfs_pointer_instances.json")
    for name in ("duplicate_ann_id", "missing_image", "wrong_size", "odd_polygon"):
        assert read_instances(bad / f"{name}.json").image_of
