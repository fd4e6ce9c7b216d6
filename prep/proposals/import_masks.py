"""Imports masks made by other tools as rows of the proposals table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.cache.keys import fingerprint, stat_key
from prep.cache.schema import PROPOSALS
from prep.errors import PrepError
from prep.files import sha256_of
from prep.images import UnreadableImage, decode, read_image_file
from prep.proposals.mask_files import LAYOUTS, BadMasks, open_layout
from prep.proposals.rows import answer, make_row, masks_key
from prep.proposals.select import Selection, select
from prep.proposals.unit_metadata import with_unit_metadata
from prep.records import ImageRef


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
        resources: Any = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise PrepError(f"Unknown layout {layout!r}.", f"Choose one of: {', '.join(LAYOUTS)}.")
        if layout == "coco" and not source.is_file():
            raise PrepError(f"{source} is not a file.", "Give the JSON file of COCO results.")
        if layout != "coco" and not source.is_dir():
            raise PrepError(f"{source} is not a folder.", "Give the folder with one mask file per image.")
        self.layout, self.source = layout, source
        self.selection = selection or Selection()
        self.resources = resources
        self.answers: Any = None
        self.name = f"import:{layout}"
        self.key = fingerprint(self.settings())

    def settings(self) -> dict[str, Any]:
        """The settings of the table. A folder is identified by its name; the rows' keys cover its files."""
        known_by = sha256_of(self.source) if self.layout == "coco" else self.source.resolve().name
        return {
            "generator": self.name,
            "settings": {"source": known_by},
            "weights_sha256": None,
            "selection": self.selection.settings(),
        }

    def open(self) -> None:
        """Read the results file or list the folder."""
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="import")
        self._masks = open_layout(self.layout, self.source)

    def load(self, unit: list[ImageRef]) -> list[tuple[dict[str, Any], str | None]]:
        """The unit's rows with the stat keys of their files; all of the work is reading."""
        return list(self._pool.map(self._row, unit))

    def process(self, loaded: list[tuple[dict[str, Any], str | None]]) -> pa.Table:
        """The unit's rows, in the unit's order."""
        rows = pa.Table.from_pylist([row for row, _ in loaded], schema=PROPOSALS)
        return with_unit_metadata(rows, [seen for _, seen in loaded if seen is not None], {})

    def _row(self, ref: ImageRef) -> tuple[dict[str, Any], str | None]:
        sha256 = seen = None
        try:
            file = read_image_file(ref)
            sha256 = file.sha256
            seen = stat_key(ref.image, len(file.data), file.mtime_ns, sha256)
            height, width = decode(file.data).shape[:2]
            found = self._masks.masks(ref, height, width)
        except (UnreadableImage, BadMasks) as error:
            return make_row(ref, sha256, str(error), self.name, self.key), seen
        made = answer(select(found, self.selection, height, width), height, width)
        return make_row(ref, sha256, made, self.name, masks_key(self.key, made.masks)), seen
