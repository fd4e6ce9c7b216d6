"""Imports masks made by other tools as rows of the proposals table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.keys import fingerprint, stat_key
from prep.cache.schema import PROPOSALS
from prep.cache.shards import read_shard
from prep.errors import PrepError
from prep.files import sha256_of
from prep.images import UnreadableImage, decode, read_image_file
from prep.proposals.mask_arrays import BadMasks
from prep.proposals.mask_files import LAYOUTS, Layout, open_layout
from prep.proposals.rows import answer, make_row, masks_key
from prep.proposals.select import Selection, select
from prep.proposals.unit_metadata import with_unit_metadata
from prep.records import ImageRef, ProposalRow
from prep.stage import Resources

if TYPE_CHECKING:
    from prep.cache.files import Files
    from prep.proposals.stage import Answers

# A row, the stat key of its file, and the reasons why masks were left out.
Loaded = tuple[dict[str, object], str | None, list[str]]


class ImportStage:
    """:class:`prep.records.ImageRef` items to rows of the proposals schema, their masks read from ``source``.

    ``layout`` is one of :data:`LAYOUTS`. Every image is read too: its size must match that of its masks, and
    its hash is stored. A row's ``key`` includes the masks themselves.
    """

    def __init__(
        self,
        layout: str,
        source: Path,
        selection: Selection | None = None,
        *,
        resources: Resources | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise PrepError(f"Unknown layout {layout!r}.", f"Choose one of: {', '.join(LAYOUTS)}.")
        if layout == "coco" and not source.is_file():
            raise PrepError(f"{source} is not a file.", "Give the JSON file of COCO results.")
        if layout != "coco" and not source.is_dir():
            raise PrepError(f"{source} is not a folder.", "Give the folder with one mask file per image.")
        self.layout, self.source = layout, source
        self.selection = selection or Selection()
        self.resources = resources or Resources()
        self.answers: Answers | None = None
        self._shared: dict[str, str] = {}
        self.name = f"import:{layout}"
        self.key = fingerprint(self.settings())

    def settings(self) -> dict[str, object]:
        """The settings of the table. A folder is identified by its name; the rows' keys cover its files."""
        known_by = sha256_of(self.source) if self.layout == "coco" else self.source.resolve().name
        return {
            "generator": self.name,
            "settings": {"source": known_by},
            "weights_sha256": None,
            "selection": self.selection.settings(),
        }

    @cached_property
    def _masks(self) -> Layout:
        return open_layout(self.layout, self.source)

    def match(self, refs: Iterable[ImageRef]) -> str:
        """Find out which masks belong to the images of the run, before it; masks of two images to neither.

        Returns which masks belong to none of the images, as text. Raises PrepError if that is all of them.
        """
        sizes, owners = self._masks.sizes(), dict[str, str]()
        images = 0
        for images, ref in enumerate(refs, 1):  # noqa: B007 (counts)
            key = self._masks.key(ref)
            if key is not None and owners.setdefault(key, ref.image) != ref.image:
                self._shared[key] = f"{owners[key]} and {ref.image}"
        # A COCO file may have no entries for an image; a mask file may be in a linked folder, not listed.
        what, unlisted = ("entries", 0) if self.layout == "coco" else ("files", 1)
        total, used = sum(sizes.values()), sum(sizes.get(key, unlisted) for key in owners)
        if images and not used:
            raise PrepError(
                f"None of the {total:,} {what} of {self.source} belongs to one of the {images:,} images.",
                "Give the masks of these images; docs/proposals.md says how they are matched.",
            )
        return f"{total - used:,} of {total:,} {what} belong to no image of the run" if used < total else ""

    def stale(
        self, files: Files, shards: Sequence[str], refs: Mapping[str, ImageRef]
    ) -> dict[str, dict[int, str]]:
        """The rows of a table that the source would now make otherwise: shard -> row number -> image.

        Only those of ``refs`` (by image) are compared. A COCO file that has changed has other settings.
        """
        found: dict[str, dict[int, str]] = {}
        columns = ["image", "height", "width", "key", "error"]
        for shard in shards if self.layout != "coco" else ():
            rows = read_shard(files, shard, columns).to_pylist()
            changed = {
                at: row["image"]
                for at, row in enumerate(rows)
                if row["image"] in refs and self._differs(refs[row["image"]], row)
            }
            if changed:
                found[shard] = changed
        return found

    def _differs(self, ref: ImageRef, row: ProposalRow) -> bool:
        if row["error"] is not None:
            return bool(self._row(ref)[0]["error"] != row["error"])
        height, width = row["height"], row["width"]
        try:
            found, _ = self._masks.masks(ref, height, width)
        except BadMasks:
            return True
        made = answer(select(found, self.selection, height, width), height, width)
        return bool(masks_key(self.key, made.masks) != row["key"])

    def open(self) -> None:
        """Read the results file or list the folder."""
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="import")
        self._masks  # noqa: B018 (its errors end the run)

    def load(self, unit: list[ImageRef]) -> list[Loaded]:
        """The unit's rows with the stat keys of their files; all of the work is reading."""
        return list(self._pool.map(self._row, unit))

    def process(self, loaded: list[Loaded]) -> pa.Table:
        """The unit's rows, in the unit's order; the masks that were left out are counted in its metadata."""
        rows = pa.Table.from_pylist([row for row, _, _ in loaded], schema=PROPOSALS)
        seen = [seen for _, seen, _ in loaded if seen is not None]
        left = Counter(f"{row['image']}: {reason}" for row, _, bad in loaded for reason in bad)
        return with_unit_metadata(rows, seen, {"masks_left_out": left} if left else {})

    def _row(self, ref: ImageRef) -> Loaded:
        sha256 = seen = None
        try:
            file = read_image_file(ref)
            sha256 = file.sha256
            seen = stat_key(ref.image, len(file.data), file.mtime_ns, sha256)
            height, width = decode(file.data).shape[:2]
            if self._shared and (owners := self._shared.get(self._masks.key(ref) or "")):
                raise BadMasks(f"its masks may be those of two images: {owners}")
            found, bad = self._masks.masks(ref, height, width)
        except (UnreadableImage, BadMasks) as error:
            return make_row(ref, sha256, str(error), self.name, self.key), seen, []
        made = answer(select(found, self.selection, height, width), height, width)
        return make_row(ref, sha256, made, self.name, masks_key(self.key, made.masks)), seen, bad
