"""croissant.json is valid for mlcroissant, which reads every table of the store through it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pycocotools import mask as coco

from prep.cache.store import open_store
from prep.datasets.catalogue import Dataset
from prep.errors import PrepError
from prep.exports.layouts import export
from prep.exports.request import Request
from tests.prep.exports.worlds import filled


def plain(value: object) -> object:
    """mlcroissant gives texts as bytes, and names of subfields with their path."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, dict):
        return {key.rpartition("/")[2]: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_mlcroissant_reads_every_table(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlcroissant

    store = filled(tmp_path / "store", dataset)
    done = export(Request("croissant", store, tmp_path / "store"))
    assert done.counts["tables"] == 3
    with caplog.at_level(logging.WARNING):
        opened = mlcroissant.Dataset(str(tmp_path / "store" / "croissant.json"))
    assert not opened.metadata.issues.errors
    assert "@context" not in caplog.text
    for table in store.stages():
        key = "image" if table == "proposals" else "row_id"
        rows = {row[key]: row for row in store.stage(table).reader().read().to_pylist()}
        found = [plain(record) for record in opened.records(table)]
        assert len(found) == len(rows)
        for record in found:
            assert isinstance(record, dict)
            row = rows[record[key]]
            assert record.keys() == row.keys()
            assert record["key"] == row["key"]
            if table == "phrases":
                assert record["phrases"] == row["phrases"]
                assert record["ref_id"] == row["ref_id"]
            if table == "proposals":
                assert [mask["counts"] for mask in record["masks"]] == [m["counts"] for m in row["masks"]]
                assert [mask["bbox"] for mask in record["masks"]] == [m["bbox"] for m in row["masks"]]
                assert record["grid32"].encode(errors="surrogateescape") == row["grid32"]
                size = [record["height"], record["width"]]
                areas = [int(coco.area({"size": size, "counts": m["counts"]})) for m in record["masks"]]
                assert areas == [mask["area"] for mask in record["masks"]]
            if table == "scores":
                assert record["scores"] == pytest.approx(row["scores"])
    described = [field for one in opened.metadata.record_sets for field in one.fields]
    assert all(field.description for one in described for field in (one, *one.sub_fields))
    assert open_store(tmp_path / "store").stages() == store.stages()


def test_it_is_written_into_the_store_alone(dataset: Dataset, tmp_path: Path) -> None:
    store = filled(tmp_path / "store", dataset)
    with pytest.raises(PrepError, match="belongs in that folder"):
        export(Request("croissant", store, tmp_path / "elsewhere"))
    with pytest.raises(PrepError, match="whole store"):
        export(Request("croissant", store, tmp_path / "store", dataset))
