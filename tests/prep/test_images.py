"""Decoding: what each kind of file becomes, and that every bad one has its reason."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prep import images
from prep.errors import PrepError
from prep.images import UnreadableImage, as_pixels, check_name, decode, read_bytes
from tests.limits import limited

GRADIENT = np.add.outer(np.arange(6) * 30, np.arange(9) * 10).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_is_lossless() -> None:
    pixels = np.stack([GRADIENT, 255 - GRADIENT, GRADIENT // 2], axis=2)
    out = decode(encoded(Image.fromarray(pixels)))
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, pixels)


def test_grey_is_repeated() -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(GRADIENT))), np.dstack([GRADIENT] * 3))


def test_sixteen_bit_keeps_the_high_byte() -> None:
    deep = GRADIENT.astype(np.uint16) * 256 + 200
    for kind in ("PNG", "TIFF"):
        out = decode(encoded(Image.fromarray(deep), kind))
        np.testing.assert_array_equal(out, np.dstack([GRADIENT] * 3))


def test_bilevel() -> None:
    bits = GRADIENT > 100
    out = decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(out, np.dstack([bits * np.uint8(255)] * 3))


def test_palette_and_transparent_palette() -> None:
    colours = np.zeros((6, 9, 3), np.uint8)
    colours[2:, 4:] = (200, 30, 90)
    palette = Image.fromarray(colours).quantize(4)
    np.testing.assert_array_equal(decode(encoded(palette)), colours)
    hidden = palette.getpixel((8, 5))
    np.testing.assert_array_equal(decode(encoded(palette, transparency=hidden)), colours)


def test_alpha_is_dropped_not_blended() -> None:
    rgba = np.dstack([GRADIENT, GRADIENT, GRADIENT, np.zeros_like(GRADIENT)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgba))), rgba[..., :3])
    grey_alpha = Image.fromarray(rgba[..., 2:], mode="LA")
    np.testing.assert_array_equal(decode(encoded(grey_alpha)), rgba[..., :3])


def test_cmyk_is_close_to_the_rgb_it_came_from() -> None:
    pixels = np.full((16, 16, 3), (180, 90, 40), np.uint8)
    out = decode(encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=100))
    assert np.abs(out.astype(int) - pixels).max() <= 4


def test_orientation_tag_is_not_applied() -> None:
    image = Image.fromarray(np.dstack([GRADIENT] * 3))
    tag = Image.Exif()
    tag[0x0112] = 6
    plain, turned = encoded(image, "JPEG"), encoded(image, "JPEG", exif=tag)
    assert plain != turned
    np.testing.assert_array_equal(decode(plain), decode(turned))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(data).shape == (4, 5, 3)
    lossy = 0 if kind == "GIF" else 3
    np.testing.assert_allclose(decode(data), np.full((4, 5, 3), (255, 0, 0)), atol=lossy)


def test_float_samples_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="float"):
        decode(encoded(Image.fromarray(GRADIENT.astype(np.float32)), "TIFF"))


def test_truncated_anywhere_is_an_error() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "AVIF"):
        data = encoded(noise, kind)
        for share in (0.02, 0.3, 0.6, 0.9):
            with pytest.raises(UnreadableImage, match="cannot decode it" if kind == "AVIF" else None):
                decode(data[: int(len(data) * share)])


# An AVIF's size is in a part of its own ("ispe").
@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (16_384, 16_384, "more pixels than the limit"),
        (30_000, 30_000, "an AVIF image that is .* far too large"),
        (2**32 - 1, 2**32 - 1, "an AVIF image that is .* far too large"),
        (0, 0, "an AVIF image that is .* damaged"),
    ],
)
def test_an_avif_that_says_it_is_huge_has_a_reason_and_takes_no_memory(
    width: int, height: int, reason: str
) -> None:
    data = encoded(Image.new("RGB", (48, 64)), "AVIF")
    said, large = (b"ispe" + struct.pack(">III", 0, *size) for size in ((48, 64), (width, height)))
    assert data.count(said) == 1
    with limited(more=64 << 20), pytest.raises(UnreadableImage, match=reason):
        decode(data.replace(said, large))


def test_an_avif_is_read_whatever_its_name_is(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (48, 64), (200, 30, 90, 0))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    for name in ("a.jpg", "a.avif"):
        (tmp_path / name).write_bytes(encoded(picture, "AVIF", exif=orientation))
        assert images.image_size(tmp_path / name) == (64, 48)  # as stored
        pixels = decode(read_bytes(tmp_path / name).data)
        np.testing.assert_allclose(pixels, np.full((64, 48, 3), (200, 30, 90)), atol=3)  # not blended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Tag data larger", "ignore:Corrupt EXIF", "ignore:Image size")
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF"):
        whole = encoded(Image.fromarray(np.dstack([GRADIENT] * 3)), kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(0, 256)
            (tmp_path / "m").write_bytes(data)
            with suppress(UnreadableImage):
                assert images.read_mask(tmp_path / "m").any()
            try:
                out = decode(bytes(data))
            except UnreadableImage:
                continue
            assert out.ndim == 3
            assert out.shape[2] == 3


def test_limit_of_pixels_is_read_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (300, 200)))
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 200)
    assert decode(data).shape == (200, 300, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 200 - 1)
    with pytest.raises(UnreadableImage, match="300x200"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b'{"message": "Not Found"}', "JSON"),
        (b"\x00\x01\x02", "3 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\0", "a HEIC image"),  # of a phone
        (b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42heic", "28 bytes in an unknown format"),  # behind its brands
    ],
)
def test_what_is_not_an_image_says_what_it_looks_like(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


def test_reading_files(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    found = read_bytes(file)
    assert found.data == b"abc"
    assert found.sha256 == hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in [
        ("none.jpg", "not found"),
        ("empty.jpg", "empty"),
        ("pipe.jpg", "not a file"),
        (".", "not a file"),
        ("x" * 400, "cannot read|not found"),
    ]:
        with pytest.raises(UnreadableImage, match=reason):
            read_bytes(tmp_path / name)


@pytest.mark.parametrize("name", ["train2014/a.jpg", "a.jpg", "..a/b..jpg", "ünïcode/写真.jpg", "a b/c.jpg"])
def test_names_inside_the_root(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
    check_name(name)
    assert read_bytes(tmp_path / name).data == name.encode()
    with pytest.raises(UnreadableImage):
        check_name(f"../{name}")


@given(st.lists(st.sampled_from(["a", "b.jpg", "..", ".", "", "/", "\\", "C:", "\0", "é"]), max_size=6))
def test_a_name_that_passes_stays_below_the_root(parts: list[str]) -> None:
    name = "/".join(parts)
    try:
        check_name(name)
    except UnreadableImage:
        return
    joined = os.path.normpath(Path("/data/folder") / name)
    assert joined.startswith("/data/folder/")


OUTSIDE = ["", ".", "./.", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "a\\..\\b.jpg", "C:/a.jpg", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_root(name: str) -> None:
    with pytest.raises(UnreadableImage):
        check_name(name)


# What each file of the folder of bad inputs becomes: its height and width, or words of the reason.
EXPECTED: dict[str, tuple[int, int] | str] = {
    "16bit.tif": (64, 64),
    "animated.gif": (245, 245),
    "broken_data_stream.png": "cannot decode",
    "cmyk.jpg": (100, 100),
    "cmyk_coco.jpg": (120, 160),
    "decompression_bomb.gif": "decompression bomb",
    "exif_orientation_3.jpg": (128, 128),
    "exif_orientation_6.jpg": (128, 128),
    "grey.jpg": (128, 128),
    "html_not_image.jpg": "HTML",
    "icc_after_sof.jpg": (10, 10),
    "invalid_1551.jpg": (58, 61),
    "invalid_1713.jpg": (500, 49),
    "invalid_exif.jpg": (200, 200),
    "junk_jpeg_header.jpg": (768, 1024),
    "landscape_6.jpg": (600, 450),  # as stored; a viewer that applies the tag shows 450 x 600
    "landscape_8.jpg": (600, 450),
    "one_pixel.jpg": (1, 1),
    "palette16.png": (128, 128),
    "png_named.jpg": (120, 160),
    "rgba.png": (150, 162),
    "truncated.jpg": "truncated",
    "zero_byte.jpg": "empty",
}


def test_every_bad_input_is_listed(shared: Path) -> None:
    assert set(EXPECTED) == {p.name for p in (shared / "data" / "bad_inputs" / "images").iterdir()}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_bad_input_has_a_defined_result(shared: Path, name: str) -> None:
    path, wanted = shared / "data" / "bad_inputs" / "images" / name, EXPECTED[name]
    if isinstance(wanted, tuple):
        assert decode(read_bytes(path).data).shape == (*wanted, 3)
    else:
        with pytest.raises(UnreadableImage, match=wanted):
            decode(read_bytes(path).data)


def test_stored_pixels_match_coco_annotations(shared: Path) -> None:
    import json

    coco = shared / "data" / "coco"
    listed = json.loads((coco / "annotations" / "instances_train2014.json").read_text())["images"]
    for image in listed[::4]:
        pixels = decode(read_bytes(coco / "train2014" / image["file_name"]).data)
        assert pixels.shape == (image["height"], image["width"], 3)


def test_every_suffix_that_is_listed_can_be_opened(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 3), (200, 30, 90))
    kinds = Image.registered_extensions()
    assert {".jpg", ".jpe", ".jfif", ".png", ".ppm", ".jp2", ".webp", ".tif", ".avif"} <= images.suffixes()
    assert not images.suffixes() & {".eps", ".ps", ".pdf", ".wmf"}
    for suffix in images.suffixes():
        file = tmp_path / f"a{suffix}"
        if kinds[suffix] in Image.SAVE:
            picture.save(file, kinds[suffix], **({"save_all": True} if kinds[suffix] == "MPO" else {}))
            assert np.asarray(images.read_rgb(file)).shape == (3, 4, 3)
            assert images.image_size(file) == (3, 4)


def test_postscript_is_handed_to_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (tmp_path / "a.jpg").write_bytes(page)
    started = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **_: started.append(args))
    for read in (images.read_rgb, images.image_size, images.read_mask):
        with pytest.raises(UnreadableImage, match="unknown format"):
            read(tmp_path / "a.jpg")
    assert started == []


def test_every_reader_has_the_limit_of_pixels_and_wants_plain_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (300, 200)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 200 - 1)
    for read in (images.read_rgb, images.image_size, images.read_mask):
        with pytest.raises(UnreadableImage, match="300x200"):
            read(tmp_path / "a.png")
        for name in ("pipe.png", "endless.png"):
            with pytest.raises(UnreadableImage, match="not a file"):
                read(tmp_path / name)


OBJECT = np.zeros((6, 9), bool)
OBJECT[2:5, 3:7] = True
GREY = (OBJECT * 255).astype(np.uint8)
BLACK, WHITE, HALF = np.zeros_like(GREY), np.full_like(GREY, 255), np.full_like(GREY, 200)


def palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


RED, DARK, LIGHT = (255, 0, 0), (0, 0, 0), (255, 255, 255)
GOOD_MASKS = {
    "one bit": (Image.fromarray(OBJECT), "PNG"),
    "grey": (Image.fromarray(GREY), "PNG"),
    "zero and one": (Image.fromarray(OBJECT.astype(np.uint8)), "PNG"),
    "16 bits": (Image.fromarray(OBJECT.astype(np.uint16) * 7), "PNG"),
    "16 bits, TIFF": (Image.fromarray(OBJECT.astype(np.uint16)), "TIFF"),
    "floats": (Image.fromarray(np.where(OBJECT, 0.5, np.nan).astype(np.float32)), "TIFF"),
    "colour": (Image.fromarray(np.dstack([GREY, BLACK, BLACK])), "PNG"),
    "JPEG": (Image.fromarray(GREY), "JPEG"),
    "JPEG in TIFF": (Image.fromarray(GREY), "TIFF"),
    "red JPEG": (Image.fromarray(np.dstack([GREY, BLACK, BLACK])), "JPEG"),
    "WebP": (Image.fromarray(GREY), "WEBP"),
    "opaque": (Image.fromarray(np.dstack([GREY, GREY, GREY, WHITE])), "PNG"),
    "black, shown by alpha": (Image.fromarray(np.dstack([BLACK, BLACK, BLACK, GREY])), "PNG"),
    "white, shown by alpha": (Image.fromarray(np.dstack([WHITE, WHITE, WHITE, GREY])), "PNG"),
    "grey, shown by alpha": (Image.fromarray(np.dstack([HALF, GREY]), "LA"), "PNG"),
    "colour and alpha": (Image.fromarray(np.dstack([GREY, GREY, GREY, GREY])), "PNG"),
    "GIF": (Image.fromarray(GREY), "GIF"),
    "BMP": (Image.fromarray(OBJECT), "BMP"),
    "PGM": (Image.fromarray(OBJECT.astype(np.uint8)), "PPM"),
    "palette": (palette(OBJECT, DARK, RED), "PNG"),
    "palette of many": (palette(OBJECT * np.arange(9), DARK, *[RED] * 8), "PNG"),
}
SAVE = {"JPEG": {"quality": 75, "subsampling": 0}, "JPEG in TIFF": {"compression": "jpeg", "quality": 75}}


@pytest.mark.parametrize("kind", GOOD_MASKS)
def test_masks_of_every_kind(tmp_path: Path, kind: str) -> None:
    image, form = GOOD_MASKS[kind]
    # Larger, as JPEG works on squares of 8 x 8 pixels.
    image = image.resize((90, 60), Image.Resampling.NEAREST)
    image.save(tmp_path / "m", form, **SAVE.get(kind, SAVE["JPEG"] if form == "JPEG" else {}))
    np.testing.assert_array_equal(
        images.read_mask(tmp_path / "m"), OBJECT.repeat(10, axis=0).repeat(10, axis=1)
    )


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(BLACK), "no pixel belongs"),
        (Image.fromarray(np.dstack([BLACK, BLACK, BLACK, WHITE])), "no pixel belongs"),
        (Image.fromarray(np.where(OBJECT, 9, 1).astype(np.uint8)), "no pixel is black"),
        (Image.fromarray(np.dstack([GREY, GREY, GREY, GREY[:, ::-1]])), "show different"),
        (palette(OBJECT, LIGHT, DARK), "palette"),
        (palette(OBJECT, DARK, DARK), "palette"),
        (palette(OBJECT, LIGHT, RED), "palette"),
    ],
)
def test_masks_that_may_mean_something_else(tmp_path: Path, image: Image.Image, reason: str) -> None:
    image.save(tmp_path / "m.png")
    with pytest.raises(UnreadableImage, match=reason):
        images.read_mask(tmp_path / "m.png")


def test_a_mask_that_covers_its_image_is_one(tmp_path: Path) -> None:
    Image.fromarray(WHITE).save(tmp_path / "m.png")
    assert images.read_mask(tmp_path / "m.png").all()


def test_sixteen_bits_need_little_memory() -> None:
    deep = encoded(Image.fromarray(np.zeros((2000, 2000), np.uint16)))
    tracemalloc.start()
    decode(deep)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 12


def test_a_file_a_pillow_image_and_an_array_are_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        for image in (tmp_path / "a.png", str(tmp_path / "a.png"), opened, pixels, pixels[::-1][::-1]):
            assert np.array_equal(as_pixels(image), pixels)
    grey = as_pixels(pixels[..., 0])
    assert grey.shape == (6, 9, 3)
    assert (grey == pixels[..., :1]).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\(2, 4, 5, 3\)"),
        (b"bytes", "bytes"),
        (None, "NoneType"),
        ("no/such.png", r"no/such\.png: file not found"),
        (Path(__file__), "test_images.py: not an image"),
        (Image.new("F", (3, 3)), "float samples"),
    ],
)
def test_what_is_no_image_is_refused_in_words(image: object, said: str) -> None:
    with pytest.raises(PrepError, match=said) as error:
        as_pixels(image)  # type: ignore[arg-type]
    assert error.value.remedy
