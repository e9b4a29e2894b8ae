"""`make release`: the files in dist/, and what is checked before they are published."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.commands import BIN, ROOT, run
from tools import release


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    release.build(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture
def sdist(dist, tmp_path):
    """A copy that a test may change."""
    (sdist,) = dist.glob("*.tar.gz")
    return Path(shutil.copy(sdist, tmp_path))


def repacked(sdist, change):
    """Change the files of an sdist in a folder, and pack them again."""
    folder = sdist.parent / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    change(source)
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(source, source.name)
    return sdist


def test_metadata_of_release_passes_twine(wheel, sdist):
    run(BIN / "twine", "check", "--strict", wheel, sdist, cwd=sdist.parent)


def test_sdist_builds_same_wheel(wheel, sdist):
    assert list(release.rebuilt_differently(wheel, sdist)) == []


def test_sdist_with_other_code_is_reported(wheel, sdist):
    changed = repacked(sdist, lambda source: (source / "src/tamatar_auth/added.py").touch())

    assert list(release.rebuilt_differently(wheel, changed)) == [
        f"{sdist.name} builds another {wheel.name}"
    ]


def test_sdist_with_other_files_than_git_is_reported(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    before = set(release.misplaced_files(sdist))

    def change(source):
        (source / "secret.key").touch()
        (source / "Makefile").unlink()

    after = set(release.misplaced_files(repacked(sdist, change)))

    assert after - before == {"git does not track secret.key", "The sdist lacks Makefile"}


def test_checksums_of_release_are_those_of_sha256sum(dist, tmp_path):
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(release.checksums(dist))

    checked = subprocess.run(
        ["sha256sum", "--check", sums], cwd=dist, capture_output=True, text=True, check=True
    )

    assert [line.rpartition(": ")[2] for line in checked.stdout.splitlines()] == ["OK"] * 4
    assert "auth.binpb" in checked.stdout


def test_release_is_tried_with_each_supported_python():
    assert release.supported_versions() == ["3.11", "3.12", "3.13"]
    assert release.find_python("3.99") is None
