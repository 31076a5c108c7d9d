import bz2
import gzip
import io

import pytest

from normscope.data.readers import files as lines
from normscope.data.readers.files import decode_lines, open_unpacked, read_lines

PACK = {"a.txt": bytes, "a.txt.gz": gzip.compress, "a.txt.bz2": bz2.compress}


@pytest.fixture(params=list(PACK))
def packed(request, tmp_path):
    def write(data: bytes):
        (tmp_path / request.param).write_bytes(PACK[request.param](data))
        return tmp_path / request.param

    return write


def test_only_newlines_divide_and_only_they_are_taken_off(packed):
    text = " a \x0b\x0c\x85\u2028b\t\r\n\n\rc\r\r\nlast"
    assert list(read_lines(packed(text.encode()))) == [" a \x0b\x0c\x85\u2028b\t", "", "\rc\r", "last"]


def test_a_carriage_return_without_a_newline_stays(packed):
    assert list(read_lines(packed(b"a\r"))) == ["a\r"]


def test_a_file_without_lines_has_none(packed):
    assert list(read_lines(packed(b""))) == []


def test_a_byte_that_is_not_text_is_named_with_file_and_line(packed):
    path = packed("ä\nb\n".encode() + b"gr\xfcn\n")
    with pytest.raises(ValueError, match=rf"{path.name}, line 3, byte 3, is fc, which is not utf-8: invalid start"):
        list(read_lines(path))
    with pytest.raises(ValueError, match=r"line 1, byte 2, is 81, which is not cp1252"):
        list(read_lines(packed(b"a\x81\n"), encoding="cp1252"))


def test_lines_before_the_bad_one_are_given(packed):
    reader = read_lines(packed(b"good\n\xff\n"))
    assert next(reader) == "good"


def test_windows_dashes_are_read(packed):
    assert list(read_lines(packed(b"\x93a\x94 \x96 \x85\n"), encoding="cp1252")) == ["\u201ca\u201d \u2013 \u2026"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "cp500"])
def test_an_encoding_with_another_newline_is_refused(packed, encoding):
    with pytest.raises(ValueError, match="does not write a newline as the byte 10"):
        list(read_lines(packed(b"a\n"), encoding=encoding))


@pytest.mark.parametrize("kind", ["gz", "bz2"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "plain", "empty", "trailing"])
def test_a_harmed_file_is_refused_by_name(tmp_path, kind, harm):
    body = b"".join(b"%d\n" % (n * n) for n in range(3000))
    data = PACK[f"a.txt.{kind}"](body)
    middle = len(data) // 2
    path = tmp_path / f"a.{kind}"
    path.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "plain": body,
            "empty": b"",
            "trailing": data + b"garbage",
        }[harm]
    )
    if (kind, harm) == ("bz2", "trailing"):
        # What follows the last bz2 stream is ignored, as by the bzip2 program.
        assert b"\n".join(line.encode() for line in read_lines(path)) + b"\n" == body
        return
    with pytest.raises(ValueError, match=rf"a\.{kind} is not a whole {'gzip' if kind == 'gz' else 'bz2'} file"):
        list(read_lines(path))


def test_a_missing_file_is_missing_and_not_broken(tmp_path):
    for name in PACK:
        with pytest.raises(FileNotFoundError):
            list(read_lines(tmp_path / name))


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path, peak):
    path = tmp_path / "bomb.gz"
    with gzip.GzipFile(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20

    def read():
        with pytest.raises(ValueError, match=r"bomb\.gz, line 1, has more than 16777216 bytes"):
            list(read_lines(path))

    assert peak(read) < 3 * lines.LONGEST_LINE


def test_a_line_of_just_the_longest_length_is_read(monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 4)
    assert list(decode_lines(io.BytesIO(b"abc\nabcd"), encoding="ascii", where="x")) == ["abc", "abcd"]
    with pytest.raises(ValueError, match="x, line 2, has more than 4 bytes"):
        list(decode_lines(io.BytesIO(b"abc\nabcde"), encoding="ascii", where="x"))


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_file(packed):
    with pytest.raises(KeyError), open_unpacked(packed(b"a")):
        raise KeyError("caller's own")


@pytest.mark.parametrize("name", list(PACK))
def test_memory_does_not_grow_with_the_file(tmp_path, name, peak):
    # The larger file is a megabyte of text, and three as a list of lines.
    peaks = []
    for size in (5_000, 50_000):
        (tmp_path / name).write_bytes(PACK[name](b"".join(b"line %d of some text\n" % n for n in range(size))))

        def count(size=size):
            assert sum(1 for _ in read_lines(tmp_path / name)) == size

        peaks.append(peak(count))
    assert peaks[1] < peaks[0] + 500_000, peaks
