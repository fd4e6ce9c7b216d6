"""Old module paths that the documentation of 0.1 named can still be imported, with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from prep.moved import MOVED

# What README.md and docs/ named in 0.1, with a name that has to be there.
DOCUMENTED = {
    "prep.runner": "prepare",
    "prep.engine": "__doc__",
    "prep.scores": "__doc__",
    "prep.records": "Expression",
    "prep.synthetic": "write",
    "prep.truth": "__doc__",
    "prep.errors": "PrepError",
    "prep.cache": "open_store",
    "prep.cache.store": "open_store",
    "prep.phrases": "decompose",
    "prep.proposals": "propose",
    "pcnet": "load_model",
    "pcnet.opposites": "opposite",
    "pcnet.predict": "predict",
}


@pytest.mark.parametrize(("path", "name"), DOCUMENTED.items())
def test_a_documented_path_can_be_imported(path: str, name: str) -> None:
    assert hasattr(importlib.import_module(path), name)


@pytest.mark.slow
@pytest.mark.parametrize("path", MOVED)
def test_an_old_path_is_the_present_module_and_warns(path: str) -> None:
    assert path in DOCUMENTED
    code = (
        "import warnings, importlib, sys\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    import {path} as old\n"
        f"assert old is importlib.import_module({MOVED[path]!r})\n"
        f"assert any({path!r} in str(warning.message) for warning in caught)\n"
        f"assert sys.modules[{path!r}] is old\n"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


def test_other_absent_modules_are_still_absent() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("prep.nothing")
