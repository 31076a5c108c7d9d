"""RT polarity: 5,331 positive and 5,331 negative sentences, a fixed split and ten folds."""

import hashlib

import numpy as np

from normscope.data.download import Progress
from normscope.data.files import locate
from normscope.data.labelled_text import LabelledText, LabelledTextSplits
from normscope.data.lines import read_lines
from normscope.data.sets import SETS

ENCODING = "cp1252"
"""The files are Windows-1252; as UTF-8 they cannot be read, as Latin-1 their dashes become control characters."""

NEGATIVE, POSITIVE = 0, 1

SEED = "rt-polarity split 1"
"""Decides both splits, together with the sentences themselves; see ``hundredths``."""

FOLDS = 10


def load_rt(fold: int | None = None, *, progress: Progress | None = None) -> LabelledTextSplits:
    """Read RT polarity: sentences, and labels 0 (negative) and 1 (positive).

    The publishers give no split. Each class is put into an order of its own and cut into hundredths, see
    ``hundredths``. Without a fold, 0 to 79 train, 80 to 89 validate and 90 to 99 test. With fold k, 10 k to 10 k + 9
    test, the nine that follow (after 99 comes 0) validate, a tenth of the rest, and the others train; over the ten
    folds every sentence is tested once.
    Inside a part sentences are in file order, the negative ones first.

    The 10,662 sentences are all distinct; were one there twice, both copies would be in one part. Sentences of one
    review may be in different parts: the files do not say which belong together.

    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had.

    Source: Pang and Lee (2005), "Seeing stars", the sentence polarity data set v1.0.

    Args:
        fold: Which fold tests, 0 to 9; None for the fixed split.
        progress: Told how far a download is.

    Raises:
        ValueError: If there is no such fold.
    """
    if fold is not None and fold not in range(FOLDS):
        raise ValueError(f"fold is {fold}, expected None or 0 to {FOLDS - 1}")
    dataset = SETS["rt-polarity"]
    paths = locate(dataset, progress=progress)
    sides = [tuple(read_lines(paths[f"rt-polarity.{side}.gz"], encoding=ENCODING)) for side in ("neg", "pos")]
    sentences = sides[NEGATIVE] + sides[POSITIVE]
    labels = np.repeat(np.array([NEGATIVE, POSITIVE], dtype=np.int64), [len(side) for side in sides])
    test_begin = 90 if fold is None else 10 * fold
    # How far each sentence stands behind the first one of the test part, around the circle.
    distance = (hundredths(sentences, labels) - test_begin) % 100
    test = distance < 10
    valid = (distance >= 90) if fold is None else (distance >= 10) & (distance < 19)
    return LabelledTextSplits(
        train=_part(sentences, labels, ~(valid | test)),
        valid=_part(sentences, labels, valid),
        test=_part(sentences, labels, test),
        hashes=dataset.hashes,
    )


def hundredths(sentences: tuple[str, ...], labels: np.ndarray) -> np.ndarray:
    """Deal sentences into a hundred parts of nearly one size, each class apart.

    The order within a class is that of the sha256 of the seed, a newline and the sentence in UTF-8: as good as a
    random permutation, and the same with every version of every library. Equal sentences go to one part, also where
    their labels differ: the first one decides.

    Args:
        sentences: ``N`` of them.
        labels: ``[N]`` int64.

    Returns:
        ``[N]`` int64 from 0 to 99.
    """
    first = dict(zip(reversed(sentences), reversed(labels.tolist()), strict=True))
    part = {}
    for label in sorted(set(first.values())):
        members = [sentence for sentence in first if first[sentence] == label]
        members.sort(key=lambda sentence: hashlib.sha256(f"{SEED}\n{sentence}".encode()).digest())
        part |= {sentence: place * 100 // len(members) for place, sentence in enumerate(members)}
    return np.array([part[sentence] for sentence in sentences], dtype=np.int64)


def _part(sentences: tuple[str, ...], labels: np.ndarray, chosen: np.ndarray) -> LabelledText:
    return LabelledText(sentences=tuple(sentences[index] for index in np.flatnonzero(chosen)), labels=labels[chosen])
