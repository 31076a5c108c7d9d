"""Images with five captions each: COCO with features of a network, Multi30k with vectors of German descriptions."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate
from normscope.npy import HEADER_ERRORS

PER_IMAGE = 5
"""Captions per image; those of image i have the numbers 5 i to 5 i + 4."""

VALID_IMAGES = 1000
"""Number of COCO's validation images that are used, the first ones, as in the public code."""

COMPONENTS = 256
"""Features of an image of Multi30k."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """Images, known by their features, with five captions each."""

    captions: tuple[str, ...]
    """``PER_IMAGE`` per image: words separated by single spaces."""
    features: np.ndarray
    """``[N, F]`` float32; rows of COCO stay on disk until they are used."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class CaptionSplits:
    """Training, validation and test images of a data set."""

    train: CaptionedImages
    valid: CaptionedImages
    test: CaptionedImages
    hashes: dict[str, str]
    """sha256 of every source file by name, with the prefix ``unverified:`` if it is not published."""


@check_arguments
def load_coco_captions(*, progress: Progress | None = None) -> CaptionSplits:
    """Read COCO as the public code of Vendrov et al. stores it: 113,287 training images, 1,000 and 5,000 others.

    ``train.txt`` has a tokenized caption per line, five lines per image, and ``images/10crop/train.npy`` the features
    of VGG19, float32 ``[N, 4096]``, mean of ten crops, of unit norm; likewise ``val`` and ``test``. Of the 5,000
    validation images the first 1,000 are used, as in that code.

    Untested on the original archive: the reader follows the public code, and is tested on synthetic files.

    Raises ``DataNotFound`` if the files are not available, and warns with ``DataUnverified``, as they have no published
    sha256; raises as :func:`read_captions` and :func:`read_features` do.

    Source: https://github.com/ivendrov/order-embedding, ``datasets.py``; the splits of Karpathy and Fei-Fei (2015).

    Args:
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the parts have different numbers of features.
    """
    dataset = SETS["coco-captions"]
    paths = locate(dataset, progress=progress)
    parts = []
    for part in ("train", "val", "test"):
        features = read_features(paths[f"images/10crop/{part}.npy"])
        parts.append(CaptionedImages(captions=read_captions(paths[f"{part}.txt"], len(features)), features=features))
    train, valid, test = parts
    widths = [part.features.shape[1] for part in parts]
    if len(set(widths)) > 1:
        raise ValueError(
            f"the features of train, val and test must have one width, got {widths}, in "
            f"{paths['images/10crop/train.npy'].parent}"
        )
    kept = CaptionedImages(captions=valid.captions[: PER_IMAGE * VALID_IMAGES], features=valid.features[:VALID_IMAGES])
    return CaptionSplits(train=train, valid=kept, test=test, hashes=found_hashes(dataset, paths))


@check_arguments
def read_captions(path: Path, images: int) -> tuple[str, ...]:
    """Read a file with a tokenized caption per line, ``PER_IMAGE`` lines per image in the order of the images.

    Args:
        path: The file, UTF-8.
        images: Number of images.

    Returns:
        The captions, with single spaces.

    Raises:
        ValueError: If a line is blank, or the number of lines is not that of the images; also as for ``read_lines``.
    """
    captions = tuple(_filled(path, (" ".join(line.split()) for line in read_lines(path))))
    if len(captions) != PER_IMAGE * images:
        raise ValueError(
            f"{path} ends after line {len(captions)}, expected {PER_IMAGE * images} lines, {PER_IMAGE} for each of "
            f"{images} images"
        )
    return captions


@check_arguments
def read_features(path: Path) -> np.ndarray:
    """Open a ``.npy`` file of features of images; it stays on disk, and its rows are read when they are used.

    Args:
        path: A file of numpy's own format.

    Returns:
        Read-only float32 ``[N, F]``.

    Raises:
        ValueError: If it is no whole ``.npy`` file, has another dtype or shape, or a row that is not finite.
    """
    try:
        features = np.lib.format.open_memmap(path, mode="r")
    except HEADER_ERRORS as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers: {error}") from error
    if features.dtype != np.float32 or features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{path} must have float32 [images, features], got {features.dtype} {list(features.shape)}")
    if (rest := path.stat().st_size - features.offset - features.nbytes) > 0:
        raise ValueError(f"{path} has {rest} bytes behind its {len(features)} rows")
    for start in range(0, len(features), _ROWS_AT_ONCE):
        finite = np.isfinite(features[start : start + _ROWS_AT_ONCE]).all(axis=1)
        if not finite.all():
            raise ValueError(f"{path}, row {start + int(finite.argmin())} from 0, has a feature that is not finite")
    return features


@check_arguments
def load_multi30k_captions(*, progress: Progress | None = None) -> CaptionSplits:
    """Read the five English descriptions of each image of Multi30k, with a vector of its five German descriptions.

    A stand-in for captions with features of images: the descriptions of the two languages were written independently
    of each other, by people who saw the image. Words are lower-cased, punctuation is dropped, as in the captions of
    Karpathy and Fei-Fei (2015). 29,000 / 1,014 / 1,000 images. The vectors are those of :func:`german_vectors`, fitted
    on the training images.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Elliott et al. (2016), "Multi30K: multilingual English-German image descriptions", task 2.

    Args:
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the files of a part have different numbers of lines, or a line has no word.
    """
    dataset = SETS["multi30k-task2"]
    paths = locate(dataset, progress=progress)
    english, german = {}, {}
    for part in ("train", "val", "test_2016"):
        names = [[f"{part}.{number}.{side}.gz" for number in range(1, PER_IMAGE + 1)] for side in ("en", "de")]
        rows = list(_aligned([paths[name] for side in names for name in side]))
        english[part] = tuple(words for row in rows for words in row[:PER_IMAGE])
        german[part] = [" ".join(row[PER_IMAGE:]) for row in rows]
    train, *others = german_vectors(*german.values())
    parts = [
        CaptionedImages(captions=captions, features=features)
        for captions, features in zip(english.values(), [train, *others], strict=True)
    ]
    return CaptionSplits(train=parts[0], valid=parts[1], test=parts[2], hashes=dataset.hashes)


def german_vectors(train: Sequence[str], *others: Sequence[str], components: int = COMPONENTS) -> list[np.ndarray]:
    r"""Compute vectors of texts: TF-IDF and a truncated singular value decomposition, fitted on the first texts.

    Of N training texts, :math:`n_w` with the word w; words of a single text are left out:

    .. math::
        x_w = (1 + \ln \mathrm{tf}_w) \Big(1 + \ln \frac{1 + N}{1 + n_w}\Big), \quad
        v = \frac{V^\top x / \lVert x \rVert}{\lVert V^\top x / \lVert x \rVert \rVert}

    V has the right singular vectors of the largest singular values of the training rows :math:`x / \lVert x \rVert`.
    They are computed by a randomized algorithm from a fixed seed: the same vectors on the same machine, and on others
    up to rounding. A text without a known word has the vector 0.

    Args:
        train: Training texts, of words separated by single spaces.
        others: Texts of the other parts.
        components: Number of features, F.

    Returns:
        A float32 array ``[texts, F]`` per part, the training part first.

    References:
        Deerwester et al. (1990). Indexing by latent semantic analysis. Halko et al. (2011), arXiv:0909.4061.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    # scikit-learn annotates these arguments with the types of their defaults only.
    given: dict[str, Any] = {"tokenizer": str.split, "token_pattern": None, "dtype": np.float32}
    weights = TfidfVectorizer(lowercase=False, min_df=2, sublinear_tf=True, **given)
    rows = [weights.fit_transform(train), *(weights.transform(texts) for texts in others)]
    reduce = TruncatedSVD(components, random_state=0).fit(rows[0])
    return [np.asarray(normalize(reduce.transform(part)), dtype=np.float32) for part in rows]


def _aligned(paths: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of several files with one number, as lower-case words.

    Raises:
        ValueError: If a file ends before another, or a line has no word.
    """
    files = [_filled(path, (" ".join(_WORD.findall(line.lower())) for line in read_lines(path))) for path in paths]
    number = 0
    while True:
        row = [next(file, None) for file in files]
        ended = [path for path, words in zip(paths, row, strict=True) if words is None]
        if len(ended) == len(paths):
            return
        if ended:
            longer = next(path for path in paths if path not in ended)
            raise ValueError(f"{ended[0]} ends after line {number}, before {longer}: they do not belong together")
        number += 1
        yield tuple(words for words in row if words is not None)


_WORD = re.compile(r"\w+")


def _filled(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Yield lines with words.

    Raises:
        ValueError: If there is no word in a line.
    """
    for number, line in enumerate(lines, start=1):
        if not line:
            raise ValueError(f"{path}, line {number}, has no word, expected a caption")
        yield line
