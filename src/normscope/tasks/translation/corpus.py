"""Encoded corpora: pairs of sentences as memory-mapped arrays in the cache, written without being held in memory."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from normscope.data.download import sha256 as sha256_of_file
from normscope.data.store import cache_folder
from normscope.tasks.translation.subwords import BOS, EOS, PAD, Subwords


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Sentences as ids, one after another in one flat array."""

    tokens: np.ndarray
    """``[T]`` uint16 or int32, of all sentences."""
    offsets: np.ndarray
    """``[N + 1]`` int64; sentence ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    def __len__(self) -> int:
        """Give the number of sentences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Give one sentence's ids, ``[L]`` int64, without beginning and end.

        Raises:
            IndexError: If there is no such sentence.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected a sentence from 0 to {len(self) - 1}, got {index}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def padded(self, indices: np.ndarray, *, begin: bool = False) -> Tensor:
        """Give sentences with their ends, equally long.

        Args:
            indices: ``[B]`` int64.
            begin: Whether each gets a beginning.

        Returns:
            ``[B, longest]`` int64, filled with padding behind the ends.

        Raises:
            IndexError: If there is no such sentence.
        """
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if len(wrong):
            raise IndexError(f"expected sentences from 0 to {len(self) - 1}, got {wrong[:5].tolist()}")
        lengths, first = self.lengths[indices], int(begin)
        rows = np.full((len(indices), first + int(lengths.max(initial=0)) + 1), PAD, dtype=np.int64)
        rows[:, :first] = BOS
        columns = np.arange(rows.shape[1]) - first
        inside = (columns >= 0) & (columns < lengths[:, None])
        rows[inside] = self.tokens[(self.offsets[indices][:, None] + columns)[inside]]
        rows[np.arange(len(rows)), first + lengths] = EOS
        return torch.from_numpy(rows)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every sentence, without beginning and end, ``[N]`` int64."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Padded sentence pairs."""

    source: Tensor
    """``[B, S]`` int64: the tokens, an end, then padding."""
    target: Tensor
    """``[B, T]`` int64: a beginning, the tokens, an end, then padding. Without its last column it is what a decoder
    reads, without its first what it has to say."""


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Sentence pairs as ids, in the order of the files."""

    source: EncodedTexts
    target: EncodedTexts
    dropped: Mapping[str, int]
    """How many pairs the filter left out, by its reason."""
    sha256: str
    """Hash of all ids and offsets, to be recorded with every run."""

    def __len__(self) -> int:
        """Give the number of pairs."""
        return len(self.source)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Positions that a pair takes in a batch, ``[N]`` int64: the longer side's tokens and one for the end."""
        return np.maximum(self.source.lengths, self.target.lengths) + 1

    @property
    def words(self) -> str:
        """One line for people: how many pairs there are, and how many were left out for what."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self):,} pairs" + (f"; left out: {reasons}" if reasons else "")

    def batch(self, indices: Tensor | Sequence[int]) -> PairBatch:
        """Give the pairs of ``indices``, ``[B]`` int64 on the CPU, padded to the longest on each side."""
        chosen = np.asarray(indices, dtype=np.int64)
        return PairBatch(source=self.source.padded(chosen), target=self.target.padded(chosen, begin=True))


_REVISION = 1
"""Raised whenever the files or the filter change."""

_CHUNK = 4096
"""Pairs encoded at once."""

_SIDES = ("source", "target")
_FILES = tuple(f"{side}_{kind}.npy" for side in _SIDES for kind in ("tokens", "offsets"))
_RECORD = "corpus.json"
_REASONS = ("empty", "too long", "lengths too different")


@dataclass(frozen=True, kw_only=True)
class PairFilter:
    """Which training pairs are left out, besides those with an empty side."""

    max_length: int
    """Most tokens of either side, without beginning and end."""
    max_ratio: float
    """Most that the longer side may be of the shorter one."""

    def reason(self, source: int, target: int) -> str | None:
        """Say why a pair of these lengths is left out; None if it stays."""
        if min(source, target) == 0:
            return _REASONS[0]
        if max(source, target) > self.max_length:
            return _REASONS[1]
        if max(source, target) > self.max_ratio * min(source, target):
            return _REASONS[2]
        return None


def encode_pairs(
    name_parts: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    vocabulary: Subwords,
    *,
    keep: PairFilter | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> EncodedPairs:
    """Encode sentence pairs into the cache, or open what is there already.

    Args:
        name_parts: What the pairs are: hashes of their files, and what was done to them. The vocabulary and the filter
            are added to the name here.
        pairs: Source and target, read only where the cache does not have them whole; never all in memory.
        vocabulary: Of both sides.
        keep: What leaves out training pairs; None keeps every pair, as a test set must.
        told: Called now and then with the number of pairs read.

    Returns:
        The pairs, mapped from disk.

    Raises:
        ValueError: If no pair is left; the message says how many were left out for what.
    """
    from filelock import FileLock

    parts = [*name_parts, vocabulary.sha256, repr(keep), str(_REVISION)]
    folder = cache_folder() / "corpora" / sha256("\n".join(map(repr, parts)).encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        found = _open(folder)
        if found is not None:
            return found
        # What a killed process left behind; nobody else is writing this corpus now.
        for leftover in (folder, *folder.parent.glob(f".{folder.name}.*.tmp")):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            _write(temporary, pairs, vocabulary, keep, told)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        written = _open(folder)
    if written is None:
        raise ValueError(f"{folder} was written and could not be read again; is the disk damaged?")
    return written


class _ArrayWriter:
    """Appends to a one-dimensional ``.npy`` file; the length goes into the header at the end."""

    def __init__(self, file: BinaryIO, dtype: type[np.generic]) -> None:
        self.file, self.dtype, self.length = file, np.dtype(dtype), 0
        self._header()

    def append(self, values: np.ndarray) -> None:
        """Write values behind the others."""
        self.file.write(values.astype(self.dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the length, and everything to disk."""
        end = self.file.tell()
        self.file.seek(0)
        self._header()
        self.file.seek(end)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _header(self) -> None:
        # numpy leaves room in the header for a first dimension of any size, so it is as long now as at the end.
        description = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**description, "shape": (self.length,)})


def _write(
    folder: Path,
    pairs: Iterable[tuple[str, str]],
    vocabulary: Subwords,
    keep: PairFilter | None,
    told: Callable[[int], None],
) -> None:
    """Write a corpus into a folder, and last the record of its files' hashes.

    Raises:
        ValueError: If no pair is left.
    """
    narrow = vocabulary.size <= np.iinfo(np.uint16).max + 1
    types = [np.uint16 if narrow else np.int32, np.int64] * len(_SIDES)
    writers = [_ArrayWriter((folder / name).open("wb"), kind) for name, kind in zip(_FILES, types, strict=True)]
    dropped: dict[str, int] = dict.fromkeys(_REASONS, 0)
    ends, done = np.zeros((len(_SIDES), 1), dtype=np.int64), 0
    try:
        for side in range(len(_SIDES)):
            writers[2 * side + 1].append(ends[side])
        for chunk in _chunks(pairs):
            kept = []
            for pair in zip(*(vocabulary.encode_many(texts) for texts in zip(*chunk, strict=True)), strict=True):
                reason = keep.reason(*map(len, pair)) if keep is not None else None
                if reason is None:
                    kept.append(pair)
                else:
                    dropped[reason] += 1
            for side in range(len(_SIDES)):
                rows = [pair[side] for pair in kept]
                offsets = ends[side, -1] + np.cumsum([len(row) for row in rows], dtype=np.int64)
                writers[2 * side].append(np.array([token for row in rows for token in row], dtype=np.int64))
                writers[2 * side + 1].append(offsets)
                ends[side] = offsets[-1:] if rows else ends[side]
            done += len(chunk)
            told(done)
    finally:
        for writer in writers:
            writer.close()
    if writers[1].length == 1:
        raise ValueError(f"expected sentence pairs, none is left of {done}; left out: {dropped}")
    hashes = {name: sha256_of_file(folder / name) for name in _FILES}
    with (folder / _RECORD).open("w", encoding="utf-8") as file:
        json.dump({"files": hashes, "dropped": dropped}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _chunks(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(pairs)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _open(folder: Path) -> EncodedPairs | None:
    """Open a corpus; None where it is not there whole, every file with the bytes that were written."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        hashes = {name: sha256_of_file(folder / name) for name in _FILES}
        if record["files"] != hashes:
            return None
        dropped = {str(reason): int(count) for reason, count in record["dropped"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    arrays = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in _FILES]
    return EncodedPairs(
        source=EncodedTexts(tokens=arrays[0], offsets=np.array(arrays[1])),
        target=EncodedTexts(tokens=arrays[2], offsets=np.array(arrays[3])),
        dropped=dropped,
        sha256=sha256("".join(hashes[name] for name in _FILES).encode()).hexdigest(),
    )
