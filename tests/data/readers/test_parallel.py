import gzip
import io
import tarfile

import pytest

from normscope.data.readers.parallel import PairCount, PairFiles, read_pairs, read_tar_pairs


def sides(folder, source: str, target: str):
    (folder / "a.en.gz").write_bytes(gzip.compress(source.encode()))
    (folder / "a.vi").write_bytes(target.encode())
    return folder / "a.en.gz", folder / "a.vi"


def test_pairs_are_read_and_those_with_an_empty_side_left_out_and_counted(tmp_path):
    count = PairCount()
    pairs = read_pairs(*sides(tmp_path, "a \n\nc\nd\n \n", "ơ\nb\n\t\n d\n\n"), count=count)
    assert list(pairs) == [("a ", "ơ"), ("d", " d")]
    assert count == PairCount(read=5, empty=3)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a\nb\n", "a\nb\nc\n", r"a\.en\.gz ended after line 2, and .*a\.vi goes on: they are not aligned"),
        ("a\nb\n", "a\n", r"a\.vi ended after line 1, and .*a\.en\.gz goes on"),
        ("", "a\n", r"a\.en\.gz ended after line 0"),
        ("a\n", "a\n\n", r"a\.en\.gz ended after line 1"),
    ],
)
def test_uneven_sides_are_refused_with_both_names_and_the_line(tmp_path, source, target, words):
    with pytest.raises(ValueError, match=words):
        list(read_pairs(*sides(tmp_path, source, target)))


def test_a_side_in_another_encoding_is_refused_by_name(tmp_path):
    source, target = sides(tmp_path, "a\nb\n", "a\nb\n")
    target.write_bytes("a\ngrün\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.vi, line 2, byte 3, is fc, which is not utf-8"):
        list(read_pairs(source, target))
    assert list(read_pairs(source, target, encoding="latin-1")) == [("a", "a"), ("b", "grün")]


def test_pair_files_are_read_anew_each_time(tmp_path):
    source, target = sides(tmp_path, "a\nb\n", "1\n2\n")
    files = PairFiles(source=source, target=target)
    assert list(files) == list(files) == [("a", "1"), ("b", "2")]


def test_members_of_a_tar_file_are_read_where_they_lie(tmp_path):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, body in (("t.en", b"a\n\nb\n"), ("t.vi", b"1\n2\n3\n"), ("u.vi", b"1\n"), ("w.vi", b"1\n\xff\n3\n")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    count = PairCount()
    assert list(read_tar_pairs(path, "t.en", "t.vi", count=count)) == [("a", "1"), ("b", "3")]
    assert count == PairCount(read=3, empty=1)
    with pytest.raises(ValueError, match=r"a\.tgz:u\.vi ended after line 1, and .*a\.tgz:t\.en goes on"):
        list(read_tar_pairs(path, "t.en", "u.vi"))
    with pytest.raises(ValueError, match=r"a\.tgz:w\.vi, line 2, byte 1, is ff"):
        list(read_tar_pairs(path, "t.en", "w.vi"))
    with pytest.raises(ValueError, match=r"has 0 members named 't\.fr'"):
        list(read_tar_pairs(path, "t.en", "t.fr"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.parametrize("packed", ["files", "tar"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, packed, peak):
    # The larger corpus is over a megabyte of text, and four as a list of pairs.
    peaks = []
    for size in (3_000, 30_000):
        body = "".join(f"line {n} of some text\n" for n in range(size))
        source, target = sides(tmp_path, body, body)
        if packed == "tar":
            with tarfile.open(tmp_path / "a.tgz", "w:gz", compresslevel=1) as archive:
                archive.add(target, "t.en")
                archive.add(target, "t.vi")
            pairs = read_tar_pairs(tmp_path / "a.tgz", "t.en", "t.vi")
        else:
            pairs = read_pairs(source, target)

        def count(pairs=pairs, size=size):
            assert sum(1 for _ in pairs) == size

        peaks.append(peak(count))
    assert peaks[1] < peaks[0] + 1_000_000, peaks
