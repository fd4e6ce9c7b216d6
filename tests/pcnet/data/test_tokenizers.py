"""Token ids against open_clip's own tokenizer, and the words of the tiny encoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcnet.data.tokenizers import ClipTokenizer, WordTokenizer, from_dict
from prep.errors import PrepError

LONG = " ".join(["the man in the red shirt next to the table"] * 4)
END = 49407


@cache
def open_clips() -> Any:
    import open_clip

    return open_clip.get_tokenizer("RN50")


@pytest.mark.slow
@given(st.lists(st.text(max_size=80), min_size=1, max_size=4), st.integers(3, 77))
@settings(max_examples=60, deadline=None)
def test_ids_are_open_clips(texts: list[str], length: int) -> None:
    assert torch.equal(ClipTokenizer(length)(texts), open_clips()(texts, context_length=length))


def test_a_long_text_keeps_its_end() -> None:
    ids = ClipTokenizer()([LONG, "a cat"])
    assert ids.shape == (2, 20)
    assert ids[0, -1] == END
    assert ids[1].tolist()[:4] == [49406, 320, 2368, END]
    assert not ids[1, 4:].any()


def test_the_released_cut_loses_the_end() -> None:
    tokenizer = ClipTokenizer(released=True)
    ids = tokenizer([LONG, "a cat"])
    assert END not in ids[0].tolist()
    assert torch.equal(ids[1], ClipTokenizer()(["a cat"])[0])
    assert torch.equal(ids[0, :19], ClipTokenizer()([LONG])[0, :19])
    with pytest.raises(PrepError, match="more than CLIP's 77"):
        tokenizer([LONG * 3])


def test_words_are_counted_from_texts() -> None:
    tokenizer = WordTokenizer.from_texts(["The red circle", "red circle's edge", "café"], length=5)
    assert tokenizer.words == ("'", "café", "circle", "edge", "red", "s", "the")
    assert tokenizer.vocabulary == 9
    assert tokenizer(["the RED square", ""]).tolist() == [[8, 6, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert tokenizer(["red " * 9]).tolist() == [[6] * 5]
    assert WordTokenizer.from_texts(["a a b"], minimum=2).words == ("a",)


@given(st.lists(st.text(max_size=30), max_size=5), st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_has_a_word(texts: list[str], text: str) -> None:
    tokenizer = WordTokenizer.from_texts(texts)
    (ids,) = tokenizer([text])
    assert ids[0] != 0
    filled = int((ids != 0).sum())
    assert not ids[filled:].any()
    assert int(ids.max()) < tokenizer.vocabulary


@pytest.mark.parametrize(
    "tokenizer", [ClipTokenizer(12), ClipTokenizer(released=True), WordTokenizer(["a", "cat"], 6)]
)
def test_a_stored_tokenizer_gives_the_same_ids(tokenizer: ClipTokenizer | WordTokenizer) -> None:
    again = from_dict(tokenizer.as_dict())
    assert torch.equal(again([LONG[:60], "a cat"]), tokenizer([LONG[:60], "a cat"]))
    with pytest.raises(PrepError, match="Unknown tokenizer 'bert'"):
        from_dict({"kind": "bert"})
