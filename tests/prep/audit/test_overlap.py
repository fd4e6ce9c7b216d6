"""Images and expressions that are trained on and held out: against counts by hand, and by brute force."""

from __future__ import annotations

from difflib import SequenceMatcher

from hypothesis import given
from hypothesis import strategies as st

from prep.audit.overlap import shared, words_of
from prep.records import Expression


def row(dataset: str, split: str, image: str, text: str, at: int = 0, split_by: str = "unc") -> Expression:
    return Expression(f"{dataset}{split}{image}{text}{at}", dataset, split_by, split, 1, at, 1, image, text)


def test_images_of_one_dataset_that_another_holds_out() -> None:
    rows = [
        row("refcoco", "train", "a.jpg", "the man"),
        row("refcoco", "train", "a.jpg", "the dog", 1),
        row("refcoco", "train", "b.jpg", "a cup"),
        row("refcoco", "val", "c.jpg", "a car"),
        row("refcocog", "test", "a.jpg", "the man in the red shirt", split_by="umd"),
        row("refcocog", "train", "c.jpg", "a blue car on a road", split_by="umd"),
    ]
    found = shared(rows)
    assert [(one.train, one.held_out, one.images, one.of) for one in found.overlaps] == [
        ("refcoco unc", "refcocog umd test", 1, 2),
        ("refcocog umd", "refcoco unc val", 1, 1),
    ]
    assert found.held_out == {"a.jpg", "c.jpg"}
    assert found.same_image == found.other_image == []


def test_a_dataset_can_leak_into_itself() -> None:
    """As RefCOCOg's google split does."""
    rows = [
        row("refcocog", "train", "a.jpg", "the tall man"),
        row("refcocog", "val", "a.jpg", "The tall man."),
    ]
    found = shared(rows)
    assert [(one.train, one.held_out) for one in found.overlaps] == [("refcocog unc", "refcocog unc val")]
    (twin,) = found.same_image
    assert (twin.train_text, twin.held_out_text) == ("the tall man", "The tall man.")


def test_long_equal_texts_of_two_images_are_told_and_short_ones_are_not() -> None:
    long = "the man in the red shirt holding a racket"
    rows = [
        row("refcoco", "train", "a.jpg", long),
        row("refcoco", "train", "a.jpg", "left man"),
        row("refcoco", "val", "b.jpg", long.upper()),
        row("refcoco", "val", "b.jpg", "left man"),
    ]
    (twin,) = shared(rows).other_image
    assert (twin.image, twin.held_out_image) == ("a.jpg", "b.jpg")
    same = [row("refcoco", "train", "a.jpg", long), row("refcocog", "val", "a.jpg", long)]
    assert (len(shared(same).same_image), shared(same).other_image) == (1, [])


def test_rows_that_cannot_be_used_are_not_compared() -> None:
    broken = row("refcoco", "train", "a.jpg", "x")
    rows = [
        Expression(*[getattr(broken, name) for name in Expression.__slots__[:-1]], "no image"),
        row("refcoco", "val", "a.jpg", "x"),
    ]
    assert shared(rows).overlaps == []


TEXTS = st.lists(st.sampled_from(["man", "men", "mans", "red", "left", "shirt", "a"]), max_size=4).map(
    " ".join
)


@given(st.lists(st.tuples(st.sampled_from(["train", "val", "testA"]), TEXTS), max_size=8))
def test_twins_of_an_image_are_those_of_brute_force(said: list[tuple[str, str]]) -> None:
    rows = [row("refcoco", split, "a.jpg", text, at) for at, (split, text) in enumerate(said)]

    def alike(first: str, second: str) -> bool:
        return first == second or SequenceMatcher(None, first, second, autojunk=False).ratio() >= 0.9

    texts = [(split, " ".join(words_of(text))) for split, text in said]
    wanted = [
        text
        for split, text in texts
        if split != "train" and text and any(alike(text, own) for kind, own in texts if kind == "train")
    ]
    assert [" ".join(words_of(twin.held_out_text)) for twin in shared(rows).same_image] == wanted
