"""The four functions of docs/python.md: light to import, and its examples do what they say."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("prep.phrases", "decompose"),
        ("prep.proposals", "propose"),
        ("prep.cache", "open_store"),
        ("pcnet", "load_model"),
    ],
)
def test_importing_a_package_loads_nothing_heavy(package: str, name: str) -> None:
    code = (
        f"import sys, {package} as package\n"
        f"assert {name!r} in package.__all__\n"
        "print(sorted({'torch', 'ray', 'numpy', 'pyarrow', 'numba', 'PIL'} & set(sys.modules)))\n"
        f"assert callable(package.{name}) and package.{name}.__doc__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_do_what_they_say(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcnet.data.tokenizers import WordTokenizer
    from pcnet.model.checkpoint import save_checkpoint
    from pcnet.model.pcnet import PCNet
    from pcnet.recipes import model_config, recipe

    monkeypatch.chdir(tmp_path)
    texts = ["the dog", "the cat on the left"]
    Path("own.jsonl").write_text("".join(json.dumps({"sent": text}) + "\n" for text in texts))
    cli.prep_app(["phrases", "--llm", "rules", "--input", "own.jsonl"], standalone_mode=False)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save("photo.png")
    yard = np.full((60, 80, 3), 230, np.uint8)
    yard[20:40, 10:50] = (200, 30, 30)
    Path("photos").mkdir()
    Image.fromarray(yard).save("photos/yard.png")
    cli.prep_app(
        ["sam", "--generator", "segments", "--images", "photos", "--min-area", "20"], standalone_mode=False
    )
    tokenizer, paper = WordTokenizer.from_texts(texts), recipe("paper")
    model = PCNet(model_config(paper, "tiny", tokenizer.vocabulary), paper)
    save_checkpoint(Path("best.pt"), model, paper, tokenizer)
    failed, tried = doctest.testfile(str(repository / "docs" / "python.md"), module_relative=False)
    assert failed == 0
    assert tried > 10
