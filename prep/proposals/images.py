"""Decodes image files to RGB pixels, or reports in one sentence why a file cannot be decoded."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

# Formats that Pillow decodes itself. Others are rejected even if a plug-in is installed: some pass the file
# to an external program (PostScript), and no dataset uses them for photographs.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF")
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


def check_name(image: str) -> None:
    """Reject a name that could point outside the folder it is relative to.

    ``image`` is a POSIX path relative to a root. Only the name is checked; links inside the root are
    followed.
    """
    parts = PurePosixPath(image.replace("\\", "/")).parts
    if not parts or "\0" in image:
        raise UnreadableImage("the image has no usable name")
    if ".." in parts or parts[0].startswith("/") or (len(image) > 1 and image[1] == ":"):
        raise UnreadableImage("the image's name points outside its folder")


def read_bytes(path: str | Path) -> ImageBytes:
    """The bytes of a file; raises :class:`UnreadableImage` if it is not a regular, readable file."""
    file = Path(path)
    try:
        if not file.is_file():  # reading a pipe or device would block
            raise UnreadableImage("not a file" if file.exists() else "file not found")
        before = file.stat()  # before reading, in case the file changes meanwhile
        size = before.st_size
        if size == 0:
            raise UnreadableImage("file is empty (0 bytes)")
        if size > MAX_BYTES:
            raise UnreadableImage(f"file of {size} bytes is over the limit of {MAX_BYTES}")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(f"cannot read the file: {reason}") from error
    return ImageBytes(data, hashlib.sha256(data).hexdigest(), before.st_mtime_ns)


def header_pixels(data: bytes) -> int:
    """The number of pixels in an encoded image's header; 0 if it cannot be read without decoding."""
    try:
        with _open(data) as image:
            return image.size[0] * image.size[1]
    except Exception:  # `decode` reports the reason
        return 0


def decode(data: bytes) -> Pixels:
    """The stored pixels of an encoded image as an H x W x 3 RGB ``uint8`` array.

    The EXIF orientation is not applied: datasets of the COCO family annotate the pixels as stored, so masks
    must refer to those. The first frame of an animation is used; grey and palette images are converted to
    RGB; CMYK is converted by Pillow without a colour profile; alpha is dropped (the stored colours are kept);
    16-bit samples are reduced to their high byte. Raises :class:`UnreadableImage`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _open(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(f"{width}x{height} pixels is over the limit of {MAX_PIXELS}")
            image.load()  # reads the whole file, so that a truncated one is an error
            return _to_rgb(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"not an image: {_looks_like(data)}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than the limit of {MAX_PIXELS}: a decompression bomb?") from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory to decode it") from error
    except Exception as error:  # decoders raise many types for invalid bytes: SyntaxError, struct.error, ...
        raise UnreadableImage(f"cannot decode it: {error or type(error).__name__}") from error


def _open(data: bytes) -> Image.Image:
    """Open an encoded image by its header; the pixels are not decoded yet."""
    from PIL import Image

    Image.init()  # registers every plug-in once; `formats` may contain registered ones only
    return Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])


def _to_rgb(image: Image.Image) -> Pixels:
    """A loaded Pillow image of any mode as H x W x 3 ``uint8``."""
    mode = image.mode
    if mode.startswith("I"):
        # Pillow clips 16-bit samples at 255 when it converts them; the high byte is the value of an 8-bit
        # file.
        samples = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = (samples >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if mode == "F":
        raise UnreadableImage("32-bit float samples have no defined colour range")
    if mode == "P":
        # Through RGBA, so that a transparent palette entry keeps its colour.
        image = image.convert("RGBA")
    # `convert` would copy an image that is already RGB: 144 MB for a 48-megapixel photo.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _looks_like(data: bytes) -> str:
    """A guess at what undecodable bytes are, for the reason in a row."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the file with `git lfs pull`)"
    if head.startswith((b"{", b"[")):
        return "JSON text"
    return f"{len(data)} bytes in an unknown format"
