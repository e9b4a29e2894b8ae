"""Files that are replaced as a whole."""

import pytest

from tamatar_auth.files.atomic_write import write_atomically


def test_new_file_is_for_its_owner_alone(tmp_path):
    write_atomically(tmp_path / "new", b"content")

    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_replaced_file_keeps_mode_unless_one_is_set(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o640)

    write_atomically(file, b"new")
    assert file.stat().st_mode & 0o777 == 0o640
    write_atomically(file, b"newer", mode=0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() == b"newer"


def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "target").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("target")

    write_atomically(link, b"new")

    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, b"new")

    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
