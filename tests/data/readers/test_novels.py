"""Novels of Project Gutenberg: what is text, and what is header, notice or licence."""

import gzip
from pathlib import Path

import pytest

from normscope.data.readers.novels import read_novel, read_novels

BOOK = """The Project Gutenberg EBook of A Day, by Nobody

Title: A Day
       Or Two

*** START OF THIS PROJECT GUTENBERG EBOOK A DAY ***

Produced by a volunteer
and another

[Project Gutenberg Editor's Note: there is
another one]

CHAPTER I

It was a day.  "Yes,"
said she.\x20\x20


*** It was so.

End of the Project Gutenberg EBook of A Day,
by Nobody

*** END OF THIS PROJECT GUTENBERG EBOOK A DAY ***

***** This file should be named 1.txt *****
*** START: FULL LICENSE ***
The licence.
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "1-a-day.txt.gz"
    path.write_bytes(gzip.compress(text.replace("\n", "\r\n").encode("cp1252")))
    return path


def test_the_text_is_what_stands_between_the_marks_without_notices(tmp_path: Path) -> None:
    title, text = read_novel(write(tmp_path, BOOK))
    assert title == "A Day"
    assert text == 'CHAPTER I\n\nIt was a day.  "Yes,"\nsaid she.\n\n*** It was so.'


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("Title:", "Name:", "no line with Title: "),
        ("*** START OF THIS", "*** BEGIN OF THIS", "line 25: END of the book, expected one START"),
        ("*** END OF THIS", "*** STOP OF THIS", "no line with END"),
        ("*** It was so.", "*** START OF THIS PROJECT GUTENBERG EBOOK B", "line 20: START of the book"),
        ("       Or Two", "Title: Two", "line 4: another title, 'Two', after 'A Day'"),
        ("a day.", "a caf\xe9.", "line 16, byte 13, is e9, which is not ascii"),
        (BOOK[BOOK.index("CHAPTER") : BOOK.index("End of")], "", "line 6: no text before line"),
    ],
)
def test_another_file_is_refused_with_its_line(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in BOOK
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        read_novel(write(tmp_path, BOOK.replace(before, after, 1)))
    assert "1-a-day.txt.gz" in str(error.value)


@pytest.mark.real_data("gutenberg-novels")
def test_the_published_books_are_eleven() -> None:
    books = read_novels()
    assert len(books) == 11
    assert next(iter(books)) == "A Tale of Two Cities"
    assert not [title for title, text in books.items() if "Gutenberg" in text]
    assert books["Pride and Prejudice"].endswith("had been the means of uniting them.")
