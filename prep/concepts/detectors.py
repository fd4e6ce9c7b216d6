"""Defines the interface of the detectors of noun phrases, and builds a detector by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prep.concepts.found import Found, Pixels
from prep.concepts.loading import check_type, load
from prep.errors import PrepError
from prep.hub import PREFIX, folder_sha256, model_folder

FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")  # of a model: what is downloaded and hashed
VERSION = 1  # part of every key: increment it when masks, boxes or scores change


class Finder(Protocol):
    """Finds what phrases name in an image."""

    def find(self, pixels: Pixels, phrases: Sequence[str]) -> list[list[Found]]:
        """What each phrase names in an H x W x 3 RGB image, the highest score first; possibly nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector's usual model and threshold, and the sort of model that it takes, for messages."""

    model: str
    threshold: float
    wanted: str
    model_types: tuple[str, ...]


# The thresholds are the defaults of transformers' processors.
KINDS = {
    "sam3": Kind("hf:facebook/sam3", 0.3, "a SAM 3 model", ("sam3", "sam3_video")),
    "grounding-dino": Kind(
        "hf:IDEA-Research/grounding-dino-tiny", 0.25, "a Grounding DINO model", ("grounding-dino",)
    ),
}


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """A detector and its options.

    ``model`` is ``hf:`` and a hub id, or a folder; ``None`` is the usual one. Objects with a score above
    ``threshold`` are kept (``None``: the default of transformers' processor). ``phrases_per_batch`` phrases
    of an image are looked for at a time: it changes the last bits of scores and so is part of the key.
    ``device`` is not.
    """

    detector: str = "sam3"
    model: str | None = None
    threshold: float | None = None
    phrases_per_batch: int = 8
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.detector not in KINDS:
            raise PrepError(
                f"--detector {self.detector!r} does not exist.", f"Choose one of: {', '.join(KINDS)}."
            )
        if not self.source:
            raise PrepError(f"--model {self.model} names no model.", "Give hf:ID or a folder.")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise PrepError(f"--threshold {self.threshold} is not in 0 to 1.", "Give a score, such as 0.3.")
        if self.phrases_per_batch < 1:
            raise PrepError(
                f"--phrases-per-batch {self.phrases_per_batch} is below 1.", "Omit it to use the default."
            )

    @property
    def source(self) -> str:
        """The model's hub id or folder."""
        return (self.model or KINDS[self.detector].model).removeprefix(PREFIX)

    @property
    def least_score(self) -> float:
        """The threshold in use."""
        return KINDS[self.detector].threshold if self.threshold is None else self.threshold

    def folder(self) -> Path:
        """The folder with the model's files, downloaded if necessary; PrepError if it cannot be had."""
        return model_folder(self.source, FILES, "give a folder with the model's files with --model DIR")

    def key(self) -> dict[str, object]:
        """Everything that a row depends on besides image and phrase, as JSON values.

        The model's files are hashed, and downloaded if necessary; raises PrepError if they cannot be had.
        """
        kind, folder = KINDS[self.detector], self.folder()
        check_type(folder, kind.model_types, kind.wanted)
        return {
            "version": VERSION,
            "detector": self.detector,
            "model": Path(self.source).name if Path(self.source).is_dir() else self.source,
            "weights_sha256": folder_sha256(folder, FILES),
            "threshold": self.least_score,
            "phrases_per_batch": self.phrases_per_batch,
        }


def open_detector(settings: DetectorSettings) -> Finder:
    """The detector with its weights loaded; raises PrepError if they cannot be."""
    folder, wanted = settings.folder(), KINDS[settings.detector].wanted
    if settings.detector == "sam3":
        from prep.concepts.sam3 import Sam3Finder

        loaded = load(folder, "Sam3Model", "Sam3Processor", wanted, settings.device)
        return Sam3Finder(*loaded, settings.least_score, settings.phrases_per_batch)
    from prep.concepts.grounding_dino import GroundingDinoFinder

    names = "GroundingDinoForObjectDetection", "GroundingDinoProcessor"
    loaded = load(folder, *names, wanted, settings.device)
    return GroundingDinoFinder(*loaded, settings.least_score, settings.phrases_per_batch)
