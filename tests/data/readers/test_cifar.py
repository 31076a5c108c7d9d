"""CIFAR-10: the publisher's records and the JPEG part, against the bytes that were written; hostile archives."""

import gzip
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from normscope.data import load_cifar10, load_cifar10_part
from normscope.data.readers.cifar10.jpegs import decode_jpeg, read_jpegs
from normscope.data.readers.cifar10.records import CLASSES, PIXELS, read_batches
from normscope.data.readers.files import read_tar
from support import cifar_data


def archive(path: Path, members: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    path.write_bytes(gzip.compress(stream.getvalue(), 1))
    return path


@pytest.fixture(scope="module")
def batches() -> dict[str, bytes]:
    return cifar_data.batch_members()


@pytest.fixture(scope="module")
def jpegs() -> dict[str, bytes]:
    return cifar_data.jpeg_members(2, 1)


def test_records_are_a_label_and_three_planes(tmp_path: Path, batches: dict[str, bytes]) -> None:
    train, test = read_batches(archive(tmp_path / "a.tar.gz", batches))
    assert (train.x.shape, test.x.shape) == ((600, 3, 32, 32), (200, 3, 32, 32))
    # Record 13 of the second file, by hand: a label, then 1,024 bytes each of red, green and blue, row by row.
    record = batches["cifar-10-batches-bin/data_batch_2.bin"][13 * 3073 : 14 * 3073]
    number = 120 + 13
    assert train.y[number] == record[0]
    assert train.x[number, 1, 5, 7] == record[1 + 1024 + 5 * 32 + 7]
    assert train.x[number].tobytes() == record[1:]
    assert train.y.dtype == np.int64


def test_jpegs_are_ordered_so_that_the_last_ones_are_of_all_classes(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    train, test = read_jpegs(archive(tmp_path / "a.tar.gz", dict(reversed(jpegs.items()))))
    assert train.y.tolist() == [*range(10), *range(10)]
    assert test.y.tolist() == list(range(10))
    # The encoding loses little of a smooth image: it is the image that was encoded, not another one.
    for label in range(10):
        wanted = cifar_data.drawn(10, label, 2)
        assert np.abs(train.x[10 + label].astype(int) - wanted[1]).mean() < 25
    flat = np.full((3, 32, 32), 0, np.uint8)
    flat[0], flat[2] = 250, 100
    assert np.abs(decode_jpeg(cifar_data.as_jpeg(flat, quality=100), "here").astype(int) - flat).max() <= 3


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("load", [load_cifar10, load_cifar10_part])
def test_a_tenth_is_held_out_twice(load) -> None:
    splits = load()
    assert [len(splits.train), len(splits.valid), len(splits.test)] == [540, 60, 200]
    assert splits.held_for_tuning == 60
    assert splits.valid.y.tolist() == [*range(10)] * 6
    assert len(splits.hashes) == 1


def test_a_batch_file_is_checked(tmp_path: Path, batches: dict[str, bytes]) -> None:
    def refused(words: str, **changed: bytes | None) -> None:
        members = {**batches, **{f"cifar-10-batches-bin/{name}": content for name, content in changed.items()}}
        path = archive(tmp_path / "a.tar.gz", {name: one for name, one in members.items() if one is not None})
        with pytest.raises(ValueError, match=words) as caught:
            read_batches(path)
        assert str(path) in str(caught.value)

    third = "data_batch_3.bin"
    refused("has no cifar-10-batches-bin/data_batch_3.bin; it has", **{third: None})
    whole = batches[f"cifar-10-batches-bin/{third}"]
    refused(r"data_batch_3\.bin has 368,759 bytes, expected records of 3,073", **{third: whole[:-1]})
    refused(r"data_batch_3\.bin has 0 bytes", **{third: b""})
    wrong = whole[: 2 * (PIXELS + 1)] + b"\x0a" + whole[2 * (PIXELS + 1) + 1 :]
    refused(r"data_batch_3\.bin, record 3, has the label 10, expected 0 to 9", **{third: wrong})
    refused(
        "names the classes airplane, ship, expected airplane, automobile", **{"batches.meta.txt": b"airplane\nship"}
    )
    refused(
        "has the members cifar-10-batches-bin/data_batch_6.bin, which CIFAR-10 has not", **{"data_batch_6.bin": b"1"}
    )


def test_a_jpeg_archive_is_checked(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    def refused(words: str, **changed: bytes | None) -> None:
        members = {**jpegs, **{name.replace("__", "/"): content for name, content in changed.items()}}
        path = archive(tmp_path / "a.tar.gz", {name: one for name, one in members.items() if one is not None})
        with pytest.raises(ValueError, match=words) as caught:
            read_jpegs(path)
        assert str(path) in str(caught.value)

    some = jpegs["train/cat/0000.jpg"]
    refused(r"the member 'train/cow/0000\.jpg', expected train/CLASS/NUMBER", **{"train/cow/0000.jpg": some})
    refused("the member 'notes.txt'", **{"notes.txt": b"hello"})
    refused("has two images number 0 of train/cat", **{"train/cat/00.jpg": some})
    refused(r"as many images of every class in train, it has airplane 2, .*cat 1", **{"train/cat/0001.jpg": None})
    refused(r"train/cat/0001\.jpg is not a whole JPEG file", **{"train/cat/0001.jpg": some[:-300]})
    refused(r"train/cat/0001\.jpg is not a whole JPEG file", **{"train/cat/0001.jpg": b"GIF89a" + bytes(40)})
    refused(r"train/cat/0001\.jpg is not a whole JPEG file", **{"train/cat/0001.jpg": b""})
    large = cifar_data.as_jpeg(np.zeros((3, 64, 32), np.uint8))
    refused("is 32 x 64 pixels of mode RGB, expected 32 x 32 of mode RGB", **{"train/cat/0001.jpg": large})
    with pytest.raises(ValueError, match="as many images of every class in test, it has airplane 0"):
        read_jpegs(archive(tmp_path / "b.tar.gz", {name: one for name, one in jpegs.items() if "train" in name}))


def test_hostile_archives_are_refused(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    link = tarfile.TarInfo("train/cat/0002.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    large = tarfile.TarInfo("train/cat/0003.jpg")
    for members, more, words in (
        ({**jpegs, "../train/cat/0002.jpg": b""}, (), "whose path leaves the archive's folder"),
        ({**jpegs, "C:\\cat.jpg": b""}, (), "whose path leaves the archive's folder"),
        (jpegs, (link,), "which is a link or a device"),
        (jpegs, (tarfile.TarInfo("train/cat/0001.jpg"),), r"two members named 'train/cat/0001\.jpg'"),
    ):
        with pytest.raises(ValueError, match=words):
            read_jpegs(archive(tmp_path / "a.tar.gz", members, *more))
    path = archive(tmp_path / "b.tar.gz", jpegs, large)
    with pytest.raises(ValueError, match="has more than 30 members"):
        list(read_tar(path, most_members=30, most_bytes=1 << 20))
    assert len(list(read_tar(path, most_members=40, most_bytes=1 << 20))) == 31
    huge = archive(tmp_path / "d.tar.gz", {**jpegs, "train/cat/0002.jpg": bytes(70_000)})
    with pytest.raises(ValueError, match="has 70,000 bytes, more than 65,536"):
        read_jpegs(huge)
    content = archive(path, jpegs).read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(content[:-4] + bytes(4))
    path.write_bytes(content[: len(content) // 2])
    for broken in (path, tmp_path / "c.tar.gz"):
        with pytest.raises(ValueError, match=f"{re.escape(str(broken))} is not a whole tar file"):
            read_jpegs(broken)


@pytest.mark.real_data("cifar10-jpeg")
def test_the_part_has_the_published_counts() -> None:
    splits = load_cifar10_part()
    assert [len(splits.train), len(splits.valid), len(splits.test)] == [22_500, 2_500, 5_000]
    assert all(part.y.tolist() == [*range(10)] * (len(part) // 10) for part in (splits.train, splits.valid))
    assert len(CLASSES) == 10
