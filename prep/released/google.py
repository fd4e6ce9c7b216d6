"""Maps the references of RefCOCOg's umd split to those of its google split, by their sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prep.datasets.pickles import load_pickle
from prep.records import Expression

if TYPE_CHECKING:
    from prep.datasets.catalogue import Dataset


def google_ids(dataset: Dataset, references: dict[int, list[Expression]]) -> dict[int, int]:
    """umd ref_id -> google ref_id with the same sent_ids, as the released map was made."""
    path = dataset.root / "refer" / "refcocog" / "refs(google).p"
    if not path.is_file():
        return {}
    entries = load_pickle(path)
    google = {
        tuple(ids): ref.get("ref_id")
        for ref in (entries if isinstance(entries, list) else ())
        if isinstance(ref, dict)
        and isinstance(ids := ref.get("sent_ids", ()), (list, tuple))
        and all(type(sent_id) is int for sent_id in ids)
    }
    found: dict[int, int] = {}
    for ref_id, sentences in references.items():
        twin = google.get(tuple(one.sent_id for one in sentences))
        if isinstance(twin, int):
            found[ref_id] = twin
    return found
