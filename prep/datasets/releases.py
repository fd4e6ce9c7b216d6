"""Where the annotations and images of the released datasets come from, and the hashes of the archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prep.errors import PrepError
from prep.files import sha256_of
from prep.inputs import open_plain

# The server of REFER is down since 2022 (lichengunc/refer, issue 14); these are the archived copies that
# issue 26 and others name. Sizes and SHA-256 of three archives: as stated by several public
# projects (that of refcoco+.zip by one).
_ARCHIVED = "https://web.archive.org/web/{}id_/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}"
IMAGES = "http://images.cocodataset.org/zips/train2014.zip"
SAIAPR = _ARCHIVED.format("20220515000000", "images/saiapr_tc-12.zip")


class Release(NamedTuple):
    """An archive with a dataset's annotations: its name, its place, its bytes and SHA-256 if known."""

    archive: str
    url: str
    size: int | None = None
    sha256: str | None = None


RELEASES = {
    "refcoco": Release(
        "refcoco.zip",
        _ARCHIVED.format("20220413011718", "refcoco.zip"),
        53_993_993,
        "7f924bb7ed8dc4568058e4ff626281918d56e5206f4c868c5a80f088f38c8bf0",
    ),
    "refcoco+": Release(
        "refcoco+.zip",
        _ARCHIVED.format("20220413011656", "refcoco+.zip"),
        45_613_210,
        "5f1238112d63199e68da54a28f201471909b21ded7ed79a57d51b4c1443c6b45",
    ),
    "refcocog": Release(
        "refcocog.zip",
        _ARCHIVED.format("20220413012904", "refcocog.zip"),
        56_712_951,
        "3d1f7e5b2ff2205940bf59de55f861f5f2cc1403fb980669933a7f9af1aa8211",
    ),
    "refclef": Release("refclef.zip", _ARCHIVED.format("20220413011817", "refclef.zip")),
    "grefcoco": Release("grefs(unc).json", "https://github.com/henghuiding/gRefCOCO"),
}


class Verdict(NamedTuple):
    """Whether an archive or file is the released one (None: unknown), and why."""

    ok: bool | None
    text: str


def archive_of(root: Path, name: str) -> Path | None:
    """The archive of a dataset, if it was left beside the data."""
    file = RELEASES[name].archive
    places = (root, root / "refer", root / "refer" / name)
    return next(
        (place / file for place in places if file.endswith(".zip") and (place / file).is_file()), None
    )


def check_files(root: Path, name: str, files: list[Path], known: dict[str, Release] | None = None) -> Verdict:
    """Whether annotation files are those of the released archive.

    Hashes of the files themselves are not published, only those of the archives. With the archive beside the
    data, each file is compared with the member of its name; without it, the files' SHA-256 are told, to
    compare two machines.
    """
    release, archive = (known or RELEASES)[name], archive_of(root, name)
    if archive is None or release.sha256 is None:
        told = ", ".join(f"{path.name} {sha256_of(path)[:16]}" for path in files)
        return Verdict(None, f"SHA-256 {told}")
    if release.size is not None and archive.stat().st_size != release.size:
        size = archive.stat().st_size
        return Verdict(False, f"{archive.name} has {size:,} bytes, the released one {release.size:,}")
    if (found := sha256_of(archive)) != release.sha256:
        return Verdict(False, f"{archive.name} is not the released one: its SHA-256 begins {found[:16]}")
    others = list(_differing(archive, files))
    if others:
        return Verdict(False, f"not as in the released {archive.name}: {', '.join(others)}")
    return Verdict(True, f"as in the released {archive.name} (SHA-256 {release.sha256[:16]}...)")


def _differing(archive: Path, files: list[Path]) -> Iterator[str]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(info.filename).name: info for info in opened.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise PrepError(f"{archive} cannot be read: {error}.", "Download it again.") from error
    for path in files:
        member = members.get(path.name)
        if member is None:
            yield f"{path.name} (the archive has none)"
        elif path.stat().st_size != member.file_size or _crc32(path) != member.CRC:
            yield path.name


def _crc32(path: Path) -> int:
    value = 0
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
