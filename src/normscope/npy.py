"""Arrays of numbers in numpy's .npy format, read without pickles and without memory that a header merely claims."""

import io
import math
import struct
from tokenize import TokenError

import numpy as np

HEADER_ERRORS = (ValueError, SyntaxError, TypeError, OverflowError, EOFError, TokenError, struct.error)
"""What numpy raises for headers that are cut short, are no Python literals, or have impossible shapes."""


def read_npy(content: bytes) -> np.ndarray:
    """Read an array of numbers from the bytes of a ``.npy`` file, read-only; ``np.load`` would trust its header.

    Raises:
        ValueError: If the bytes are not version 1.0 of the format, hold objects or Fortran order, or do not have the
            size that the header says.
    """
    stream = io.BytesIO(content)
    try:
        if (version := np.lib.format.read_magic(stream)) != (1, 0):
            raise ValueError(f"version {version} of the .npy format, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except HEADER_ERRORS as error:
        raise ValueError(f"a damaged header: {error}") from error
    if fortran or dtype.hasobject:
        raise ValueError(f"{dtype} {list(shape)} in Fortran order or with objects, expected numbers in C order")
    if (size := len(content) - stream.tell()) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes, which do not fit {dtype} {list(shape)}")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def check_array(name: str, array: np.ndarray, dtype: str, shape: tuple[int | None, ...]) -> None:
    """Check the dtype of an array and its shape, in which None stands for any size.

    Raises:
        ValueError: If it has another dtype or shape.
    """
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype.str != dtype or not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be {np.dtype(dtype)} [{sizes}], got {array.dtype} {list(array.shape)}")
