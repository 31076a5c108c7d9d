import io
import re
import tarfile

import numpy as np
import pytest

from normscope.data import load_iam_ondb
from normscope.data.readers.files import read_tar
from normscope.data.readers.iam_ondb import offsets, read_line_strokes, read_transcription
from normscope.data.registry import SETS
from support import pen_data

XML = b"""<?xml version="1.0" encoding="ISO-8859-1"?>
<WhiteboardCaptureSession>
  <WhiteboardDescription><SensorLocation corner="top_left"/></WhiteboardDescription>
  <StrokeSet>
    <Stroke colour="black" start_time="1.0" end_time="1.2">
      <Point x="10" y="20" time="1.0"/>
      <Point x="13" y="18" time="1.1"/>
    </Stroke>
    <Stroke colour="black" start_time="1.5" end_time="1.5">
      <Point x="-4" y="30" time="1.5"/>
    </Stroke>
  </StrokeSet>
</WhiteboardCaptureSession>
"""


def test_points_and_offsets_by_hand():
    points = read_line_strokes(XML, "a.xml")
    assert points.tolist() == [[10, 20, 0], [13, 18, 1], [-4, 30, 1]]
    assert offsets(points).tolist() == [[3, -2, 1], [-17, 12, 1]]
    assert offsets(points).dtype == np.int32


BOMB = b'<!DOCTYPE a [<!ENTITY b "bb">]>\n<WhiteboardCaptureSession>'


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (b"</Stroke>\n    <Stroke", b"\n    <Stroke", 9, "unexpected element 'Stroke' in 'Stroke'"),
        (b"</StrokeSet>", b"", 13, "mismatched tag"),
        (b'x="13"', b'x="1.5"', 7, "a point has x='1.5' and y='18', expected two whole numbers"),
        (b' y="18"', b"", 7, "a point has x='13' and y='', expected"),
        (b'y="18"', b'y="18', 7, "not well-formed"),
        (b'<Point x="-4"', b'<Dot x="-4"', 10, "unexpected element 'Dot' in 'Stroke'"),
        (b"  </StrokeSet>", b"  lost</StrokeSet>", 12, "unexpected text 'lost' in 'StrokeSet'"),
        (b"<WhiteboardCaptureSession>", BOMB, 2, "a document type, whose entities are not trusted"),
        (b"ISO-8859-1", b"x-none", 1, "encoding"),
        (b"\n</WhiteboardCaptureSession>\n", b"", 12, "no element found"),
        (b"<WhiteboardCaptureSession>", b"<Other>", 2, "unexpected element 'Other' in 'the document'"),
    ],
)
def test_malformed_xml_is_refused_with_file_and_line(old, new, line, words):
    assert old in XML
    with pytest.raises(ValueError, match=rf"a\.xml, line {line}: .*{re.escape(words)}"):
        read_line_strokes(XML.replace(old, new, 1), "a.xml")


def test_a_line_without_a_point_is_refused():
    empty = re.sub(rb"<Stroke c.*</Stroke>", b"", XML, flags=re.S)
    with pytest.raises(ValueError, match=r"a\.xml, line 8: the line has no point"):
        read_line_strokes(empty, "a.xml")


def test_transcriptions_are_the_corrected_lines():
    assert read_transcription(b"OCR:\n\nThc\n\nCSR:\n\nThe caf\xe9 \r\nis\n\n", "a") == ["The caf\xe9", "is"]
    with pytest.raises(ValueError, match="a, line 3: 0 lines 'CSR:' up to here, expected one"):
        read_transcription(b"OCR:\n\nThe", "a")
    with pytest.raises(ValueError, match="a, line 3: 2 lines 'CSR:' up to here"):
        read_transcription(b"CSR:\nThe\nCSR:\ncat", "a")
    with pytest.raises(ValueError, match="a, line 2: no text follows 'CSR:'"):
        read_transcription(b"OCR:\nCSR:\n\n", "a")


@pytest.mark.usefixtures("small_data")
def test_lines_are_those_of_the_lists_with_their_texts():
    splits = load_iam_ondb()
    forms = {"train": 4, "valid": 1, "test": 2}
    for part, count in forms.items():
        drawings = getattr(splits, part)
        assert drawings.texts == pen_data.TEXTS * count
        # Five points per character, of which the first has no offset.
        assert drawings.lengths.tolist() == [5 * len(text) - 1 for text in drawings.texts]
        for points, text in zip(drawings, drawings.texts, strict=True):
            assert points[:, 2].sum() == len(text)
            assert np.flatnonzero(points[:, 2])[:2].tolist() == [3, 8]
            assert abs(points[:, 0].sum() - 60 * len(text)) < 130
    assert splits.left_out == {"line of a form that no list names": 3, "line without a transcription": 1}
    assert set(splits.hashes) == {file.name for file in SETS["iam-ondb"].files}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a copy that a test may change."""
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    (tmp_path / "iam-ondb").mkdir()
    for name, content in pen_data.iam_ondb().items():
        (tmp_path / "iam-ondb" / name).write_bytes(content)
    return tmp_path / "iam-ondb"


@pytest.mark.filterwarnings("ignore::normscope.data.DataUnverified")
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("testset_v.txt", b"d04-058a\n../../etc\n", r"testset_v\.txt, line 2: '../../etc' is not a form"),
        (
            "testset_v.txt",
            b"d04-058a\n\na01-000u\n",
            r"v\.txt, line 3: the form 'a01-000u' is also in .*trainset.txt, line 1",
        ),
        ("testset_f.txt", b"z99-000\n", r"testset_f\.txt, line 1: the form 'z99-000' has no line in .*lineStrokes-all"),
        ("testset_f.txt", b"\n", r"testset_f\.txt names no form with a transcribed line, so there is no test data"),
    ],
)
def test_a_wrong_list_is_refused(folder, name, content, words):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_iam_ondb()


TEXT = b"CSR:\n\nThe\n"


@pytest.mark.filterwarnings("ignore::normscope.data.DataUnverified")
@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        (
            "lineStrokes-all.tar.gz",
            {"a/a01-000u-01.xml": XML, "b/a01-000u-01.xml": XML},
            "has another line 01 of the form",
        ),
        ("lineStrokes-all.tar.gz", {"a/a01-000u-01.xml": XML[:-30]}, r"a01-000u-01\.xml, line 12: "),
        ("lineStrokes-all.tar.gz", {"a/notes.md": b""}, "'a/notes.md' is not a line, such as"),
        ("lineStrokes-all.tar.gz", {"../a01-000u-01.xml": XML}, "whose path leaves the archive's folder"),
        (
            "lineStrokes-all.tar.gz",
            {"a01-000u-01.xml": re.sub(rb".*<Point x=\"1\d.*\n", b"", XML)},
            "a01-000u-01.xml' has a single point",
        ),
        ("ascii-all.tar.gz", {"a/a01-000u.txt": TEXT, "b/a01-000u.txt": TEXT}, "has another transcription"),
        ("ascii-all.tar.gz", {"a/a01-000u.doc": TEXT}, "is not the transcription of a form"),
        ("ascii-all.tar.gz", {"a/a01-000u.txt": b"The"}, r"a/a01-000u\.txt, line 1: 0 lines 'CSR:'"),
    ],
)
def test_a_wrong_archive_is_refused(folder, name, members, words):
    (folder / name).write_bytes(pen_data.tarred(members))
    with pytest.raises(ValueError, match=words):
        load_iam_ondb()


def test_a_tar_file_is_read_whole_or_refused(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(pen_data.tarred({"b": b"2" * 5000, "a/c": b"1"}))
    assert dict(read_tar(path)) == {"b": b"2" * 5000, "a/c": b"1"}
    with pytest.raises(ValueError, match="has more than 1 members"):
        list(read_tar(path, most_members=1))
    with pytest.raises(ValueError, match=r"b has 5,000 bytes, more than 4,999"):
        list(read_tar(path, most_bytes=4999))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is not a whole tar file"):
        list(read_tar(path))
    with tarfile.open(path, "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    with pytest.raises(ValueError, match="has two members named 'x'"):
        list(read_tar(path))
