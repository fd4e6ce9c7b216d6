"""The identity of an expression is the hash of the canonical JSON that earlier versions hashed."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from prep.cache.keys import row_id

# Every code point, lone surrogates included: what a dataset says is hashed before it is judged.
TEXTS = st.text(alphabet=st.characters(exclude_categories=()), max_size=12)
NUMBERS = st.none() | st.integers(-(1 << 63), (1 << 63) - 1)


@given(TEXTS, TEXTS, NUMBERS, NUMBERS, st.none() | TEXTS, TEXTS, st.integers(0, 9))
def test_an_identity_is_the_hash_of_the_list_as_json(
    dataset: str, split_by: str, ref: int | None, sent: int | None, image: str | None, text: str, number: int
) -> None:
    values = [dataset, split_by, ref, sent, image, text, number]
    said = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
    assert row_id(dataset, split_by, ref, sent, image, text, number) == digest[:32]


def test_an_identity_of_version_0_1_stays() -> None:
    found = row_id("refcoco", "unc", 12, None, "a.jpg", 'the "red" cup', 0)
    assert found == "d9071d3fe681c9bbae35ef9ef5ed26a3"
