"""Defines the interface of mask generators and builds a generator by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.images import as_pixels
from prep.proposals.image_proposals import ImageProposals
from prep.proposals.select import Selection, select
from prep.records import Proposal

if TYPE_CHECKING:
    from PIL import Image

NAMES = ("sam", "sam2", "freesolo", "segments", "hf:<id or folder>")


class Generator(Protocol):
    """Generates class-agnostic masks of images.

    Cheap to construct and picklable before ``open``, which loads the weights once per worker. ``settings``
    and ``weights_sha256`` (``None`` if there are no weights) are available before ``open`` and determine
    every mask: a row's key is computed from them. A generator with statistics on how it computed its masks
    also has ``pop_stats``, which returns what :class:`prep.proposals.sam.fidelity.ExactnessStats` sums up.
    """

    @property
    def name(self) -> str:
        """The name passed to :func:`build`; the ``generator`` column."""

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights (64 hex digits), or ``None`` for a generator without weights."""

    def settings(self) -> dict[str, Any]:
        """Everything except the weights that the masks depend on, as JSON values."""

    def open(self) -> None:
        """Load everything that ``propose`` needs."""

    def propose(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        """The masks of each H x W x 3 RGB image, in the generator's order; possibly none."""


def build(name: str, options: Mapping[str, Any] | None = None) -> Generator:
    """The generator ``name``, not yet opened; ``options`` override its defaults.

    ``sam`` takes the fields of :class:`prep.proposals.sam.generator.SamSettings`, ``sam2`` those of
    :class:`prep.proposals.sam2.settings.Sam2Settings`, ``segments`` those of
    :class:`prep.proposals.segments.generator.SegmentSettings`, ``freesolo`` those of
    :class:`prep.proposals.freesolo.settings.FreeSoloSettings` and ``hf:...`` those of
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
        if name == "sam2":
            from prep.proposals.sam2.generator import Sam2Generator
            from prep.proposals.sam2.settings import Sam2Settings

            return Sam2Generator(Sam2Settings(**given))
        if name == "freesolo":
            from prep.proposals.freesolo.generator import FreeSoloGenerator
            from prep.proposals.freesolo.settings import FreeSoloSettings

            return FreeSoloGenerator(FreeSoloSettings(**given))
        if name.startswith("hf:") and len(name) > len("hf:"):
            from prep.proposals.hf import HfGenerator, HfSettings

            return HfGenerator(name[len("hf:") :], HfSettings(**given))
    except TypeError as error:
        raise PrepError(
            f"The generator {name!r} has no such option: {error}.", "See `pcnet-prep sam --help`."
        ) from error
    raise PrepError(f"Unknown generator {name!r}.", f"Choose one of: {', '.join(NAMES)}.")


def propose(
    images: Sequence[npt.NDArray[np.uint8] | str | Path | Image.Image],
    generator: str | Generator = "segments",
    selection: Selection | None = None,
    options: Mapping[str, object] | None = None,
) -> list[ImageProposals]:
    """The masks of each image (a file path, a Pillow image or an H x W x 3 RGB array), without a store.

    Each element is a list of :class:`prep.records.Proposal`, which a notebook shows over its image.

    ``generator`` is a name for :func:`build`, with its ``options``, or an open generator; ``selection``
    filters its masks (None: keep all).

    :raises PrepError: if an image cannot be used, or the generator is unknown or lacks its weights.
    """
    pixels = [as_pixels(image) for image in images]
    if isinstance(generator, str):
        generator = build(generator, options)
        generator.open()
    found = generator.propose(pixels)
    chosen = selection or Selection()
    return [
        ImageProposals(select(masks, chosen, *image.shape[:2]), image)
        for masks, image in zip(found, pixels, strict=True)
    ]
