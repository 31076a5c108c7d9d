"""Books as lines of sentences: what is cut, what is held out, and where a triple must end."""

import gzip
from pathlib import Path

import pytest

from normscope.data import BookSplits, DataUnverified, load_book_corpus, load_novel_sentences
from normscope.data.readers.skip_thoughts.book_corpus import tokenize

FIRST = "one .\ntwo .\n\nThree  is here .\nfour .\n"
SECOND = "five .\nsix .\nseven .\n"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    folder = tmp_path / "book-corpus"
    folder.mkdir()
    (folder / "books_large_p1.txt").write_text(FIRST)
    (folder / "books_large_p2.txt.gz").write_bytes(gzip.compress(SECOND.encode()))
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know; it's Tom's.", "i do n't know ; it 's tom 's ."),
        ("They'd CAN'T 've 3.5", "they 'd ca n't 've 3 . 5"),
        ('"Ann\'t" x_y --', '" an n\'t " x _ y - -'),
        ("do n't caf\u00e9 it 's", "do n't caf\u00e9 it 's"),
    ],
)
def test_words_are_cut_alike_before_and_after_a_tokenizer(text: str, words: str) -> None:
    assert " ".join(tokenize(text)) == words
    assert tokenize(words) == words.split()


@pytest.mark.usefixtures("corpus")
def test_the_first_lines_of_each_file_are_held_out() -> None:
    with pytest.warns(DataUnverified):
        books = load_book_corpus(held=1)
    assert list(books.tune_valid()) == ["one ."]
    assert list(books.valid()) == ["five ."]
    # Books end at empty lines and with a file; reading starts anew.
    for _ in range(2):
        assert list(books.train()) == ["two .", "", "three is here .", "four .", "", "six .", "seven ."]
    assert all(digest.startswith("unverified: ") for digest in books.hashes.values())


def test_a_byte_that_is_no_text_is_named_with_its_line(corpus: Path) -> None:
    (corpus / "books_large_p1.txt").write_bytes(b"one .\ntwo .\n\xff .\n")
    with pytest.warns(DataUnverified):
        books = load_book_corpus(held=1)
    with pytest.raises(ValueError, match=r"books_large_p1.txt, line 3, byte 1"):
        list(books.train())


@pytest.mark.usefixtures("small_data")
def test_two_novels_are_held_out_whole_and_headings_left_out() -> None:
    books = load_novel_sentences()
    assert isinstance(books, BookSplits)
    train, *held = (list(read()) for read in (books.train, books.tune_valid, books.valid))
    assert train.count("") == 8
    assert all(len(each) >= 100 and "" not in each for each in held)
    assert not any("chapter" in line.split() for line in (*train, *held[0], *held[1]))
    assert all(line.endswith(" .") for line in train if line)


def test_novels_without_those_that_are_held_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "normscope.data.readers.skip_thoughts.book_corpus.read_novels", lambda progress: {"Katrine": "A.", "B": "C."}
    )
    with pytest.raises(ValueError, match=r"has no \[\"The Little Colonel's Hero\"\], which are held out"):
        load_novel_sentences()
