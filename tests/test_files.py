"""Files are written whole, or are as they were."""

import os
import stat

import pytest

from diffjax.files import PART, write_folder, write_text, write_whole


def test_a_file_that_cannot_be_written_whole_is_as_it_was_and_leaves_no_part(tmp_path):
    (tmp_path / "file").write_text("before")

    def fill(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", fill)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "before")]


def test_a_folder_is_whole_or_not_there(tmp_path):
    """Nor is what a killed process has left in its way."""
    (tmp_path / f"folder{PART}").mkdir()
    (tmp_path / f"folder{PART}" / "left").touch()

    def fill(part, error=None):
        (part / "file").write_text("whole")
        if error:
            raise error

    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "folder", lambda part: fill(part, OSError(28, "No space left")))
    assert list(tmp_path.iterdir()) == []
    write_folder(tmp_path / "new" / "folder", fill)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "new", "new/folder", "new/folder/file",
    ]  # fmt: skip


def test_text_is_utf_8_and_replaces_what_was_there(tmp_path):
    (tmp_path / "file").write_text("before")
    write_text(str(tmp_path / "file"), "σ\n")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"\xcf\x83\n")]


def test_the_part_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """In the other order a crash could leave an empty file under the final name."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        real_fsync(descriptor)

    def replace(source, target):
        calls.append(("replace", os.stat(source)[stat.ST_INO], os.stat(source)[stat.ST_SIZE]))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(tmp_path / "file", lambda part: part.write_bytes(b"whole"))
    assert [name for name, *_ in calls] == ["fsync", "replace"]
    assert calls[0][1:] == calls[1][1:]
    assert (tmp_path / "file").read_bytes() == b"whole"
