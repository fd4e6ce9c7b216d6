"""Reads the REFER layout: ``refer/<dataset>/refs(<split_by>).p`` (gRefCOCO: JSON) and ``instances.json``."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prep.datasets import identity as rows
from prep.datasets.coco_json import Instances, integer, list_elements, read_instances
from prep.datasets.pickles import load_pickle
from prep.errors import PrepError
from prep.files import sha256_of
from prep.inputs import image_name
from prep.records import Expression, ImageRef, in_splits

# gRefCOCO's marker for an expression that refers to nothing in its image.
NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Ref:
    """One entry of a refs file: its target annotations and its sentences as ``(sent_id, text, problem)``."""

    ref_id: int | None
    image_id: int | None
    split: str
    targets: tuple[int, ...]
    sentences: tuple[tuple[int | None, str, str], ...]
    problem: str = ""


class RefDataset:
    """A dataset of the RefCOCO family; files are read on first access."""

    def __init__(self, root: Path, name: str, split_by: str, refs_file: Path) -> None:
        self.root, self.name, self.split_by = root, name, split_by
        self.refs_file = self.place = refs_file
        self.flags = f"--data {shlex.quote(str(root))} --dataset {name} --split-by {split_by}"
        # Why images of the last complete iteration were left out, and how often.
        self.left_out: Mapping[str, int] = {}
        self.instances_file = refs_file.parent / "instances.json"

    @cached_property
    def refs(self) -> list[Ref]:
        """Every entry of the refs file."""
        if self.refs_file.suffix == ".json":
            entries: Iterable[object] = list_elements(self.refs_file)
        else:
            entries = load_pickle(self.refs_file)
            if not isinstance(entries, list):
                raise PrepError(
                    f"{self.refs_file} contains a {type(entries).__name__}, not a list of references.",
                    "Check that it is the refs file of the dataset's own download.",
                )
        return [_parse(entry, at) for at, entry in enumerate(entries)]

    @cached_property
    def instances(self) -> Instances:
        """The index of ``instances.json``."""
        return read_instances(self.instances_file)

    @cached_property
    def targets(self) -> dict[int, tuple[int, ...]]:
        """The target annotations of each ``ref_id``."""
        return {ref.ref_id: ref.targets for ref in self.refs if ref.ref_id is not None}

    @cached_property
    def ambiguous_refs(self) -> set[int]:
        """Each ``ref_id`` that is used for more than one image or set of objects."""
        distinct = {(ref.ref_id, ref.image_id, ref.targets) for ref in self.refs if ref.ref_id is not None}
        uses = Counter(ref_id for ref_id, _, _ in distinct)
        return {ref_id for ref_id, count in uses.items() if ref_id is not None and count > 1}

    def splits(self) -> list[str]:
        """The names of the splits that have entries."""
        return rows.ordered(ref.split for ref in self.refs)

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: all), in the file's order."""
        rows.check_splits(splits, self.splits(), str(self.refs_file))
        return rows.expressions(self._drafts(), splits)

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images that the expressions of ``splits`` refer to, each once."""
        rows.check_splits(splits, self.splits(), str(self.refs_file))
        return rows.images(self._images(splits), lambda image: str(self.root / image))

    def _images(self, splits: Collection[str] | None) -> Iterator[tuple[str, int | None]]:
        """The image of each reference of ``splits`` and its ID; sets ``left_out``."""
        refused: dict[int | None, str] = {}
        for ref in self.refs:
            if splits is None or in_splits(ref.split, splits):
                image, problem = self._image(ref.image_id)
                if image is None:
                    refused[ref.image_id] = problem
                else:
                    yield image, ref.image_id
        self.left_out = Counter(refused.values())

    def inputs(self) -> dict[str, str]:
        """File name relative to the data root -> SHA-256, of the files read."""
        return {
            path.relative_to(self.root).as_posix(): sha256_of(path)
            for path in (self.refs_file, self.instances_file)
        }

    def _drafts(self) -> Iterator[rows.Draft]:
        for ref in self.refs:
            image, problem = self._image(ref.image_id)
            problem = ref.problem or problem or self._target_problem(ref)
            for sent_id, text, sentence_problem in ref.sentences:
                yield rows.Draft(
                    self.name, self.split_by, ref.split, ref.ref_id, sent_id, ref.image_id, image, text,
                    problem or sentence_problem,
                )  # fmt: skip

    def _image(self, image_id: int | None) -> tuple[str | None, str]:
        """The image's path relative to the data root, or None and the reason."""
        if image_id is None:
            return None, "the reference has no image_id"
        info = self.instances.images.get(image_id)
        if info is None:
            return None, f"image {image_id} is not in instances.json"
        if image_id in self.instances.ambiguous_images:
            return None, f"image {image_id} is in instances.json twice, with different contents"
        if self.name == "refclef":
            # SAIAPR TC-12 has one folder per thousand images.
            return f"saiapr_tc-12/{image_id // 1000:02d}/images/{image_id}.jpg", ""
        name = rows.clean_text(info.file_name) or f"COCO_train2014_{image_id:012d}.jpg"
        plain, problem = image_name(name)
        if plain is None:
            return None, f"image {image_id}: {problem}"
        return self._place(plain), ""

    def _place(self, name: str) -> str:
        """The path of a file name below the data root; some files name folders too."""
        if "/train2014/" in f"/{name}":
            return f"train2014/{name.rpartition('train2014/')[2]}"
        first, slash, _ = name.partition("/")
        return name if slash and (self.root / first).is_dir() else f"train2014/{name}"

    def _target_problem(self, ref: Ref) -> str:
        if ref.ref_id in self.ambiguous_refs:
            return f"ref_id {ref.ref_id} is given to different references"
        for target in ref.targets:
            image_id = self.instances.image_of.get(target)
            if image_id is None:
                return f"annotation {target} is not in instances.json"
            if target in self.instances.ambiguous_annotations:
                return f"annotation {target} is in instances.json twice, with different contents"
            if image_id != ref.image_id:
                return f"annotation {target} belongs to image {image_id}, the reference to {ref.image_id}"
        return ""


def _parse(entry: object, at: int) -> Ref:
    """Parse one entry of a refs file; an error in it becomes the problem of its rows."""
    if not isinstance(entry, dict):
        return Ref(
            None, None, "", (), ((None, "", ""),), f"entry {at} is a {type(entry).__name__}, not a reference"
        )
    problem, targets = "", entry.get("ann_id")
    listed = targets if isinstance(targets, (list, tuple)) else [targets]
    numbers = [integer(target) for target in listed]
    if entry.get("no_target") is True or numbers == [NO_TARGET]:
        numbers = []
    elif None in numbers or not numbers:
        problem = "the reference has no usable ann_id"
    split = entry.get("split")
    sentences = entry.get("sentences")
    if not isinstance(sentences, (list, tuple)) or not sentences:
        sentences, problem = [{"sent": ""}], problem or "the reference has no sentences"
    return Ref(
        integer(entry.get("ref_id")),
        integer(entry.get("image_id")),
        rows.clean_text(split) if isinstance(split, str) else "",
        tuple(number for number in numbers if number is not None),
        tuple(_sentence(sentence) for sentence in sentences),
        problem,
    )


def _sentence(sentence: object) -> tuple[int | None, str, str]:
    if not isinstance(sentence, dict) or not isinstance(sentence.get("sent"), str):
        return None, "", "the sentence has no text under 'sent'"
    text = rows.expression_text(sentence["sent"])
    return integer(sentence.get("sent_id")), text, rows.text_problem(text)
