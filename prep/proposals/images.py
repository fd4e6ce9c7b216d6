"""Turn any image file into RGB pixels, or into one sentence that says why it cannot be."""

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

# Formats that Pillow decodes by itself. Others are refused even where a plug-in is installed: some hand the
# file to an outside program (PostScript), and none of them holds photographs that a dataset refers to.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 89_478_485  # 256 MiB as RGB; a 48-megapixel photo passes, a decompression bomb does not
MAX_BYTES = 1 << 29


class UnreadableImage(Exception):
    """An image that cannot be used; the text is the reason, fit for a row's ``error``."""


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """The bytes of an image file, their SHA-256 (64 hex digits) and when it was last written (ns)."""

    data: bytes
    sha256: str
    mtime_ns: int


def check_name(image: str) -> None:
    """Refuse a name that could leave the folder it is relative to.

    ``image`` is a POSIX path relative to a root. Only the name is judged: links inside the root are the
    user's own.
    """
    parts = PurePosixPath(image.replace("\\", "/")).parts
    if not parts or "\0" in image:
        raise UnreadableImage("the image has no usable name")
    if ".." in parts or parts[0].startswith("/") or (len(image) > 1 and image[1] == ":"):
        raise UnreadableImage("the image's name leads out of its folder")


def read_bytes(path: str | Path) -> ImageBytes:
    """The bytes of a file; raises :class:`UnreadableImage` where it is no regular, readable file."""
    file = Path(path)
    try:
        if not file.is_file():  # a pipe or device would block, a folder has no bytes
            raise UnreadableImage("not a file" if file.exists() else "file not found")
        before = file.stat()  # of the file as it was, should it change while we read
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
    """How many pixels an encoded image's header promises; 0 where it cannot be told without decoding."""
    try:
        with _open(data) as image:
            return image.size[0] * image.size[1]
    except Exception:  # `decode` finds out why and says so
        return 0


def decode(data: bytes) -> Pixels:
    """The stored pixels of an encoded image as an H x W x 3 RGB ``uint8`` array.

    Orientation: the EXIF tag is not applied. Datasets of the COCO family annotate the pixels as they are
    stored, so a mask must index those; a viewer that turns the photo turns both. First frame of an animation;
    grey and palette repeated or looked up; CMYK by Pillow's conversion without a colour profile; alpha
    dropped (the colours stored beneath it stay); 16-bit samples by their high byte. Raises
    :class:`UnreadableImage`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _open(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(f"{width}x{height} pixels is over the limit of {MAX_PIXELS}")
            image.load()  # all of the file: a truncated one is an error, not a photo that is half grey
            return _to_rgb(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"not an image: {_looks_like(data)}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than the limit of {MAX_PIXELS}: a decompression bomb?") from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory to decode it") from error
    except Exception as error:  # decoders of hostile bytes fail in every way: SyntaxError, struct.error, ...
        raise UnreadableImage(f"cannot decode it: {error or type(error).__name__}") from error


def _open(data: bytes) -> Image.Image:
    """Open an encoded image by its header; the pixels are not decoded yet."""
    from PIL import Image

    Image.init()  # registers every plug-in, once; `formats` must name registered ones only
    return Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])


def _to_rgb(image: Image.Image) -> Pixels:
    """A loaded Pillow image of any mode as H x W x 3 ``uint8``."""
    mode = image.mode
    if mode.startswith("I"):
        # Pillow clips 16-bit samples at 255 where it converts them; their high byte is what an 8-bit file
        # would hold.
        samples = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = (samples >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if mode == "F":
        raise UnreadableImage("32-bit float samples have no defined range of colours")
    if mode == "P":
        # By way of RGBA, so that a palette entry marked transparent keeps its own colour.
        image = image.convert("RGBA")
    # `convert` would copy what is RGB already: 200 MB for a photo of 48 megapixels.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _looks_like(data: bytes) -> str:
    """What bytes that no decoder knows seem to be, for the reason in a row."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the file with `git lfs pull`)"
    if head.startswith((b"{", b"[")):
        return "JSON text"
    return f"{len(data)} bytes that no decoder knows"
