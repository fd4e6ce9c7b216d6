"""Find rows whose image is no longer the file that their masks were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from prep.proposals.images import UnreadableImage, check_name, read_bytes

Fault = tuple[int, str]


def image_faults(root: Path) -> Callable[[pa.Table], Iterator[Fault]]:
    """A check of proposals rows against the images below ``root``: it hashes every file again.

    A run trusts a row that is there and does not look at its image. The check gives (row number, why) for an
    image that has changed or gone since, and for one that had an error and is another file by now.
    """

    def faults(table: pa.Table) -> Iterator[Fault]:
        rows = zip(*(table.column(name).to_pylist() for name in ("image", "image_sha256")), strict=True)
        for number, (image, sha256) in enumerate(rows):
            try:
                check_name(image)
                found = read_bytes(root / image).sha256
            except UnreadableImage as error:
                if sha256 is not None:
                    yield number, f"its image cannot be read any more: {error}"
                continue
            if found != sha256:
                unread = sha256 is None
                yield number, "its image could not be read before" if unread else "its image has changed"

    return faults
