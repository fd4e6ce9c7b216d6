"""One interface to every way of proposing masks, and the names they are asked for by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.proposals.images import decode, read_bytes
from prep.proposals.select import Selection, select
from prep.records import Proposal

NAMES = ("sam", "segments", "hf:<id or folder>")


class Generator(Protocol):
    """Makes class-agnostic masks of images.

    Built cheaply and picklable before ``open``, which loads the weights, once in each worker. ``settings``
    and ``weights_sha256`` (``None`` where there are no weights) are known before ``open`` and determine every
    mask: they are what a row's key is made of. One that has something to say about how it made its masks also
    has ``take_account``, which gives what :class:`prep.proposals.sam.fidelity.Account` adds up.
    """

    @property
    def name(self) -> str:
        """What it is asked for by; the ``generator`` column."""

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights (64 hex digits), or ``None`` for a generator that has none."""

    def settings(self) -> dict[str, Any]:
        """Everything but the weights that the masks depend on, as plain JSON values."""

    def open(self) -> None:
        """Load what ``propose`` needs."""

    def propose(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        """The masks of each H x W x 3 RGB image, in the generator's order; it may find none."""


def build(name: str, options: Mapping[str, Any] | None = None) -> Generator:
    """The generator called ``name``, not yet opened; ``options`` replace its own defaults.

    ``sam`` takes the fields of :class:`prep.proposals.sam.generator.SamSettings`, ``segments`` those of
    :class:`prep.proposals.segments.generator.SegmentSettings` and ``hf:...`` those of
    :class:`prep.proposals.hf.HfSettings`.
    """
    given = dict(options or {})
    try:
        if name == "segments":
            from prep.proposals.segments.generator import SegmentGenerator, SegmentSettings

            return SegmentGenerator(SegmentSettings(**given))
        if name == "sam":
            from prep.proposals.sam.generator import SamGenerator, SamSettings

            return SamGenerator(SamSettings(**given))
        if name.startswith("hf:") and len(name) > len("hf:"):
            from prep.proposals.hf import HfGenerator, HfSettings

            return HfGenerator(name[len("hf:") :], HfSettings(**given))
    except TypeError as error:
        raise PrepError(
            f"the generator {name!r} has no such option: {error}", "see `pcnet-prep sam --help`"
        ) from error
    raise PrepError(f"no generator is called {name!r}", f"one of: {', '.join(NAMES)}")


def propose(
    images: Sequence[npt.NDArray[np.uint8] | str | Path],
    generator: str | Generator = "segments",
    selection: Selection | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[list[Proposal]]:
    """The masks of each image, an H x W x 3 RGB array or the path of a file, without a store.

    ``generator`` is a name that :func:`build` knows, with its ``options``, or one that is open already;
    ``selection`` chooses among its masks (None: all of them). Raises
    :class:`prep.proposals.images.UnreadableImage` for a file that cannot be decoded.
    """
    if isinstance(generator, str):
        generator = build(generator, options)
        generator.open()
    pixels = [decode(read_bytes(i).data) if isinstance(i, str | Path) else i for i in images]
    found = generator.propose(pixels)
    chosen = selection or Selection()
    return [select(masks, chosen, *image.shape[:2]) for masks, image in zip(found, pixels, strict=True)]
