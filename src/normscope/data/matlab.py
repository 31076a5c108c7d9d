"""MATLAB 5 files: one array of numbers by its name. SciPy's reader crashes the process on some damaged files."""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LARGEST = 2**28
"""Largest unpacked size of a variable, in bytes."""

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Storage types of numbers, by their code."""
_CLASSES = range(6, 16)
"""Classes of dense arrays of numbers; those below are cells, structs, objects, texts and sparse arrays."""
_HEADER, _COMPLEX = 128, 0x0800


def read_matlab_array(path: Path, name: str) -> np.ndarray:
    """Read a dense array of real numbers from a MATLAB 5 file, without ever running what is in it.

    Args:
        path: The file, as ``save -v6`` or ``-v7`` writes it.
        name: Name of the variable.

    Returns:
        The array in its shape, in the type in which it is stored, which may be smaller than that of the variable.

    Raises:
        ValueError: If it is not such a file, is damaged, or lacks the variable, or the variable is not such an array;
            the message contains the file.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if len(content) < _HEADER or order is None or not content.startswith(b"MATLAB 5.0"):
        raise ValueError(f"{path} begins with {content[:20]!r}, expected a MATLAB 5 file")
    names = []
    try:
        for kind, data in _elements(content[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, data = _unpack(data, order)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} stands where a variable should")
            parts = _elements(data, order)
            flags, shape, label = (next(parts, (0, b""))[1] for _ in range(3))
            names.append(label.decode("latin-1"))
            if names[-1] == name:
                return _array(flags, shape, next(parts, (0, b"")), order)
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged, or not a MATLAB 5 file of numbers: {error}") from error
    raise ValueError(f"{path} has the variables {names}, expected {name!r}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Split a series of elements into their types and data; small ones are in their tag.

    Raises:
        ValueError: If an element is longer than what holds it.
    """
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, small = place + 8, kind >> 16
        if small:
            kind, size, start = kind & 0xFFFF, small, place + 4
        if start + size > len(content) or (small and size > 4):
            raise ValueError(f"an element of {size} bytes ends after the {len(content)} bytes that hold it")
        yield kind, content[start : start + size]
        # Compressed elements are not padded.
        place = place + 8 if small else start + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _unpack(packed: bytes, order: str) -> tuple[int, bytes]:
    """Unpack a compressed element.

    Raises:
        ValueError: If it is larger than :data:`LARGEST`, or cut short.
    """
    stream = zlib.decompressobj()
    content = stream.decompress(packed, LARGEST)
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError(f"a compressed variable has no end within {LARGEST:,} bytes")
    return next(_elements(content, order), (0, b""))


def _array(flags: bytes, shape: bytes, numbers: tuple[int, bytes], order: str) -> np.ndarray:
    """Make an array of its parts.

    Raises:
        ValueError: If it is not a dense array of real numbers, or has another size.
    """
    kind, data = numbers
    (word,) = struct.unpack_from(f"{order}I", flags)
    if (word & 0xFF) not in _CLASSES or word & _COMPLEX or kind not in _NUMBERS:
        raise ValueError(f"the variable is no dense array of real numbers (flags {word:#x}, storage {kind})")
    dtype = np.dtype(order + _NUMBERS[kind])
    sizes = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if len(sizes) < 2 or min(sizes) < 0 or math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f"an array {list(sizes)} of {dtype} does not fit its {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(sizes, order="F")
