"""The doctor on data roots: counts, archives with known hashes, split versions, missing images."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from prep.datasets.catalogue import DATASETS
from prep.datasets.expected_counts import OFFICIAL
from prep.datasets.releases import RELEASES, Release, check_files
from prep.demo.dataset import write
from prep.errors import PrepError
from prep.machine.screen import screen
from prep.machine.trees import trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, images=6, seed=1)


def by_name(root: Path) -> dict[str, object]:
    return {finding.name: finding for finding in trees(root)}


def archive(root: Path, name: str = "refcoco") -> Release:
    """The archive of a tree's annotations as they are now, and its release."""
    path = root / "refer" / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file in ("refs(unc).p", "instances.json"):
            made.write(root / "refer" / name / file, f"{name}/{file}")
    data = path.read_bytes()
    return Release(path.name, "https://example.org", len(data), hashlib.sha256(data).hexdigest())


def test_files_are_compared_with_those_of_the_released_archive(root: Path) -> None:
    files = [root / "refer" / "refcoco" / name for name in ("refs(unc).p", "instances.json")]
    alone = check_files(root, "refcoco", files)
    assert alone.ok is None
    assert all(hashlib.sha256(path.read_bytes()).hexdigest()[:16] in alone.text for path in files)
    known = {"refcoco": archive(root)}
    assert check_files(root, "refcoco", files, known).ok is True
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"!")
    changed = check_files(root, "refcoco", files, known)
    assert (changed.ok, "refs(unc).p" in changed.text, "instances" in changed.text) == (False, True, False)
    other = root / "refer" / "refcoco" / "refs(mine).p"
    other.write_bytes(b"")
    assert "the archive has none" in check_files(root, "refcoco", [other], known).text
    wrong = known["refcoco"]._replace(sha256="0" * 64)
    assert "is not the released one" in check_files(root, "refcoco", files, {"refcoco": wrong}).text
    short = known["refcoco"]._replace(size=3)
    assert "the released one 3" in check_files(root, "refcoco", files, {"refcoco": short}).text


def test_an_archive_that_is_none_is_explained(root: Path) -> None:
    path = root / "refer" / "refcoco.zip"
    path.write_bytes(b"not a zip")
    release = Release("refcoco.zip", "", 9, hashlib.sha256(b"not a zip").hexdigest())
    with pytest.raises(PrepError, match="Download it again"):
        check_files(root, "refcoco", [], {"refcoco": release})


def test_missing_images_are_told_by_name_and_where_to_get_them(root: Path) -> None:
    gone = sorted((root / "train2014").iterdir())[:5]
    for path in gone:
        path.unlink()
    found = by_name(root)["refcoco unc"]
    assert found.items == tuple(f"train2014/{path.name}" for path in gone)
    assert "train2014.zip" in found.remedy
    page = screen(trees(root), [])
    assert "curl -L -o" in page
    assert "split by unc: train, val" in page


def test_a_version_under_another_name_is_recognised(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """95,010 or 104,560 expressions: the count says which release a file is."""
    import pickle

    refs = pickle.loads((root / "refer" / "refcoco" / "refs(unc).p").read_bytes())
    total = sum(len(ref["sentences"]) for ref in refs)
    table = {
        **OFFICIAL,
        ("refcoco", "google"): {"(all)": OFFICIAL["refcoco", "unc"]["(all)"]._replace(sentences=total)},
    }
    monkeypatch.setattr("prep.machine.trees.OFFICIAL", table)
    assert f"these are the {total} expressions of refcoco google" in by_name(root)["refcoco unc"].text


def test_unknown_versions_and_empty_folders_are_told(root: Path) -> None:
    refs = root / "refer" / "refcoco" / "refs(unc).p"
    shutil.copy(refs, refs.with_name("refs(mine).p"))
    (root / "refer" / "refcocog").mkdir()
    found = by_name(root)
    assert "--split-by mine" in found["refcoco mine"].remedy
    assert "refs(umd).p" in found["refcocog"].text
    assert RELEASES["refcocog"].url in found["refcocog"].remedy


def test_releases_are_named_as_the_archives_are() -> None:
    for name, release in RELEASES.items():
        assert release.sha256 is None or len(release.sha256) == 64
        if release.archive.endswith(".zip"):
            assert release.url.endswith(f"/{name}.zip")
    assert set(RELEASES) == set(DATASETS)
