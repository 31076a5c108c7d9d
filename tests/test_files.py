"""Files that are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from normscope.files import atomic_file, leftovers, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    seen: list[bytes] = []
    replace = os.replace

    def look_then_replace(source: str, target: Path) -> None:
        seen.extend([path.read_bytes(), Path(source).read_bytes()])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    write_atomically(path, b"new and longer")
    assert seen == [b"old", b"new and longer"]
    assert path.read_bytes() == b"new and longer"


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


def test_an_error_in_the_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_temporary_file_can_be_read_before_it_is_renamed(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert Path(file.name).read_bytes() == b"new"
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_a_killed_process_left_is_listed_for_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = os.fork()
    if process == 0:
        with atomic_file(path) as file:
            file.write(b"half")
            file.flush()
            os._exit(9)
    os.waitpid(process, 0)
    assert not path.exists()
    (left,) = leftovers(path)
    assert left.read_bytes() == b"half"
    assert list(leftovers(tmp_path / "other")) == []


@pytest.mark.parametrize("refusal", [None, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_the_first_of_two_writers_wins_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None
) -> None:
    def refuse(source: str, target: Path) -> None:
        assert refusal is not None
        raise OSError(refusal, os.strerror(refusal))

    if refusal is not None:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    write_atomically(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
    assert path.stat().st_nlink == 1


def test_a_link_whose_reply_was_lost_is_no_second_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_twice(source: str, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    write_atomically(tmp_path / "file", b"first", replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_writer_that_may_not_go_on_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def forbid() -> None:
        assert len(list(leftovers(path))) == 1
        raise PermissionError("taken over")

    with pytest.raises(PermissionError, match="taken over"):
        write_atomically(path, b"new", check=forbid)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
