"""IAM-OnDB: lines written on a whiteboard, from its XML, its transcriptions and its lists of forms."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np

from normscope.data.download import Progress
from normscope.data.readers.files import read_lines, read_tar
from normscope.data.readers.strokes import Drawings, DrawingSplits
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

LISTS = {"train": ("trainset.txt", "testset_t.txt"), "valid": ("testset_v.txt",), "test": ("testset_f.txt",)}
"""Lists of forms of each part: the training set with the second validation set, the first validation set, and the final
test set. Graves (2013, section 4) also trains on the test set, and so has none."""

MOST_MEMBERS = 40_000
"""Maximum number of members of an archive; that of the lines has 12,179 files."""

_FORM = re.compile(r"[a-z][0-9]{2}-[0-9]{3}[a-z]?")
_LINE = re.compile(r"([a-z][0-9]{2}-[0-9]{3}[a-z]?)-([0-9]{2})\.xml")
_NUMBER = re.compile(r"-?[0-9]{1,6}")

_PARENTS = {
    "WhiteboardCaptureSession": "",
    "WhiteboardDescription": "WhiteboardCaptureSession",
    "StrokeSet": "WhiteboardCaptureSession",
    "Stroke": "StrokeSet",
    "Point": "Stroke",
}


def load_iam_ondb(*, progress: Progress | None = None) -> DrawingSplits:
    """Read IAM-OnDB: a drawing per written line, as offsets between points, and its transcription.

    The first point of a line has no offset and is dropped. Lines are in the order of the lists, then of their numbers.
    Left out, and counted, are lines of forms that no list names, and lines that have no transcription.

    Raises ``DataNotFound`` if the files are not available.

    Source: Liwicki and Bunke (2005), "IAM-OnDB, an on-line English sentence database acquired from handwritten text on
    a whiteboard".

    Args:
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If an archive, an XML file, a transcription or a list is malformed, two files have one name, or a
            form of a list has no line; the message names file and line.
    """
    dataset = SETS["iam-ondb"]
    paths = locate(dataset, progress=progress)
    texts = _texts(paths["ascii-all.tar.gz"])
    lines = _lines(paths["lineStrokes-all.tar.gz"])
    places: dict[str, str] = {}
    parts, untranscribed = {}, 0
    for part, names in LISTS.items():
        drawings, transcriptions = [], []
        for name in names:
            for number, form in _forms(paths[name]):
                where = f"{paths[name]}, line {number}"
                if form in places:
                    raise ValueError(f"{where}: the form {form!r} is also in {places[form]}")
                if form not in lines:
                    raise ValueError(f"{where}: the form {form!r} has no line in {paths['lineStrokes-all.tar.gz']}")
                places[form] = where
                for line, points in sorted(lines.pop(form).items()):
                    written = texts.get(form, [])
                    if not 1 <= line <= len(written):
                        untranscribed += 1
                        continue
                    drawings.append(points)
                    transcriptions.append(written[line - 1])
        if not drawings:
            raise ValueError(f"{paths[names[0]]} names no form with a transcribed line, so there is no {part} data")
        parts[part] = Drawings(
            points=np.concatenate(drawings),
            lengths=np.array([len(points) for points in drawings], dtype=np.int64),
            texts=tuple(transcriptions),
        )
    left_out = {
        "line of a form that no list names": sum(map(len, lines.values())),
        "line without a transcription": untranscribed,
    }
    return DrawingSplits(
        **parts,
        hashes=found_hashes(dataset, paths),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def read_line_strokes(content: bytes, where: str) -> np.ndarray:
    """Read the XML of one line: its points in order, with the end of each stroke.

    A document type, and so every entity of its own, is refused.

    Args:
        content: The XML file.
        where: Name of the file in error messages.

    Returns:
        ``[P, 3]`` int64: x, y in the units of the board, y downwards, and 1 for the last point of a stroke, else 0.

    Raises:
        ValueError: If the XML is malformed, has a document type, another element, text between elements, or a point
            without two coordinates; or if it has no point. The message contains file and line.
    """
    parser = ParserCreate()
    parser.buffer_text = True
    path: list[str] = []
    points: list[tuple[int, int, int]] = []

    def refuse(what: str) -> None:
        raise ValueError(f"{where}, line {parser.CurrentLineNumber}: {what}")

    def start(name: str, attributes: dict[str, str]) -> None:
        # What the description of the board holds does not matter here.
        if path[1:2] != ["WhiteboardDescription"]:
            parent = path[-1] if path else ""
            if _PARENTS.get(name) != parent:
                refuse(f"unexpected element {name[:60]!r} in {parent or 'the document'!r}")
            if name == "Point":
                x, y = (attributes.get(axis, "") for axis in "xy")
                if not (_NUMBER.fullmatch(x) and _NUMBER.fullmatch(y)):
                    refuse(f"a point has x={x[:20]!r} and y={y[:20]!r}, expected two whole numbers")
                points.append((int(x), int(y), 0))
        path.append(name)

    def end(name: str) -> None:
        path.pop()
        if name == "Stroke" and points:
            points[-1] = (*points[-1][:2], 1)

    def text(data: str) -> None:
        if data.strip() and path[1:2] != ["WhiteboardDescription"]:
            refuse(f"unexpected text {data.strip()[:60]!r} in {path[-1]!r}")

    def doctype(*_: Any) -> None:
        refuse("a document type, whose entities are not trusted")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        parser.Parse(content, True)
    except ExpatError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error}") from error
    except LookupError as error:
        raise ValueError(f"{where}, line {parser.CurrentLineNumber}: {error}") from error
    if not points:
        raise ValueError(f"{where}, line {parser.CurrentLineNumber}: the line has no point")
    return np.array(points, dtype=np.int64)


def offsets(points: np.ndarray) -> np.ndarray:
    """Convert points ``[P, 3]`` to offsets from the point before, ``[P - 1, 3]`` int32, with the pen of each point."""
    return np.concatenate([np.diff(points[:, :2], axis=0), points[1:, 2:]], axis=1).astype(np.int32)


def read_transcription(content: bytes, where: str) -> list[str]:
    """Return the lines of a form: those after ``CSR:``, the corrected text; what precedes it is a recognizer's.

    Args:
        content: The file, in ISO-8859-1.
        where: Name of the file in error messages.

    Raises:
        ValueError: If there is not one line ``CSR:``, or no text after it. The message contains file and line.
    """
    lines = [line.strip() for line in content.decode("latin-1").splitlines()]
    marks = [number for number, line in enumerate(lines) if line == "CSR:"]
    if len(marks) != 1:
        raise ValueError(
            f"{where}, line {marks[1] + 1 if marks else len(lines)}: {len(marks)} lines 'CSR:' up to here, expected one"
        )
    written = [line for line in lines[marks[0] + 1 :] if line]
    if not written:
        raise ValueError(f"{where}, line {marks[0] + 1}: no text follows 'CSR:'")
    return written


def _texts(path: Path) -> dict[str, list[str]]:
    """Read the transcriptions by form.

    Raises:
        ValueError: As for :func:`load_iam_ondb`.
    """
    texts: dict[str, list[str]] = {}
    for name, content in read_tar(path, most_members=MOST_MEMBERS):
        form = PurePosixPath(name)
        if form.suffix != ".txt" or not _FORM.fullmatch(form.stem):
            raise ValueError(f"{path}:{name!r} is not the transcription of a form, such as a01/a01-000/a01-000u.txt")
        if form.stem in texts:
            raise ValueError(f"{path}:{name!r}: the form {form.stem!r} has another transcription in the archive")
        texts[form.stem] = read_transcription(content, f"{path}:{name}")
    return texts


def _lines(path: Path) -> dict[str, dict[int, np.ndarray]]:
    """Read the offsets of every line with two points, by form and number.

    Raises:
        ValueError: As for :func:`load_iam_ondb`.
    """
    lines: dict[str, dict[int, np.ndarray]] = {}
    for name, content in read_tar(path, most_members=MOST_MEMBERS):
        line = _LINE.fullmatch(PurePosixPath(name).name)
        if line is None:
            raise ValueError(f"{path}:{name!r} is not a line, such as a01/a01-000/a01-000u-01.xml")
        form = lines.setdefault(line[1], {})
        if int(line[2]) in form:
            raise ValueError(f"{path}:{name!r}: the archive has another line {line[2]} of the form {line[1]!r}")
        points = read_line_strokes(content, f"{path}:{name}")
        if len(points) < 2:
            raise ValueError(f"{path}:{name!r} has a single point, and so no offset")
        form[int(line[2])] = offsets(points)
    return lines


def _forms(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the forms of a list with the numbers of their lines; blank lines are skipped.

    Raises:
        ValueError: If a line does not hold a form.
    """
    for number, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        form = line.strip()
        if form and not _FORM.fullmatch(form):
            raise ValueError(f"{path}, line {number}: {form[:60]!r} is not a form, such as 'a01-000u'")
        if form:
            yield number, form
