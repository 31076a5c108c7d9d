"""Drawings by a pen: Omniglot and KanjiVG as offsets between points, from flat arrays without pickles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_zip
from normscope.data.registry import SETS
from normscope.data.store import locate
from normscope.npy import check_array, read_npy


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Drawings as sequences of points, in the units of the files."""

    points: np.ndarray
    """``[N, 3]`` int32, all drawings one after another: the offset (dx, dy) from the point before, y downwards, and
    1 if the pen is lifted after the point, else 0."""
    lengths: np.ndarray
    """``[D]`` int64: number of points of each drawing, at least 1."""
    texts: tuple[str, ...] = ()
    """The text of each drawing; empty if there is none to condition on."""

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the points of each drawing, ``[T, 3]``."""
        return iter(np.split(self.points, np.cumsum(self.lengths)[:-1]) if len(self) else ())


@dataclass(frozen=True, kw_only=True)
class DrawingSplits:
    """Training, validation and test drawings of a data set."""

    train: Drawings
    valid: Drawings
    test: Drawings
    hashes: Mapping[str, str]
    """sha256 of every source file by name; recorded with every run."""
    left_out: Mapping[str, int]
    """Numbers of drawings of the files that are in no part, by reason."""


StrokeSet = Literal["omniglot-strokes", "kanji-strokes"]

_PARTS = ("train", "valid", "test")


@check_arguments
def load_strokes(name: StrokeSet, *, progress: Progress | None = None) -> DrawingSplits:
    """Read Omniglot's or KanjiVG's drawings, in the parts of the files.

    Training drawings that equal a validation or test drawing are left out (eight of KanjiVG). A drawing of Omniglot
    begins with a point of zeros, which is not a point of the drawing and is dropped.

    Raises ``DataNotFound`` or ``DataDamaged`` if the file is not available.

    Source: Lake et al. (2015), Omniglot; Apel, KanjiVG; both as simplified by Ha (2017), sketch-rnn-datasets.

    Args:
        name: ``omniglot-strokes`` or ``kanji-strokes``.
        progress: Callback for the progress of a download.
    """
    dataset = SETS[name]
    path = locate(dataset, progress=progress)[dataset.files[0].name]
    parts = read_strokes(path, begins_with_zeros=name == "omniglot-strokes")
    held = {drawing.tobytes() for part in ("valid", "test") for drawing in parts[part]}
    kept = [drawing for drawing in parts["train"] if drawing.tobytes() not in held]
    left_out = len(parts["train"]) - len(kept)
    return DrawingSplits(
        train=_join(kept),
        valid=parts["valid"],
        test=parts["test"],
        hashes=dataset.hashes,
        left_out={"equal to a validation or test drawing": left_out} if left_out else {},
    )


def read_strokes(path: Path, *, begins_with_zeros: bool = False) -> dict[str, Drawings]:
    """Read a ``.npz`` file with the arrays ``PART_points``, ``[N, 3]`` int16, and ``PART_lengths``, ``[D]`` int32.

    Args:
        path: The file.
        begins_with_zeros: Whether every drawing begins with a point of zeros, which is dropped.

    Returns:
        The drawings by part: ``train``, ``valid`` and ``test``.

    Raises:
        ValueError: If the archive is damaged, an array is missing, unknown, or has another shape or dtype, the lengths
            do not add up, the last column is neither 0 nor 1, or a drawing has no point, does not end with a lifted
            pen, or does not begin as it should; the message names the file, the array and the drawing.
    """
    members = read_zip(path)
    wanted = {f"{part}_{kind}.npy" for part in _PARTS for kind in ("points", "lengths")}
    if set(members) != wanted:
        raise ValueError(f"{path} holds {sorted(members)[:8]}, expected {sorted(wanted)}")
    return {
        part: _drawings(
            _array(members[f"{part}_points.npy"], f"{path}: {part}_points", "<i2", (None, 3)),
            _array(members[f"{part}_lengths.npy"], f"{path}: {part}_lengths", "<i4", (None,)),
            f"{path}: {part}",
            begins_with_zeros,
        )
        for part in _PARTS
    }


def _array(content: bytes, where: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Read an array.

    Raises:
        ValueError: If it is damaged, or has another dtype or shape.
    """
    try:
        array = read_npy(content)
    except ValueError as error:
        raise ValueError(f"{where} is not a whole .npy array: {error}") from error
    check_array(where, array, dtype, shape)
    return array


def _drawings(points: np.ndarray, lengths: np.ndarray, where: str, begins_with_zeros: bool) -> Drawings:
    """Check the points and lengths of a part.

    Raises:
        ValueError: As for :func:`read_strokes`.
    """
    lengths = lengths.astype(np.int64)
    if len(lengths) == 0 or (shortest := int(lengths.argmin())) is None or lengths[shortest] < 1 + begins_with_zeros:
        raise ValueError(
            f"{where}: every drawing has a point, "
            + (f"drawing {shortest} has length {lengths[shortest]}" if len(lengths) else "and there is no drawing")
        )
    if lengths.sum() != len(points):
        raise ValueError(f"{where}: the lengths add up to {lengths.sum()} of {len(points)} points")
    if (wrong := ~np.isin(points[:, 2], (0, 1))).any():
        place = int(wrong.argmax())
        raise ValueError(f"{where}_points: row {place} says {points[place, 2]} of the pen, expected 0 or 1")
    ends = np.cumsum(lengths)
    begins = ends - lengths
    if (down := points[ends - 1, 2] == 0).any():
        raise ValueError(f"{where}: drawing {int(down.argmax())} ends with the pen on the paper")
    if begins_with_zeros:
        if (other := points[begins].any(axis=1)).any():
            place = int(other.argmax())
            raise ValueError(f"{where}: drawing {place} begins with {points[begins[place]].tolist()}, expected zeros")
        points, lengths = np.delete(points, begins, axis=0), lengths - 1
    return Drawings(points=points.astype(np.int32), lengths=lengths)


def _join(drawings: list[np.ndarray]) -> Drawings:
    return Drawings(points=np.concatenate(drawings), lengths=np.array([len(one) for one in drawings], dtype=np.int64))
