"""Encoded sentence pairs: ids in flat arrays, and padded batches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from normscope.tasks.subwords import BOS, EOS, PAD


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
