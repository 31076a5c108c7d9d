"""Encoded corpora: sentence pairs as memory-mapped arrays in the cache, written as a stream."""

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
from normscope.files import cache_folder, create_in_cache, is_abandoned
from normscope.tasks.translation.subwords import BOS, EOS, PAD, Subwords


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Sentences as ids, concatenated in a flat array."""

    tokens: np.ndarray
    """Ids of all sentences, ``[T]`` uint16 or int32."""
    offsets: np.ndarray
    """``[N + 1]`` int64; sentence ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the ids of a sentence, ``[L]`` int64, without beginning and end.

        Raises:
            IndexError: If the index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected a sentence from 0 to {len(self) - 1}, got {index}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def padded(self, indices: np.ndarray, *, begin: bool = False) -> Tensor:
        """Return padded sentences, each with its end symbol.

        Args:
            indices: ``[B]`` int64.
            begin: Whether to prepend the beginning symbol.

        Returns:
            ``[B, longest]`` int64, padded at the end.

        Raises:
            IndexError: If an index is out of range.
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
        """Number of tokens of every sentence, without beginning and end, ``[N]`` int64."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Padded sentence pairs."""

    source: Tensor
    """``[B, S]`` int64: the tokens, an end, then padding."""
    target: Tensor
    """``[B, T]`` int64: a beginning, the tokens, an end, then padding. Without the last column it is the decoder's
    input, without the first its target."""


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Sentence pairs as ids, in the order of the files."""

    source: EncodedTexts
    target: EncodedTexts
    dropped: Mapping[str, int]
    """Numbers of pairs excluded by the filter, by reason."""
    sha256: str
    """Hash of all ids and offsets, recorded with every run."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.source)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of positions of every pair in a batch, ``[N]`` int64: tokens of the longer side, plus the end."""
        return np.maximum(self.source.lengths, self.target.lengths) + 1

    @property
    def description(self) -> str:
        """One-line description: number of pairs, and numbers of excluded pairs by reason."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self):,} pairs" + (f"; left out: {reasons}" if reasons else "")

    def batch(self, indices: Tensor | Sequence[int]) -> PairBatch:
        """Return the pairs of ``indices``, ``[B]`` int64 on the CPU, padded on each side."""
        chosen = np.asarray(indices, dtype=np.int64)
        return PairBatch(source=self.source.padded(chosen), target=self.target.padded(chosen, begin=True))


_REVISION = 1
"""Incremented whenever the file format or the filter changes."""

_CHUNK = 4096
"""Number of pairs encoded per call."""

_SIDES = ("source", "target")
_FILES = tuple(f"{side}_{kind}.npy" for side in _SIDES for kind in ("tokens", "offsets"))
_RECORD = "corpus.json"
_REASONS = ("empty", "too long", "lengths too different")


@dataclass(frozen=True, kw_only=True)
class PairFilter:
    """Limits of training pairs; pairs with an empty side are always excluded."""

    max_length: int
    """Maximum number of tokens of each side, without beginning and end."""
    max_ratio: float
    """Maximum ratio of the lengths, longer to shorter."""

    def reason(self, source: int, target: int) -> str | None:
        """Return the reason to exclude a pair of these lengths, or None."""
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
    callback: Callable[[int], None] = lambda done: None,
) -> EncodedPairs:
    """Encode sentence pairs into the cache, or open them there.

    Args:
        name_parts: Identity of the pairs, for the cache: hashes of their files and the preprocessing. The vocabulary
            and the filter are added.
        pairs: Source and target; read as a stream, and only if the cache has no valid copy.
        vocabulary: Vocabulary of both sides.
        keep: Filter of training pairs; None keeps every pair, as required for test data.
        callback: Called regularly with the number of pairs read.

    Returns:
        The memory-mapped pairs.

    Raises:
        ValueError: If every pair is excluded; the message contains the numbers by reason.
        CacheUnusable: If the corpus is not in the cache, and the cache cannot be written.
    """
    from filelock import FileLock

    parts = [*name_parts, vocabulary.sha256, repr(keep), str(_REVISION)]
    folder = cache_folder() / "corpora" / sha256("\n".join(map(repr, parts)).encode()).hexdigest()
    if (found := _open(folder)) is not None:
        return found
    create_in_cache(folder.parent)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        found = _open(folder)
        if found is not None:
            return found
        # Left behind by a killed process: the lock excludes other writers, of this machine at least.
        for leftover in (folder, *filter(is_abandoned, folder.parent.glob(f".{folder.name}.*.tmp"))):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            _write(temporary, pairs, vocabulary, keep, callback)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        written = _open(folder)
    if written is None:
        raise ValueError(f"{folder} was written but cannot be read; is the disk damaged?")
    return written


class _ArrayWriter:
    """Writer of a one-dimensional ``.npy`` file of unknown length; the header is completed at the end."""

    def __init__(self, file: BinaryIO, dtype: type[np.generic]) -> None:
        self.file, self.dtype, self.length = file, np.dtype(dtype), 0
        self._header()

    def append(self, values: np.ndarray) -> None:
        """Append values."""
        self.file.write(values.astype(self.dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Complete the header and flush to disk."""
        end = self.file.tell()
        self.file.seek(0)
        self._header()
        self.file.seek(end)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _header(self) -> None:
        # numpy reserves room for a first dimension of any size, so the header keeps its length.
        description = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**description, "shape": (self.length,)})


def _write(
    folder: Path,
    pairs: Iterable[tuple[str, str]],
    vocabulary: Subwords,
    keep: PairFilter | None,
    callback: Callable[[int], None],
) -> None:
    """Write a corpus into a folder, and then the record with the hashes of its files.

    Raises:
        ValueError: If every pair is excluded.
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
            callback(done)
    finally:
        for writer in writers:
            writer.close()
    if writers[1].length == 1:
        raise ValueError(f"expected sentence pairs, but all {done} were left out: {dropped}")
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
    """Open a corpus; return None if a file is missing or does not match its recorded hash."""
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
