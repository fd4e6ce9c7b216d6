"""Defines the files of the released PCNet tree, their sizes and how each is written."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prep import files
from prep.errors import PrepError

PHRASES_FOLDER = "Mistral_7B_Ref_Sents"
SAM, FREESOLO = "SAM_Mask", "SOLO_Mask"  # the folders of the two variants' proposals (``zs_model``)
UMD_TO_GOOGLE = "umd_2_google_ref.npy"
PHRASES = 5  # the released class stacks five per sentence
MASKS = 40  # and forty masks per image
CANDIDATES = (2, 4, 6, 8)


def variant_of(generator: str) -> str:
    """The folder for the proposals of a generator: only FreeSOLO has its own."""
    return FREESOLO if generator == "freesolo" else SAM


def masks_folder(variant: str) -> Path:
    """The folder of a variant's masks, relative to the dataset's: ``SAM_Mask/SAM_out``."""
    return Path(variant, f"{variant.removesuffix('_Mask')}_out")


def candidates_file(split_by: str, variant: str) -> Path:
    """The file of a dataset's ranked proposals, relative to its folder."""
    return Path(variant, f"{split_by}_candidate_2_4_6_8.npy")


def repeated(phrases: list[str]) -> list[str]:
    """One to five phrases padded to five by the paper's rule: they are repeated in order."""
    return [phrases[at % len(phrases)] for at in range(PHRASES)]


def once(phrases: list[str]) -> list[str]:
    """The argument of :func:`repeated`: the shortest prefix that the rest repeats."""
    for length in range(1, len(phrases)):
        if all(phrase == phrases[at % length] for at, phrase in enumerate(phrases)):
            return phrases[:length]
    return phrases


def save_object(path: Path, value: object) -> None:
    """Save ``value`` as ``np.save`` pickles a dict: an object array without dimensions."""
    stream, boxed = BytesIO(), np.empty((), object)
    boxed[()] = value
    np.save(stream, boxed, allow_pickle=True)
    write_whole(path, stream.getvalue())


def save_array(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Save a plain ``.npy`` file."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_whole(path, stream.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write atomically: the file is either the old one or the complete new one."""
    try:
        files.write_whole(path, content, durable=False)
    except OSError as error:
        raise PrepError(f"{path} could not be written: {error.strerror or error}.") from error
