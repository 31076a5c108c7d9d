"""Sentences that vectors are tested on: kinds of questions (TREC) and related pairs (SICK)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines, shuffled, split_stream
from normscope.data.readers.sentences import ENCODING, LabelledText, LabelledTextSplits
from normscope.data.registry import SETS
from normscope.data.store import locate

KINDS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
"""The six coarse classes of TREC, in the order of their labels."""


@check_arguments
def load_trec(*, seed: int | None = None, progress: Progress | None = None) -> LabelledTextSplits:
    """Read TREC: questions, labelled 0 to 5 by the kind of their answers (:data:`KINDS`), with the published test part.

    A tenth of the training questions, drawn pseudo-randomly, is for validation; equal ones are in the same part.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available, and ``ValueError`` as
    :func:`read_questions`.

    Source: Li and Roth (2002), "Learning question classifiers".

    Args:
        seed: Seed of the split into training and validation; None for the fixed one.
        progress: Callback for the progress of a download.
    """
    dataset = SETS["trec"]
    paths = locate(dataset, progress=progress)
    train, test = (read_questions(paths[f"TREC.{part}.gz"]) for part in ("train", "test"))
    distinct = shuffled(set(train.sentences), "trec split 1" if seed is None else split_stream(seed))
    held = set(distinct[: len(distinct) // 10])
    valid = np.array([sentence in held for sentence in train.sentences])
    return LabelledTextSplits(
        train=_chosen(train, ~valid), valid=_chosen(train, valid), test=test, hashes=dataset.hashes
    )


@check_arguments
def read_questions(path: Path) -> LabelledText:
    """Read a file of TREC: lines such as ``NUM:dist How far is it ?``.

    Args:
        path: The file, packed or not.

    Raises:
        ValueError: If a line has no known class, or no question (the message contains file and line), or there is none.
    """
    sentences, labels = [], []
    for number, line in enumerate(read_lines(path, encoding=ENCODING), 1):
        label, *words = line.split() or [""]
        kind, colon, fine = label.partition(":")
        if kind not in KINDS or not colon or not fine or not words:
            raise ValueError(
                f"{path}, line {number}: {line!r}, expected one of {', '.join(KINDS)}, as in 'NUM:dist How far is it ?'"
            )
        sentences.append(" ".join(words))
        labels.append(KINDS.index(kind))
    if not labels:
        raise ValueError(f"{path} has no question")
    return LabelledText(sentences=tuple(sentences), labels=np.array(labels, dtype=np.int64))


def _chosen(text: LabelledText, mask: np.ndarray) -> LabelledText:
    return LabelledText(sentences=tuple(np.array(text.sentences, dtype=object)[mask]), labels=text.labels[mask])


@dataclass(frozen=True, kw_only=True)
class RelatedPairs:
    """Pairs of sentences as in the file."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: np.ndarray
    """Relatedness ``[N]`` float64, from 1 to 5."""


@dataclass(frozen=True, kw_only=True)
class RelatedPairSplits:
    """Pairs in the published parts."""

    train: RelatedPairs
    valid: RelatedPairs
    test: RelatedPairs
    hashes: dict[str, str]
    """sha256 of every source file by name."""


HEADER = ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")


@check_arguments
def load_sick(*, progress: Progress | None = None) -> RelatedPairSplits:
    """Read SICK: pairs of sentences with their relatedness, 4,500 to train, 500 to validate, 4,927 to test.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available, and ``ValueError`` as :func:`read_sick`.

    Source: Marelli et al. (2014), "SemEval-2014 task 1".

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["sick2014"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (read_sick(paths[file.name]) for file in dataset.files)
    return RelatedPairSplits(train=train, valid=valid, test=test, hashes=dataset.hashes)


@check_arguments
def read_sick(path: Path) -> RelatedPairs:
    """Read a file of SICK: a header and tab-separated columns.

    Args:
        path: The file, packed or not.

    Raises:
        ValueError: If the header or a line is of another form, or a score is not from 1 to 5 (the message contains file
            and line); or if there is no pair.
    """
    lines = enumerate(read_lines(path), 1)
    header = next(lines, (1, ""))[1].split("\t")
    if tuple(header) != HEADER:
        raise ValueError(f"{path}, line 1: the columns {header}, expected {list(HEADER)}")
    rows: list[tuple[str, str, float]] = []
    for number, line in lines:
        columns = line.split("\t")
        if len(columns) != len(HEADER) or not (columns[1].strip() and columns[2].strip()):
            raise ValueError(f"{path}, line {number}: {columns}, expected {len(HEADER)} columns with two sentences")
        try:
            score = float(columns[3])
        except ValueError:
            score = float("nan")
        if not 1 <= score <= 5:
            raise ValueError(f"{path}, line {number}: the relatedness {columns[3]!r}, expected a number from 1 to 5")
        rows.append((columns[1], columns[2], score))
    if not rows:
        raise ValueError(f"{path} has no pair")
    first, second, scores = zip(*rows, strict=True)
    return RelatedPairs(first=first, second=second, scores=np.array(scores))
