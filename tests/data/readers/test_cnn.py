"""The CNN question files: what a question is, and what is refused."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normscope.data.readers.cloze import BLANK, FIRST_IDENTIFIER, UNKNOWN, Size
from normscope.data.readers.cnn import load_cnn, most_alike, read_question
from normscope.data.readers.files import read_tar
from normscope.data.registry import SETS

FILE = """http://www.example.org/1

( @entity1 ) @entity0 met @entity2 . it rained ? @entity2 said no , @entity0 said yes . all went

@placeholder met @entity2 and said yes

@entity0

@entity0:Ann
@entity1:CNN
@entity2:Bob : the second
"""


def test_a_question_is_read_as_by_hand() -> None:
    question = read_question(FILE.encode(), "a.question")
    assert question.url == "http://www.example.org/1"
    assert question.passage[:6] == ("(", "@entity1", ")", "@entity0", "met", "@entity2")
    assert question.query == ("@placeholder", "met", "@entity2", "and", "said", "yes")
    assert question.answer == "@entity0"
    assert question.entities == {"@entity0": "Ann", "@entity1": "CNN", "@entity2": "Bob : the second"}
    # The second sentence shares nothing, the last one neither; the first shares two words, the third three.
    assert " ".join(most_alike(question, 1)) == "@entity2 said no , @entity0 said yes ."
    assert " ".join(most_alike(question, 2)).startswith("( @entity1 ) @entity0 met @entity2 . @entity2 said no")
    assert most_alike(question, 3)[7:10] == ("it", "rained", "?")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("http://www.example.org/1\n", "", "a.question, line 1: expected the URL in a line"),
        ("all went\n", "all\nwent\n", "a.question, line 3: expected the article in a line"),
        ("\n@entity0\n", "\n", "a.question, line 7: expected the answer in a line"),
        ("\n@entity0\n", "\n@entity7\n", "line 7: the answer '@entity7' is not among the 3 entities"),
        ("@entity0 met", "@entity9 met", "line 3: '@entity9' is not among the 3 entities"),
        ("met @entity2 and", "met @entity02 and", "line 5: '@entity02' is not among"),
        ("@placeholder", "@entity1", "line 5: the question has no @placeholder"),
        ("@entity1:CNN", "@entity1", "line 10: expected @entityN:name, each entity once, got '@entity1'"),
        ("@entity1:CNN", "@entity0:CNN", "line 10: expected @entityN:name"),
        ("@entity1:CNN", "", "line 10: expected @entityN:name"),
        ("Bob", "B\udce9b", "a.question, line 11, byte 11, is e9, which is not utf-8"),
    ],
)
def test_malformed_questions_are_refused_with_their_line(before: str, after: str, message: str) -> None:
    assert before in FILE
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_question(FILE.replace(before, after, 1).encode("utf-8", "surrogateescape"), "a.question")


def archive(folder: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    path = folder / "cnn.tgz"
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content) if kind == tarfile.REGTYPE else 0, kind
            made.addfile(member, io.BytesIO(content))
    return path


LIMITS = {"most_members": 2, "most_bytes": 9}


def test_members_of_an_archive_come_in_order(tmp_path: Path) -> None:
    path = archive(tmp_path, {"b": b"1", "a/c": b"22"})
    assert list(read_tar(path, **LIMITS)) == [("b", b"1"), ("a/c", b"22")]


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        ({"../a": b""}, tarfile.REGTYPE, "leaves the archive's folder"),
        ({"a": b""}, tarfile.SYMTYPE, "is a link or a device"),
        ({"a": b"", "b": b"", "c": b""}, tarfile.REGTYPE, "more than 2 members"),
        ({"a": b"0123456789"}, tarfile.REGTYPE, "cnn.tgz:a has 10 bytes, more than 9"),
    ],
)
def test_hostile_archives_are_refused(members: dict[str, bytes], kind: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_tar(archive(tmp_path, members, kind), **LIMITS))


def test_a_member_of_a_name_before_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, {"a": b"1"})
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:1024] + whole))
    with pytest.raises(ValueError, match="two members named 'a'"):
        list(read_tar(path, **LIMITS))
    packed = gzip.compress(whole, mtime=0)
    path.write_bytes(packed[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"cnn\.tgz is not a whole tar file"):
        list(read_tar(path, **LIMITS))


SIZE = Size(passage=30, around=3, sentences=4, words=25)


def of_archive(folder: Path, patch: pytest.MonkeyPatch, members: dict[str, bytes]) -> None:
    path = archive(folder, members)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = SETS["cnn-questions"]
    file = replace(known.files[0], sha256=digest, bytes=path.stat().st_size)
    patch.setitem(SETS, "cnn-questions", replace(known, files=(file,)))
    patch.setenv("NORMSCOPE_DATA", str(folder.parent))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cnn-questions").mkdir()
    return tmp_path / "cnn-questions"


PLACES = [f"cnn/questions/{part}/1.question" for part in ("training", "validation", "test")]


def test_symbols_are_those_of_the_training_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rare = FILE.replace("rained", "snowed").replace("@entity2", "@entity5")
    of_archive(folder, monkeypatch, dict(zip(PLACES, (FILE.encode(), rare.encode(), FILE.encode()), strict=True)))
    splits = load_cnn(SIZE)
    assert splits.identifiers == 6
    words = splits.vocabulary
    assert words[:5] == ("", "@unknown", "@blank", "@entity0", "@entity1")
    assert set(words[9:]) == {*FILE.split("\n\n")[1].split(), "and", "yes"} - {f"@entity{n}" for n in range(3)}
    assert [words[n] for n in splits.train.passages[0] if n] == FILE.split("\n\n")[1].split()
    assert [words[n] for n in splits.train.queries[0] if n] == ["@blank", "met", "@entity2", "and"]
    assert words[splits.train.answers[0]] == "@entity0"
    assert UNKNOWN in splits.valid.passages
    assert UNKNOWN not in splits.test.passages
    assert FIRST_IDENTIFIER + 5 in splits.valid.queries
    assert BLANK in splits.valid.queries


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (PLACES[:2], "no questions in cnn/questions/test"),
        ([*PLACES, "cnn/stories/1.story"], "has 'cnn/stories/1.story', expected cnn/questions/{training,"),
        ([*PLACES[:2], "cnn/questions/test/2.question"], None),
    ],
)
def test_parts_must_be_there(
    places: list[str], message: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_archive(folder, monkeypatch, dict.fromkeys(places, FILE.encode()))
    if message is None:
        assert len(load_cnn(SIZE).test) == 1
    else:
        with pytest.raises(ValueError, match=message):
            load_cnn(SIZE)


def test_an_error_names_the_member(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_archive(folder, monkeypatch, {PLACES[0]: FILE.replace("@placeholder", "x").encode()})
    with pytest.raises(ValueError, match=r"cnn\.tgz:cnn/questions/training/1\.question, line 5: the question has no"):
        load_cnn(SIZE)


@pytest.mark.usefixtures("small_data")
def test_the_miniature_is_read() -> None:
    splits = load_cnn(SIZE)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (200, 20, 20)
    assert splits.identifiers == 12
    assert splits.train.candidates.shape == (200, 0)
    assert np.all((splits.train.answers >= FIRST_IDENTIFIER) & (splits.train.answers < FIRST_IDENTIFIER + 12))
