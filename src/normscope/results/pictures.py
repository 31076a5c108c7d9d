"""Pictures that a run leaves: images with boxes, and pen strokes, in one file without pickles; numpy only."""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from normscope.npy import check_array, read_npy

Kind = Literal["images", "strokes"]

LARGEST = 2**24
"""Largest number of bytes of all arrays of a file together."""

_TEXT, _IMAGES, _NUMBERS = "U", "|u1", "<f4"


@dataclass(frozen=True, eq=False)
class Picture:
    """A table of images, or a list of drawings by a pen.

    Raises:
        ValueError: If an array has another dtype or shape, or a coordinate of a box or a point is infinite.

    Example:
        >>> import numpy as np
        >>> from normscope.results.pictures import Picture
        >>> Picture("two samples", "images", np.zeros((1, 2, 28, 28), np.uint8)).array.shape
        (1, 2, 28, 28)
    """

    caption: str
    """What is shown, as plain text."""
    kind: Kind
    """What :attr:`array` holds."""
    array: np.ndarray
    """Images: uint8 ``[rows, columns, H, W]``, 0 is black. Strokes: float32 ``[N, T, 3]``, each point the offset
    (dx, dy) from the one before, y downwards, and whether the pen is lifted after it; NaN after the end."""
    boxes: np.ndarray | None = None
    """Of images: float32 ``[rows, columns, K, 4]``, left, top, width and height in pixels, NaN for no box."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be {' or '.join(map(repr, get_args(Kind)))}, got {self.kind!r}")
        if self.kind == "images":
            _check("images", self.array, _IMAGES, (None, None, None, None))
        else:
            _check("strokes", self.array, _NUMBERS, (None, None, 3))
        if self.boxes is not None:
            if self.kind != "images":
                raise ValueError("boxes are those of images, got strokes")
            _check("boxes", self.boxes, _NUMBERS, (*self.array.shape[:2], None, 4))


def _check(name: str, array: np.ndarray, dtype: str, shape: tuple[int | None, ...]) -> None:
    check_array(name, array, dtype, shape)
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got {array.dtype} {list(array.shape)}")
    if np.isinf(array).any():
        raise ValueError(f"{name} must be finite or NaN, got infinity")


def pack(pictures: Sequence[Picture]) -> bytes:
    """Return the bytes of ``pictures.npz``: per picture its caption, its array by kind, and its boxes if it has any.

    Raises:
        ValueError: If the arrays are larger than :data:`LARGEST` together.
    """
    arrays: dict[str, np.ndarray] = {}
    for place, picture in enumerate(pictures):
        arrays[f"{place}.caption"] = np.array(picture.caption)
        arrays[f"{place}.{picture.kind}"] = picture.array
        if picture.boxes is not None:
            arrays[f"{place}.boxes"] = picture.boxes
    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST:
        raise ValueError(f"the pictures of a run may hold {LARGEST:,} bytes, got {size:,}: show fewer")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def read_pictures(path: Path) -> list[Picture]:
    """Read a file that :func:`pack` made; sizes are checked before memory is allocated, and no pickle is read.

    Raises:
        ValueError: If it is damaged, larger than :data:`LARGEST`, or holds anything else; the message names it.
    """
    # Read outside of the try block: a failing disk is another error.
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            entries = archive.infolist()
            if (size := sum(entry.file_size for entry in entries)) > LARGEST + 1000 * len(entries):
                raise ValueError(f"{size:,} bytes unpacked, expected at most {LARGEST:,}")
            arrays = {entry.filename.removesuffix(".npy"): read_npy(archive.read(entry)) for entry in entries}
        return _pictures(arrays)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold the pictures of a run: {error}") from error


def _pictures(arrays: dict[str, np.ndarray]) -> list[Picture]:
    pictures = []
    while f"{len(pictures)}.caption" in arrays:
        place = len(pictures)
        caption = arrays.pop(f"{place}.caption")
        if caption.dtype.kind != _TEXT or caption.shape:
            raise ValueError(f"caption {place} must be a text, got {caption.dtype} {list(caption.shape)}")
        kinds: list[Kind] = [kind for kind in get_args(Kind) if f"{place}.{kind}" in arrays]
        if len(kinds) != 1:
            raise ValueError(f"picture {place} must have images or strokes, got {kinds}")
        array, boxes = arrays.pop(f"{place}.{kinds[0]}"), arrays.pop(f"{place}.boxes", None)
        pictures.append(Picture(str(caption), kinds[0], array, boxes))
    if arrays:
        raise ValueError(f"unexpected arrays {', '.join(map(repr, arrays))}")
    return pictures
