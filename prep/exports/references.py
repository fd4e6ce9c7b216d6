"""The references of a dataset with all their ids, as REFER numbers them, and their masks or boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import count
from typing import NamedTuple, NotRequired, TypedDict, cast

from prep.datasets.catalogue import Dataset
from prep.datasets.coco_json import read_annotations, sections
from prep.datasets.jsonl import JsonlDataset
from prep.datasets.refer import RefDataset
from prep.datasets.truth import Truth
from prep.errors import PrepError
from prep.exports.output import Exported
from prep.exports.request import image_numbers
from prep.images import MAX_PIXELS, UnreadableImage, image_size
from prep.masks import rle
from prep.records import Expression, in_splits


class Category(TypedDict):
    """A category of a COCO file, which may have other fields too."""

    id: int
    name: str
    supercategory: NotRequired[str]


OBJECT: Category = {"id": 1, "name": "object", "supercategory": "object"}
NO_TARGET = "expressions that refer to nothing in their image"


class Sentence(NamedTuple):
    """An expression of a reference and its id, unique in the dataset."""

    sent_id: int
    text: str
    row: Expression


class Reference(NamedTuple):
    """Expressions of one object of one image; ``image`` is the path below the data root."""

    dataset: str
    split_by: str
    split: str
    ref_id: int
    image: str
    image_id: int
    sentences: tuple[Sentence, ...]


class Target(NamedTuple):
    """What a reference refers to, in pixels of the stored image: COCO runs, or none for a box alone.

    ``box`` is XYWH as annotated; ``annotation`` and ``category`` are ids of the dataset, or None.
    """

    height: int
    width: int
    counts: str | None
    box: tuple[float, float, float, float]
    annotation: int | None = None
    category: int | None = None


def references(dataset: Dataset, splits: Collection[str] | None, done: Exported) -> list[Reference]:
    """The references of ``splits``, in the dataset's order; ids that the dataset lacks are given.

    The ids are those of the whole dataset, whichever splits are asked for. Entries that cannot be used are
    counted in ``done``.
    """
    groups: dict[tuple[str, str, int], list[Expression]] = {}
    free = count(-1, -1)  # of rows without ref_id, replaced below
    images: dict[str, int | None] = {}
    for row in dataset.expressions(None):
        if row.problem or row.image is None:
            if splits is None or in_splits(row.split, splits):
                done.leave_out(row.problem or "expressions without an image")
            continue
        images[row.image] = row.image_id if images.get(row.image) is None else images[row.image]
        groups.setdefault(
            (row.dataset, row.split_by, next(free) if row.ref_id is None else row.ref_id), []
        ).append(row)
    numbers = image_numbers(iter(images.items()), done)
    ref_ids = count(max([0, *(ref for _, _, ref in groups)]) + 1)
    sent_ids = _SentenceIds(groups.values())
    found = []
    for (name, split_by, ref_id), rows in groups.items():
        same = [row for row in rows if row.image == rows[0].image]
        ids = [sent_ids.of(row) for row in same]
        number = next(ref_ids) if ref_id < 0 and rows[0].ref_id is None else ref_id
        if splits is not None and not in_splits(rows[0].split, splits):
            continue
        done.leave_out("expressions whose ref_id is that of another image", len(rows) - len(same))
        said = tuple(Sentence(at, row.text, row) for at, row in zip(ids, same, strict=True))
        image = str(same[0].image)
        found.append(Reference(name, split_by, same[0].split, number, image, numbers[image], said))
    return found


class _SentenceIds:
    """Gives each expression the ``sent_id`` of the dataset if it is the first with it, else a new one."""

    def __init__(self, groups: Collection[list[Expression]]) -> None:
        known = [row.sent_id for rows in groups for row in rows if row.sent_id is not None]
        self._free, self._used = count(max([-1, *known]) + 1), set[tuple[str, str, int]]()

    def of(self, row: Expression) -> int:
        """The id of an expression; call it once for each, in the dataset's order."""
        if row.sent_id is not None and (key := (row.dataset, row.split_by, row.sent_id)) not in self._used:
            self._used.add(key)
            return row.sent_id
        return next(self._free)


class Targets:
    """The masks or boxes of references, from the dataset's ground truth."""

    def __init__(self, dataset: Dataset, done: Exported) -> None:
        self._dataset, self._done, self._truth = dataset, done, Truth(dataset)

    @cached_property
    def categories(self) -> list[Category]:
        """The dataset's categories, or a single one."""
        if not isinstance(self._dataset, RefDataset):
            return [OBJECT]
        try:
            found = [entry for _, entry, _ in sections(self._dataset.instances_file, ("categories",))]
        except PrepError:  # the file has none
            found = []
        named = [
            cast("Category", entry)
            for entry in found
            if type(entry.get("id")) is int and isinstance(entry.get("name"), str)
        ]
        return named or [OBJECT]

    def of(self, reference: Reference) -> tuple[Target | None, Reference]:
        """The target and the sentences that refer to it; no target counts the reason in ``done``."""
        found: dict[Target, list[Sentence]] = defaultdict(list)
        for sentence in reference.sentences:
            target = self._target(sentence.row)
            if target is None and sentence.row.row_id not in self._truth.problems:
                self._done.leave_out(NO_TARGET)
            elif target is None:
                self._done.leave_out(self._truth.problems[sentence.row.row_id])
            else:
                found[target].append(sentence)
                if isinstance(self._dataset, RefDataset):  # all sentences of a reference have its targets
                    found[target] = list(reference.sentences)
                    break
        if not found:
            return None, reference
        first = next(iter(found))
        others = sum(len(rows) for target, rows in found.items() if target != first)
        self._done.leave_out("expressions whose mask differs from the first of their reference", others)
        return first, reference._replace(sentences=tuple(found[first]))

    def _target(self, row: Expression) -> Target | None:
        mask = self._truth.mask(row)
        if mask is None:
            return self._box_alone(row)
        if not mask.any():
            return None
        runs = rle.encode(mask)
        height, width = mask.shape
        x, y, w, h = rle.bounding_box(runs, height)
        target = Target(height, width, rle.compress(runs), (float(x), float(y), float(w), float(h)))
        annotations = self._annotations(row)
        if len(annotations) != 1:
            return target
        category = self._categories.get(annotations[0])
        return target._replace(
            box=_box(self._boxes.get(annotations[0])) or target.box,
            annotation=annotations[0],
            category=category if type(category) is int else None,
        )

    def _box_alone(self, row: Expression) -> Target | None:
        """The ``box`` of a line without a mask."""
        offset = self._box_offsets.get(row.row_id)
        if offset is None or not isinstance(self._dataset, JsonlDataset):
            return None
        box = _box(self._dataset.entry_at(offset).get("box"))
        try:
            height, width = image_size(self._dataset.root / str(row.image))
        except UnreadableImage as error:
            self._truth.problems[row.row_id] = str(error)
            return None
        if box is None or min(box) < 0 or box[0] + box[2] > width or box[1] + box[3] > height:
            self._truth.problems[row.row_id] = "the box is not [x, y, width, height] inside its image"
            return None
        return Target(height, width, None, box)

    @cached_property
    def _box_offsets(self) -> dict[str, int]:
        return self._dataset.box_offsets() if isinstance(self._dataset, JsonlDataset) else {}

    def _annotations(self, row: Expression) -> tuple[int, ...]:
        if not isinstance(self._dataset, RefDataset) or row.ref_id is None:
            return ()
        return self._dataset.targets.get(row.ref_id, ())

    @cached_property
    def _boxes(self) -> dict[int, object]:
        return self._read("bbox")

    @cached_property
    def _categories(self) -> dict[int, object]:
        return self._read("category_id")

    def _read(self, key: str) -> dict[int, object]:
        if not isinstance(self._dataset, RefDataset):
            return {}
        wanted = {target for targets in self._dataset.targets.values() for target in targets}
        return read_annotations(self._dataset.instances_file, wanted, key)


def _box(value: object) -> tuple[float, float, float, float] | None:
    """``value`` as an XYWH box with an area, or None."""
    if (
        not isinstance(value, list)
        or len(value) != 4
        or any(type(number) not in (int, float) for number in value)
    ):
        return None
    if not all(abs(number) < MAX_PIXELS for number in value):  # nor is NaN
        return None
    x, y, w, h = map(float, value)
    return (x, y, w, h) if w > 0 and h > 0 else None


def by_image(found: Collection[Reference]) -> dict[str, list[Reference]]:
    """Image -> its references."""
    grouped: dict[str, list[Reference]] = defaultdict(list)
    for reference in found:
        grouped[reference.image].append(reference)
    return grouped


def with_targets(found: Collection[Reference], targets: Targets) -> Iterator[tuple[Reference, Target]]:
    """The references that have a target, each with it."""
    for reference in found:
        target, kept = targets.of(reference)
        if target is not None:
            yield kept, target
