import io
import tarfile
import zipfile
from typing import Any

import pytest

from normscope.data.readers import files as archives
from normscope.data.readers.files import open_tar_member, open_zip_member


def tar(path, *members, mode: Any = "w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            if isinstance(body, bytes):
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
            else:
                info.type, info.linkname = body
                archive.addfile(info)
    return path


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return path


def read(opened):
    with opened as stream:
        return stream.read()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w"])
def test_a_member_is_read_and_nothing_is_written(tmp_path, mode):
    path = tar(tmp_path / "a.tar", ("d", (tarfile.DIRTYPE, "")), ("d/x", b"one"), ("d/y", b"two"), mode=mode)
    assert read(open_tar_member(path, "d/y")) == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "\\x", "a/.."])
def test_a_path_that_leaves_the_folder_is_refused_wherever_it_is(tmp_path, name):
    words = "whose path leaves the archive's folder"
    for members in ([("good", b"1"), (name, b"2")], [(name, b"2"), ("good", b"1")]):
        with pytest.raises(ValueError, match=words) as caught:
            read(open_tar_member(tar(tmp_path / "a.tgz", *members), "good"))
        assert repr(name) in str(caught.value)
        with pytest.raises(ValueError, match=words):
            read(open_zip_member(zipped(tmp_path / "a.zip", *members), "good"))
    with pytest.raises(ValueError, match=words):
        read(open_tar_member(tar(tmp_path / "a.tgz", (name, b"2")), name))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = tar(tmp_path / "a.tgz", ("good", b"1"), ("bad", (kind, "good")))
    for member in ("good", "bad"):
        with pytest.raises(ValueError, match=r"a\.tgz has the member 'bad', which is a link or a device"):
            read(open_tar_member(path, member))


def test_a_member_must_be_there_once_and_a_file(tmp_path):
    path = tar(tmp_path / "a.tgz", ("d", (tarfile.DIRTYPE, "")), ("x", b"1"), ("x", b"2"))
    for member, words in (
        ("d", "has a folder, not a file, at 'd'"),
        ("x", "has 2 members named 'x', expected one"),
        ("y", "has 0 members named 'y', expected one"),
        ("./x", "has 0 members"),
    ):
        with pytest.raises(ValueError, match=words):
            read(open_tar_member(path, member))


@pytest.mark.parametrize("harm", ["cut", "flipped", "plain", "empty"])
def test_a_harmed_tar_is_refused_by_name(tmp_path, harm):
    path = tar(tmp_path / "a.tgz", ("x", b"".join(b"%d\n" % (n * n) for n in range(5000))))
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    path.write_bytes({"cut": data[:middle], "flipped": flipped, "plain": b"text\n" * 400, "empty": b""}[harm])
    with pytest.raises(ValueError, match=r"a\.tgz is not a whole tar file"):
        read(open_tar_member(path, "x"))


def test_an_unpacked_tar_that_ends_early_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", ("x", bytes(5000)), mode="w")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.tar is not a whole tar file"):
        read(open_tar_member(path, "x"))


def test_a_tar_of_endless_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    path = tar(tmp_path / "a.tgz", *((f"m{n}", b"") for n in range(4)))
    with pytest.raises(ValueError, match=r"a\.tgz has more than 3 members"):
        read(open_tar_member(path, "m0"))


def test_a_zip_must_hold_the_one_file(tmp_path):
    assert read(open_zip_member(zipped(tmp_path / "a.zip", ("x", b"one")), "x")) == b"one"
    for members in ([("x", b"1"), ("y", b"2")], [("y", b"1")], []):
        with pytest.raises(ValueError, match=r"a\.zip holds \[.*\], expected \['x'\] alone"):
            read(open_zip_member(zipped(tmp_path / "a.zip", *members), "x"))


@pytest.mark.parametrize("harm", ["cut", "flipped", "plain", "empty"])
def test_a_harmed_zip_is_refused_by_name(tmp_path, harm):
    path = zipped(tmp_path / "a.zip", ("x", b"".join(b"%d\n" % (n * n) for n in range(5000))))
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    path.write_bytes({"cut": data[:middle], "flipped": flipped, "plain": b"text", "empty": b""}[harm])
    with pytest.raises(ValueError, match=r"a\.zip is not a whole zip file"):
        read(open_zip_member(path, "x"))


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x", b"one"))
    data = bytearray(path.read_bytes())
    # The lowest bit of the flags says encrypted: in the local header and in the directory.
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip cannot be unpacked: .*encrypted"):
        read(open_zip_member(path, "x"))
