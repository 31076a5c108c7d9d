"""Images: the UCI digits from their table, MNIST from its four original files, and binarized MNIST from three."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.matlab import read_matlab_array
from normscope.data.readers.files import shuffled, split_stream
from normscope.data.registry import SETS
from normscope.data.store import locate


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Labelled examples as in the files, neither scaled nor shuffled."""

    x: np.ndarray
    """``[N, height, width]`` uint8."""
    y: np.ndarray
    """``[N]`` int64, classes from 0."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.y)


@dataclass(frozen=True, kw_only=True)
class ArraySplits:
    """Disjoint parts of a data set in file order."""

    train: Arrays
    valid: Arrays
    test: Arrays
    held_for_tuning: int
    """Number of last training examples that are held out when learning rates are tuned."""
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""


SHEETS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
"""Index of the first image of each writer's sheet, and the end of the last sheet.

The file does not name the writers, but all copied the same printed sheet of 130 digits, so the sequence of labels
repeats fourteen times, with a few digits missing; ``test_digits.py`` checks each boundary against that sequence.
"""

TRAIN_SHEETS, VALID_SHEETS, TEST_SHEETS = 8, 2, 4


@check_arguments
def load_digits(seed: int | None = None) -> ArraySplits:
    """Read the digits: images ``[N, 8, 8]`` uint8 from 0 to 16, labels ``[N]`` int64.

    The parts are whole sheets in file order: eight to train, two to validate, four to test. Without a seed these are
    the first eight (1,029 images), the next two (258) and the last four (510); with a seed, the sheets are dealt out at
    random. Every sheet contains each class 9 to 14 times, so the parts are balanced without being stratified. The last
    sheet of the training part is held out for tuning.

    A split inside sheets would put each writer into both training and test data, and overestimate every classifier:
    the accuracy of logistic regression is 95.5 % if images are dealt out in turn (60/10/30), and 91.2 % here; of three
    nearest neighbours, 98.3 % and 96.3 %. A limitation: according to UCI, 13 people wrote these 14 sheets, so two
    sheets, unknown which, have the same writer. Accuracies are not comparable with those of random splits.

    Raises ``DataNotFound`` if scikit-learn is not installed, and ``DataDamaged`` if its file has another hash.

    Source: Alpaydin and Kaynak (1998), UCI "Optical Recognition of Handwritten Digits", the test half.

    Args:
        seed: Seed of the split; None for the fixed one.
    """
    dataset = SETS["digits"]
    x, y = read_digits(locate(dataset)["digits.csv.gz"])
    sheets = [np.arange(begin, end) for begin, end in pairwise(SHEETS)]
    order = list(range(len(sheets)))
    if seed is not None:
        order = [int(sheet) for sheet in shuffled(map(str, order), split_stream(seed))]
    cuts = TRAIN_SHEETS, TRAIN_SHEETS + VALID_SHEETS
    chosen = [sorted(part) for part in (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])]
    train, valid, test = (np.concatenate([sheets[sheet] for sheet in part]) for part in chosen)
    return ArraySplits(
        train=Arrays(x=x[train], y=y[train]),
        valid=Arrays(x=x[valid], y=y[valid]),
        test=Arrays(x=x[test], y=y[test]),
        held_for_tuning=len(sheets[chosen[0][-1]]),
        hashes=dataset.hashes,
    )


def read_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the compressed table, with 64 pixels and a label per line.

    Returns:
        Images ``[N, 8, 8]`` uint8 and labels ``[N]`` int64, in file order.

    Raises:
        ValueError: If a line does not have 65 numbers, or a number is out of range; the message contains the file.
    """
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    if table.shape[1] != 65:
        raise ValueError(f"{path} has {table.shape[1]} numbers per line, expected 64 pixels and a label")
    pixels, labels = table[:, :64], table[:, 64]
    if pixels.min() < 0 or pixels.max() > 16 or labels.min() < 0 or labels.max() > 9:
        raise ValueError(
            f"{path} holds pixels from {pixels.min():g} to {pixels.max():g} and labels from {labels.min():g} to "
            f"{labels.max():g}, expected 0 to 16 and 0 to 9"
        )
    return pixels.astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.int64)


VALID_EXAMPLES = 5_000
"""Number of validation examples: the last ones of the training file, as usual. Writers may overlap."""

TUNING_EXAMPLES = 5_000
"""Number of examples held out for tuning: the last ones before the validation examples."""

_UBYTE = 0x08


def load_mnist(*, progress: Progress | None = None) -> ArraySplits:
    """Read MNIST: images ``[N, 28, 28]`` uint8 from 0 to 255, labels ``[N]`` int64.

    The writers of the test images are not those of the training images (LeCun, Cortes, Burges, the home page).
    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["mnist"]
    paths = locate(dataset, progress=progress)
    train = read_examples(paths["train-images-idx3-ubyte.gz"], paths["train-labels-idx1-ubyte.gz"])
    test = read_examples(paths["t10k-images-idx3-ubyte.gz"], paths["t10k-labels-idx1-ubyte.gz"])
    cut = len(train) - VALID_EXAMPLES
    return ArraySplits(
        train=Arrays(x=train.x[:cut], y=train.y[:cut]),
        valid=Arrays(x=train.x[cut:], y=train.y[cut:]),
        test=test,
        held_for_tuning=TUNING_EXAMPLES,
        hashes=dataset.hashes,
    )


def read_examples(images: Path, labels: Path) -> Arrays:
    """Read a compressed idx file of images and the file of their labels.

    Raises:
        ValueError: If the counts differ, the images are not 28 x 28, or a label is above 9; the message contains the
            file.
    """
    x, y = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if x.shape[1:] != (28, 28):
        raise ValueError(f"{images} holds images of {x.shape[1]} x {x.shape[2]} pixels, expected 28 x 28")
    if len(x) != len(y):
        raise ValueError(f"{labels} holds {len(y)} labels for the {len(x)} images of {images}")
    if y.size and y.max() > 9:
        raise ValueError(f"{labels} holds the label {y.max()}, expected 0 to 9")
    return Arrays(x=x, y=y.astype(np.int64))


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """Read a gzip-compressed idx file of unsigned bytes.

    The format: two zero bytes, a type byte (0x08), the number of dimensions, the sizes as big-endian 32-bit integers,
    and the values in C order.

    Args:
        path: The compressed file.
        dimensions: Expected number of dimensions.

    Returns:
        A writable uint8 array in the shape of the header.

    Raises:
        ValueError: If the gzip file is damaged, the magic number is wrong, or the size differs from the header.
    """
    try:
        # A bytearray makes the array writable; torch.from_numpy warns of read-only arrays.
        data = bytearray(gzip.decompress(path.read_bytes()))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    header = 4 + 4 * dimensions
    wanted = bytes((0, 0, _UBYTE, dimensions))
    if bytes(data[:4]) != wanted:
        raise ValueError(f"{path} begins with {bytes(data[:4]).hex()}, expected the idx magic number {wanted.hex()}")
    if len(data) < header:
        raise ValueError(f"{path} ends inside its header: {len(data)} of {header} bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=np.uint64))
    if len(data) != expected:
        raise ValueError(f"{path} unpacks to {len(data)} bytes; its header, sizes {list(shape)}, says {expected}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class BinaryImages:
    """Images of black and white pixels without labels, ``[N, height, width]`` uint8, 0 or 1, in file order."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""


@check_arguments
def load_binarized_mnist() -> BinaryImages:
    """Read the fixed binarization of MNIST: 50,000, 10,000 and 10,000 images of 28 x 28 pixels.

    The test images are sorted by digit, the others are not.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Larochelle and Murray (2011), The neural autoregressive distribution estimator; after Salakhutdinov and
    Murray (2008), each pixel is a Bernoulli draw with its gray level as the probability.
    """
    dataset = SETS["binarized-mnist"]
    paths = locate(dataset)
    train, valid, test = (
        read_binary_images(paths[f"binarized_mnist_{part}.mat"]) for part in ("train", "valid", "test")
    )
    return BinaryImages(train=train, valid=valid, test=test, hashes=dataset.hashes)


def read_binary_images(path: Path, *, side: int = 28) -> np.ndarray:
    """Read the variable ``X`` of a MATLAB 5 file, one image row by row in each of its rows.

    Args:
        path: The file.
        side: Height and width of the images.

    Returns:
        ``[N, side, side]`` uint8, 0 or 1.

    Raises:
        ValueError: If it is not such a file, is damaged, has no ``X`` or one of another type or width, or a pixel is
            neither 0 nor 1; the message contains the file, and row and pixel if it is a pixel.
    """
    found = read_matlab_array(path, "X")
    if found.shape[1:] != (side * side,):
        raise ValueError(f"{path} has X of shape {list(found.shape)}, expected [images, {side * side}]")
    if not len(found):
        raise ValueError(f"{path} has no image")
    wrong = np.argwhere((found != 0) & (found != 1))
    if len(wrong):
        row, pixel = map(int, wrong[0])
        raise ValueError(f"{path}, row {row + 1}: pixel {pixel + 1} is {found[row, pixel]}, expected 0 or 1")
    return np.ascontiguousarray(found, dtype=np.uint8).reshape(-1, side, side)
