"""Reads the phrases of the released PCNet tree into a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prep.cache.keys import canonical_json
from prep.cache.rewrite import cut_rows
from prep.cache.shards import read_shard
from prep.datasets.identity import clean_text
from prep.datasets.object_npy import load_object_npy
from prep.engine.local import Engine
from prep.engine.runner import Summary, run_stage
from prep.engine.sources import follow_source, inputs_of, origin_of
from prep.errors import PrepError
from prep.inputs import read_plain
from prep.phrases.checks import violations
from prep.phrases.stage import row
from prep.phrases.tasks import PHRASES as TASK
from prep.records import Expression, PhraseSet
from prep.released.tree import PHRASES, PHRASES_FOLDER, UMD_TO_GOOGLE, once
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.follow import Entry
    from prep.cache.store import Store
    from prep.cache.writer import StageWriter
    from prep.datasets.catalogue import Dataset

SOURCE = "import"
UNIT = 512
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

    def load(self, unit: list[Sentence]) -> list[tuple[Sentence, object]]:
        """Each sentence with the content of its file, or the reason why there is none; each file is read
        once.
        """
        contents = {file: _content(self.folder / file) for file in {one.file for one in unit}}
        return [(one, contents[one.file]) for one in unit]

    def process(self, loaded: list[tuple[Sentence, object]]) -> pa.Table:
        """The unit's rows."""
        import pyarrow as pa

        return pa.Table.from_pylist([self._row(*one) for one in loaded], schema=TASK.schema)

    def _row(self, sentence: Sentence, content: object) -> dict[str, object]:
        item = sentence.expression
        phrases, problem = phrases_of(sentence, content)
        problem = item.problem or problem
        found = None if problem else PhraseSet(tuple(phrases), SOURCE, violations(item.text, phrases))
        key = hashlib.sha256(
            canonical_json([item.text, phrases]).encode("utf-8", "surrogatepass")
        ).hexdigest()
        return row(item, TASK, found, llm=SOURCE, prompt_version=None, key=key, error=problem)


def phrases_of(sentence: Sentence, content: object) -> tuple[list[str], str]:
    """A sentence's phrases without repetition, or the reason why there are none.

    The released class ignores the keys and uses the lists in order. Here, a file whose keys are the
    reference's sentence ids is read by key, any other in order.
    """
    if isinstance(content, str):
        return [], content
    assert isinstance(content, dict)  # as _content returns it
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


def _content(path: Path) -> object:
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
    keep_missing: bool = False,
    arguments: Mapping[str, object] | None = None,
) -> Summary:
    """Import the phrases of the released tree ``folder`` (``.../refer/<dataset>``) into ``store``.

    Rows whose file has changed are made again; those that the dataset no longer has are set aside, unless
    ``keep_missing``.
    """
    texts = folder / PHRASES_FOLDER
    if not texts.is_dir():
        raise PrepError(
            f"{folder} has no {PHRASES_FOLDER}.", "Give the folder that contains it, refer/<dataset>."
        )
    settings, origin = {"llm": SOURCE, "layout": "official"}, origin_of(dataset)
    stage, total = OfficialPhrases(texts), sum(1 for _ in dataset.expressions(splits))
    with store.stage("phrases").writer(settings, replace=replace, inputs=inputs_of([origin])) as writer:
        followed = follow_source(writer, origin, lambda: _entries(dataset), keep_missing=keep_missing)
        changed = _cut_changed(writer, stage, sentences(folder, dataset, splits))
        summary = run_stage(
            Engine(stage),
            sentences(folder, dataset, splits),
            key=lambda item: item.expression.row_id,
            writer=writer,
            unit_size=UNIT,
            total=total,
            arguments=arguments,
        )
    summary.extra.update({**followed, "changed": changed})
    return summary


def _entries(dataset: Dataset) -> Iterator[Entry]:
    """Every expression of the dataset, as the rows must agree with it."""
    for one in dataset.expressions():
        yield one.row_id, {"split": one.split, "image_id": one.image_id}, None


def _cut_changed(writer: StageWriter, stage: OfficialPhrases, items: Iterator[Sentence]) -> int:
    """Remove the rows that the tree's files would now make otherwise; returns their number."""
    now: dict[str, tuple[str, str | None]] = {}
    while writer.manifest.shards and (unit := list(islice(items, UNIT))):
        made = stage.process(stage.load(unit)).select(["row_id", "key", "error"]).to_pylist()
        now.update((row["row_id"], (row["key"], row["error"])) for row in made)
    cut = {}
    for shard in writer.manifest.shards:
        rows = read_shard(writer.files, shard, ["row_id", "key", "error"]).to_pylist()
        before = [(row["row_id"], (row["key"], row["error"])) for row in rows]
        if stale := {at for at, (row_id, told) in enumerate(before) if now.get(row_id, told) != told}:
            cut[shard] = stale
    cut_rows(writer, cut)
    return sum(map(len, cut.values()))


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
