import pytest

from normscope.data.download import DataFile, DataSet


def made(*files: DataFile, folder: str = "") -> DataSet:
    return DataSet(name="made", what="w", files=files, licence="l", home="h", folder=folder)


def test_a_set_lies_in_the_folder_of_its_name_unless_it_says_another():
    assert made().place == "made"
    assert made(folder="a/raw").place == "a/raw"


def test_a_file_without_a_hash_makes_a_set_unverified_and_is_in_no_hashes():
    known, unknown = DataFile(name="a", sha256="0" * 64, bytes=7), DataFile(name="b", sha256=None)
    assert made(known).verified
    assert not made(known, unknown).verified
    assert made(known, unknown).hashes == {"a": "0" * 64}
    assert made(known, unknown).bytes == 7


def test_a_file_cannot_be_described_without_a_word_on_its_hash():
    with pytest.raises(TypeError, match="sha256"):
        DataFile(name="a")  # pyright: ignore[reportCallIssue]
