"""A synthetic dataset and its store, for every test of the exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.cache.store import Store
from prep.datasets.catalogue import Dataset, open_dataset
from prep.demo.dataset import write
from tests.prep.exports.worlds import filled


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("exports"), images=8)


@pytest.fixture(scope="package")
def dataset(data: Path) -> Dataset:
    return open_dataset(data, "refcoco")


@pytest.fixture(scope="package")
def store(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled(tmp_path_factory.mktemp("exports") / "store", dataset)
