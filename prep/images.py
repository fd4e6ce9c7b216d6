"""Opens every image file: its pixels, mask or size, or the reason why it has none."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.inputs import LFS_POINTER, NotPlainError, below, open_plain
from prep.records import ImageRef

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# Formats that Pillow decodes itself. Others are rejected even if a plug-in is installed: some pass the file
# to an external program (PostScript), and no dataset uses them for photographs.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF")
LOSSLESS = frozenset({"PNG", "GIF", "TIFF", "BMP", "PPM"})
MAX_PIXELS = 89_478_485  # 256 MiB as RGB; a 48-megapixel photo passes, a decompression bomb does not
MAX_BYTES = 1 << 29


class UnreadableImage(Exception):
    """An image that cannot be used; the text is the reason for a row's ``error`` column."""


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """The bytes of an image file, their SHA-256 (64 hex digits) and modification time (ns)."""

    data: bytes
    sha256: str
    mtime_ns: int


def suffixes() -> frozenset[str]:
    """The file name suffixes of the formats that can be opened here, in lower case with their dot."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)


def check_name(image: str) -> None:
    """Reject a name that could point outside the folder it is relative to.

    ``image`` is a POSIX path relative to a root. Only the name is checked; links inside the root are
    followed.
    """
    if below(image) is None:
        raise UnreadableImage("the image's name points outside its folder")


def read_bytes(path: str | Path) -> ImageBytes:
    """The bytes of a file; raises :class:`UnreadableImage` if it is not a plain, readable file."""
    with _file(path) as file:
        mtime_ns = os.fstat(file.fileno()).st_mtime_ns  # before reading, in case the file changes meanwhile
        data = file.read()
    return ImageBytes(data, hashlib.sha256(data).hexdigest(), mtime_ns)


def read_image_file(ref: ImageRef) -> ImageBytes:
    """The bytes of an image of a dataset or folder; raises :class:`UnreadableImage`."""
    if ref.problem:
        raise UnreadableImage(ref.problem)
    check_name(ref.image)
    return read_bytes(ref.path)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the header of an image file; raises :class:`UnreadableImage`."""
    with _file(path) as file, _open(file) as image:
        return image.height, image.width


def header_pixels(data: bytes) -> int:
    """The number of pixels in an encoded image's header; 0 if it cannot be read without decoding."""
    try:
        with _open(io.BytesIO(data)) as image:
            return image.height * image.width
    except UnreadableImage:  # `decode` reports the reason
        return 0


def read_rgb(path: str | Path) -> Image.Image:
    """The pixels of an image file, as :func:`decode` reads them, as a Pillow image of mode RGB."""
    with _file(path) as file, _open(file) as image:
        return _to_rgb(image)


def decode(data: bytes) -> Pixels:
    """The stored pixels of an encoded image as an H x W x 3 RGB ``uint8`` array.

    The EXIF orientation is not applied: datasets of the COCO family annotate the pixels as stored, so masks
    must refer to those. The first frame of an animation is used; grey and palette images are converted to
    RGB; CMYK is converted by Pillow without a colour profile; alpha is dropped (the stored colours are kept);
    16-bit samples are reduced to their high byte. Raises :class:`UnreadableImage`.
    """
    with _open(io.BytesIO(data)) as image:
        return np.array(_to_rgb(image), dtype=np.uint8)


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> Mask:
    """The object in a mask file, H x W: its pixels that are not black. ``size`` is what it must have.

    In formats that change pixels (JPEG) those that are at least half bright. If the alpha channel alone tells
    pixels apart, those that it shows. Raises :class:`UnreadableImage` if no pixel belongs to an object, if no
    pixel is black although they differ, and if colours and alpha channel or palette disagree.
    """
    with _file(path) as file, _open(file) as image:
        if size not in (None, (image.height, image.width)):
            raise UnreadableImage(
                f"it has {image.width} x {image.height} pixels, its image {size[1]} x {size[0]}"
            )
        return _object(image)


def as_pixels(image: str | os.PathLike[str] | Image.Image | Pixels) -> Pixels:
    """An image as H x W x 3 RGB ``uint8``, from a file, a Pillow image, or an array that is this already.

    A grey array (H, W) is repeated in the three channels. Files and Pillow images are converted as in
    :func:`decode`.

    :raises PrepError: if it is none of these, or cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    try:
        if isinstance(image, str | os.PathLike):
            return decode(read_bytes(os.fspath(image)).data)
        return np.array(_to_rgb(image), dtype=np.uint8)
    except UnreadableImage as error:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "The image"
        raise PrepError(f"{name}: {str(error).rstrip('.')}.", "Give the path of a photo.") from error
    except (AttributeError, OSError, TypeError, ValueError) as error:  # another class, or a damaged image
        wrong = f"An image of type {type(image).__name__} cannot be used: {error}."
        raise PrepError(wrong, "Give a path, a Pillow image or an RGB array.") from error


def _checked(image: npt.NDArray[np.generic]) -> Pixels:
    """An array of pixels, checked."""
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)) or 0 in image.shape:
        raise PrepError(
            f"An array of shape {image.shape} and dtype {image.dtype} is not an image.",
            "Give a uint8 array of shape (height, width, 3) in RGB order.",
        )
    pixels = np.repeat(image[..., None], 3, axis=2) if grey else image
    return np.ascontiguousarray(pixels, dtype=np.uint8)


@contextlib.contextmanager
def _file(path: str | Path) -> Iterator[BinaryIO]:
    """A plain file of a size that an image may have."""
    try:
        file = open_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableImage("file not found") from None
    except NotPlainError:
        raise UnreadableImage("not a file") from None
    except (OSError, ValueError) as error:  # a name with NUL or a lone surrogate is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(f"cannot read the file: {reason}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise UnreadableImage("file is empty (0 bytes)")
        if size > MAX_BYTES:
            raise UnreadableImage(f"file of {size} bytes is over the limit of {MAX_BYTES}")
        try:
            yield file
        except OSError as error:
            raise UnreadableImage(f"cannot read the file: {error.strerror or error}") from error


@contextlib.contextmanager
def _open(file: BinaryIO | io.BytesIO) -> Iterator[Image.Image]:
    """An image by its header; every error in the block becomes an :class:`UnreadableImage`."""
    from PIL import Image, UnidentifiedImageError

    Image.init()  # registers every plug-in once; `formats` may contain registered ones only
    try:
        with Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(
                    f"{image.width}x{image.height} pixels is over the limit of {MAX_PIXELS}"
                )
            yield image
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        file.seek(0)
        raise UnreadableImage(_unknown(file.read())) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than the limit of {MAX_PIXELS}: a decompression bomb?") from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory to decode it") from error
    except Exception as error:  # decoders raise many types for invalid bytes: SyntaxError, struct.error, ...
        raise UnreadableImage(f"cannot decode it: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """The decoded pixels of any mode as RGB."""
    from PIL import Image

    image.load()  # reads the whole file, so that a truncated one is an error
    if image.mode.startswith("I"):
        # Pillow clips 16-bit samples at 255 when it converts them; the high byte is the value of an 8-bit
        # file.
        samples = np.asarray(image)
        wide = samples if samples.dtype.itemsize == 2 else samples.clip(0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImage("32-bit float samples have no defined colour range")
    if image.mode == "P":
        # Through RGBA, so that a transparent palette entry keeps its colour.
        image = image.convert("RGBA")
    # `convert` would copy an image that is already RGB: 144 MB for a 48-megapixel photo.
    return image if image.mode == "RGB" else image.convert("RGB")


def _object(image: Image.Image) -> Mask:
    """The pixels of a mask file that belong to its object, by colour or else by the alpha channel."""
    image.load()
    least = 1
    if image.format not in LOSSLESS or image.info.get("compression") == "jpeg":
        least = 128
    wide = image.mode.startswith("I") or image.mode == "F"
    alpha = not wide and ("transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"))
    samples = np.asarray(image if wide or image.mode == "L" else image.convert("RGBA" if alpha else "RGB"))
    samples = samples.reshape(image.height, image.width, -1)
    colours = samples[..., :3]
    inside = np.asarray((colours > 0 if wide else colours >= least).any(axis=2))
    if image.mode == "P" and not (inside == (np.asarray(image) != 0)).all():
        raise UnreadableImage("its palette has another colour than black for 0, or black for others")
    plain = bool((colours == colours[0, 0]).all())  # one colour throughout
    shown = samples[..., 3] >= least if alpha else np.ones_like(inside)
    if shown.any() and not shown.all():
        if plain or inside.all() or not inside.any():
            inside = shown
        elif not (inside <= shown).all():
            raise UnreadableImage("its colours and its alpha channel show different objects")
    if not inside.any():
        raise UnreadableImage('no pixel belongs to an object (without a target, write "mask": [])')
    if inside.all() and not plain:
        raise UnreadableImage("no pixel is black, so it is unknown which ones are its background")
    return inside


def _unknown(data: bytes) -> str:
    """The reason in a row of a file that no decoder takes for one of its own."""
    # A file of this family begins with the size of its first part, whose kind and brands follow.
    length = min(int.from_bytes(data[:4], "big"), 512)
    brands = {data[place : place + 4] for place in range(8, length, 4)} if data[4:8] == b"ftyp" else set()
    if brands & {b"avif", b"avis"}:  # libavif reads all of its parts before it says what it is
        return "cannot decode it: an AVIF image that is cut short, damaged or far too large"
    if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis"}:
        return "cannot decode it: a HEIC image (convert it to JPEG or PNG)"
    return f"not an image: {_looks_like(data)}"


def _looks_like(data: bytes) -> str:
    """A guess at what undecodable bytes are."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page"
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer (fetch the file with `git lfs pull`)"
    if head.startswith((b"{", b"[")):
        return "JSON text"
    return f"{len(data)} bytes in an unknown format"
