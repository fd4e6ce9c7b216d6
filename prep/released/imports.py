"""Reads the released PCNet tree into a store: its phrases, and its ranked proposals as scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prep.cache.keys import canonical_json
from prep.datasets.identity import clean_text
from prep.datasets.object_npy import load_object_npy
from prep.engine.local import Engine
from prep.engine.runner import Summary, run_stage
from prep.errors import PrepError
from prep.inputs import read_plain
from prep.phrases.checks import violations
from prep.phrases.stage import row
from prep.records import Expression, PhraseSet
from prep.released.tree import MASKS_FOLDER, PHRASES, PHRASES_FOLDER, UMD_TO_GOOGLE, candidates_file, once
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.store import StageReader, Store
    from prep.datasets.catalogue import Dataset

SOURCE = "import"
MAX_TEXT = 1 << 24  # bytes of the phrases of one reference


class Sentence(NamedTuple):
    """An expression, its reference's file, the ids of the reference's sentences, and its index among them."""

    expression: Expression
    file: str
    sent_ids: tuple[int | None, ...]
    place: int


class OfficialPhrases:
    """:class:`Sentence` items to rows of the phrases table, read from ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resources = Resources()

    def open(self) -> None:
        """Does nothing."""

    def load(self, unit: list[Sentence]) -> list[tuple[Sentence, Any]]:
        """Each sentence with the content of its file, or the reason why there is none; each file is read
        once.
        """
        contents = {file: _content(self.folder / file) for file in {one.file for one in unit}}
        return [(one, contents[one.file]) for one in unit]

    def process(self, loaded: list[tuple[Sentence, Any]]) -> pa.Table:
        """The unit's rows."""
        import pyarrow as pa

        from prep.cache.schema import PHRASES as COLUMNS

        return pa.Table.from_pylist([self._row(*one) for one in loaded], schema=COLUMNS)

    def _row(self, sentence: Sentence, content: Any) -> dict[str, Any]:
        item = sentence.expression
        phrases, problem = phrases_of(sentence, content)
        problem = item.problem or problem
        found = None if problem else PhraseSet(tuple(phrases), SOURCE, violations(item.text, phrases))
        key = hashlib.sha256(
            canonical_json([item.text, phrases]).encode("utf-8", "surrogatepass")
        ).hexdigest()
        return row(item, found, llm=SOURCE, prompt_version=None, key=key, error=problem)


def phrases_of(sentence: Sentence, content: Any) -> tuple[list[str], str]:
    """A sentence's phrases without repetition, or the reason why there are none.

    The released class ignores the keys and uses the lists in order. Here, a file whose keys are the
    reference's sentence ids is read by key, any other in order.
    """
    if isinstance(content, str):
        return [], content
    names = [str(one) for one in sentence.sent_ids]
    lists = list(content.values())
    if len(set(names)) == len(names) and set(content) == set(names):
        found = content[names[sentence.place]]
    elif len(lists) >= len(names):
        found = lists[sentence.place]
    else:
        return [], f"{sentence.file} contains {len(lists)} lists of phrases for {len(names)} sentences"
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return [], f"{sentence.file} contains something other than phrases for sentence {sentence.place}"
    phrases = once([text for one in found[:PHRASES] if (text := clean_text(one).strip())])
    return phrases, "" if phrases else f"{sentence.file} contains no phrases for sentence {sentence.place}"


def _content(path: Path) -> Any:
    try:
        content = json.loads(read_plain(path, MAX_TEXT))
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"{path.name} could not be read: {error}"
    return content if isinstance(content, dict) else f"{path.name} contains no lists of phrases"


def import_phrases(
    folder: Path,
    dataset: Dataset,
    store: Store,
    *,
    splits: Collection[str] | None = None,
    replace: bool = False,
) -> Summary:
    """Import the phrases of the released tree ``folder`` (``.../refer/<dataset>``) into ``store``."""
    texts = folder / PHRASES_FOLDER
    if not texts.is_dir():
        raise PrepError(
            f"{folder} has no {PHRASES_FOLDER}.", "Give the folder that contains it, refer/<dataset>."
        )
    settings = {"llm": SOURCE, "layout": "official"}
    total = sum(1 for _ in dataset.expressions(splits))
    with store.stage("phrases").writer(settings, replace=replace, inputs=dataset.inputs()) as writer:
        return run_stage(
            Engine(OfficialPhrases(texts)),
            sentences(folder, dataset, splits),
            key=lambda item: item.expression.row_id,
            writer=writer,
            unit_size=512,
            total=total,
        )


def sentences(folder: Path, dataset: Dataset, splits: Collection[str] | None) -> Iterator[Sentence]:
    """Every expression of ``dataset`` with its position in its reference's file."""
    names: dict[int, int] = {}
    if (dataset.name, dataset.split_by) == ("refcocog", "umd") and (folder / UMD_TO_GOOGLE).is_file():
        names = load_object_npy(folder / UMD_TO_GOOGLE)
        if not isinstance(names, dict) or not all(type(name) is int for name in names.values()):
            raise PrepError(
                f"{UMD_TO_GOOGLE} contains no dict of numbers.", "Check that it is the right file."
            )
    for ref_id, group in groupby(dataset.expressions(splits), key=lambda one: one.ref_id):
        expressions = list(group)
        file = f"{names.get(ref_id, ref_id) if ref_id is not None else None}.json"
        sent_ids = tuple(one.sent_id for one in expressions)
        for place, expression in enumerate(expressions):
            yield Sentence(expression, file, sent_ids, place)


def import_scores(folder: Path, dataset: Dataset, store: Store, *, replace: bool = False) -> int:
    """Import the ranking of the released tree's candidates into ``store`` as scores; returns the number of
    rows.

    The proposals must already be in the store (``pcnet-prep import --layout official``). They are matched by
    their masks, since a selection may have dropped or reordered them; masks that the store lacks are skipped.
    """
    candidates = load_object_npy(folder / candidates_file(dataset.split_by))
    if not isinstance(candidates, dict):
        raise PrepError(f"{candidates_file(dataset.split_by)} contains no dict of references.")
    wanted: dict[str, list[Sentence]] = {}
    for one in sentences(folder, dataset, None):
        if one.expression.image and one.expression.ref_id in candidates and not one.expression.problem:
            wanted.setdefault(one.expression.image, []).append(one)
    written = 0
    proposals = store.require_table("proposals", "pcnet-prep import --layout official")
    settings = {"model": SOURCE, "layout": "official", "proposals": proposals.fingerprint}
    with store.stage("scores").writer(settings, replace=replace) as writer:
        for stored in _stored(proposals, set(wanted)):
            order = _order(folder, stored)
            table = _score_table(stored, order, wanted[stored["image"]], candidates)
            if len(table):
                writer.write(table)
                written += len(table)
    return written


def _stored(proposals: StageReader, wanted: set[str]) -> Iterator[dict[str, Any]]:
    for batch in proposals.batches(["image", "height", "width", "masks", "key", "status"]):
        for at, image in enumerate(batch.column(0).to_pylist()):
            if image in wanted:
                values = batch.slice(at, 1).to_pylist()[0]
                if values["status"] == "ok":
                    yield values


def _order(folder: Path, stored: dict[str, Any]) -> list[int]:
    """For every stored mask its index among the file's 40; empty if they are not the file's masks."""
    from prep.masks import rle
    from prep.proposals.mask_arrays import BadMasks, array_runs

    path = folder / MASKS_FOLDER / f"{PurePosixPath(stored['image']).stem}.npy"
    try:
        masks = array_runs(path, stored["height"], stored["width"])
    except BadMasks:
        return []
    places: dict[str, int] = {}
    for place, runs in enumerate(masks):
        places.setdefault(rle.compress(runs), place)
    found = [places.get(mask["counts"], -1) for mask in stored["masks"]]
    return [] if -1 in found else found


def _score_table(
    stored: dict[str, Any], order: list[int], texts: list[Sentence], candidates: dict[int, Any]
) -> pa.Table:
    import pyarrow as pa

    from prep.cache.schema import SCORES

    rows = []
    for one in texts if order else []:
        item = one.expression
        ranks = candidates[item.ref_id or 0]["clip_score"]
        if one.place >= len(ranks):
            continue
        rank = np.asarray(ranks[one.place], np.float32).ravel()
        if max(order, default=0) >= len(rank):
            continue
        scores = [float(rank[place]) for place in order]
        key = hashlib.sha256(canonical_json([item.row_id, stored["key"], scores]).encode()).hexdigest()
        rows.append(
            {
                "row_id": item.row_id,
                "split_by": item.split_by,
                "image": item.image,
                "scores": scores,
                "proposals_key": stored["key"],
                "model": SOURCE,
                "key": key,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORES)
