"""Novels as plain text: Project Gutenberg's header, licence and notices are removed."""

import re
from itertools import groupby
from pathlib import Path

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines
from normscope.data.registry import SETS
from normscope.data.store import locate

_MARK = re.compile(r"\*\*\* ?(START|END) OF (?:THIS|THE) PROJECT GUTENBERG EBOOK")
_TITLE = re.compile(r"Title: +(\S.*)")
_NOTICE = re.compile(r"Produced by |.*Project Gutenberg", flags=re.DOTALL)


@check_arguments
def read_novels(*, progress: Progress | None = None) -> dict[str, str]:
    """Read the novels of ``gutenberg-novels``: their text by title, in the order of their numbers.

    Raises ``DataNotFound`` or ``DataDamaged`` if a file is not available.

    Args:
        progress: Callback for the progress of a download.

    Returns:
        The texts, see :func:`read_novel`.

    Raises:
        ValueError: If a file is not a book of Project Gutenberg, or two have one title.
    """
    books: dict[str, str] = {}
    for path in locate(SETS["gutenberg-novels"], progress=progress).values():
        title, text = read_novel(path)
        if title in books:
            raise ValueError(f"{path} has the title of another file, {title!r}")
        books[title] = text
    return books


@check_arguments
def read_novel(path: Path) -> tuple[str, str]:
    r"""Read the title and the text of a book of Project Gutenberg in its plain ASCII edition.

    The text is what stands between the lines ``*** START OF THIS PROJECT GUTENBERG EBOOK ...`` and ``*** END OF ...``,
    without the paragraphs that begin with ``Produced by`` or name Project Gutenberg. Lines stay as they are wrapped,
    without spaces at their ends; a line end is ``\n``, and one empty line separates two paragraphs.

    Args:
        path: The file, packed or not.

    Raises:
        ValueError: If a byte is not ASCII, the title or one of the two marks is missing or occurs again (the message
            contains file and line), or there is no text.
    """
    title, lines, marks = "", [], {"START": 0, "END": 0}
    for number, line in enumerate(read_lines(path, encoding="ascii"), 1):
        if mark := _MARK.match(line):
            place = mark[1]
            if marks[place] or (place == "END") != bool(marks["START"]):
                raise ValueError(f"{path}, line {number}: {place} of the book, expected one START and then one END")
            marks[place] = number
        elif not marks["START"] and (header := _TITLE.match(line)):
            if title:
                raise ValueError(f"{path}, line {number}: another title, {header[1]!r}, after {title!r}")
            title = header[1].strip()
        elif marks["START"] and not marks["END"]:
            lines.append(line.rstrip())
    missing = [what for what, there in (("Title: ", title), *marks.items()) if not there]
    if missing:
        raise ValueError(f"{path} is not a book of Project Gutenberg: it has no line with {', '.join(missing)}")
    paragraphs = ("\n".join(group) for filled, group in groupby(lines, bool) if filled)
    text = "\n\n".join(one for one in paragraphs if not _NOTICE.match(one))
    if not text:
        raise ValueError(f"{path}, line {marks['START']}: no text before line {marks['END']}")
    return title, text
