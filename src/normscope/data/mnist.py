"""MNIST from its four original files: the idx format, 28 x 28 images, split 55,000 / 5,000 / 10,000."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from normscope.data.arrays import Arrays, ArraySplits
from normscope.data.download import Progress
from normscope.data.files import locate
from normscope.data.sets import SETS

VALID_EXAMPLES = 5_000
"""The last ones of the training file, as is usual. The file does not say who wrote what, so writers may overlap."""

TUNING_EXAMPLES = 5_000
"""The last ones before those: they judge learning rates."""

_UBYTE = 0x08


def load_mnist(*, progress: Progress | None = None) -> ArraySplits:
    """Read MNIST: images ``[N, 28, 28]`` uint8 from 0 to 255, labels ``[N]`` int64.

    The test images were written by other people than the training images (LeCun, Cortes, Burges, the home page).
    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had.

    Args:
        progress: Told how far a download is.
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
    """Read a pair of packed idx files that belong together.

    Raises:
        ValueError: If the counts differ, the images are not 28 x 28, or a label is over 9; the message names the file.
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
    """Read one gzip-packed idx file of unsigned bytes.

    The format: two zero bytes, a type byte (0x08), the number of dimensions, each size as a big-endian 32-bit integer,
    then the values in C order, and nothing after them.

    Args:
        path: The packed file.
        dimensions: How many dimensions it must have.

    Returns:
        uint8, writable, in the file's shape.

    Raises:
        ValueError: If it is not whole gzip, has another magic number, or more or fewer bytes than its header says.
    """
    try:
        # A bytearray, so that the array is writable: torch.from_numpy warns of one that is not.
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
