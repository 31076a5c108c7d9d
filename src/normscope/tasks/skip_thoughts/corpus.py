"""Sentences as numbers, triples of consecutive ones, and batches of one length."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from normscope.data.readers.skip_thoughts.book_corpus import tokenize
from normscope.models.skip_thoughts import END
from normscope.tasks.batching import Draw

UNKNOWN = 1
"""Number of words outside the vocabulary."""

MOST_WORDS = 30
"""Sentences of a triple are at most so long."""

MOST_EVALUATED = 64
"""Longer sentences are cut where vectors are tested."""

MOST_SYMBOLS = 2**16
"""Symbols are kept in two bytes."""


@dataclass(frozen=True, kw_only=True)
class BookWords:
    """The most frequent words of the training books."""

    numbers: Mapping[str, int]
    """Word to number, from 2."""

    @property
    def size(self) -> int:
        """Number of symbols, with :data:`normscope.models.skip_thoughts.END` and :data:`UNKNOWN`."""
        return len(self.numbers) + 2

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the numbers of words."""
        return [self.numbers.get(word, UNKNOWN) for word in words]


def learn_vocabulary(sentences: Iterable[str], size: int) -> BookWords:
    """Build the vocabulary of the most frequent words, equally frequent ones in alphabetical order.

    Args:
        sentences: Tokens between single spaces.
        size: Number of symbols, with end and unknown word; there are fewer if the text has fewer words.

    Raises:
        ValueError: If ``size`` is not from 3 to 65,536, or there is no word.
    """
    if not 3 <= size <= MOST_SYMBOLS:
        raise ValueError(f"size must be 3 to {MOST_SYMBOLS} symbols, got {size}")
    counts = Counter(chain.from_iterable(map(str.split, sentences)))
    if not counts:
        raise ValueError("expected sentences with words, got none")
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
    return BookWords(numbers={word: number for number, word in enumerate(kept, 2)})


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Sequences of different lengths, one behind another."""

    words: np.ndarray
    """Numbers of all words, ``[W]`` uint16."""
    starts: np.ndarray
    """Where each sequence starts, and the end, ``[N + 1]`` int64."""

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> "Ragged":
        """Build sequences from lists of numbers."""
        words, starts = array("H"), array("q", [0])
        for row in rows:
            words.extend(row)
            starts.append(len(words))
        return cls(words=np.frombuffer(words, np.uint16), starts=np.frombuffer(starts, np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Number of words of each, ``[N]`` int64."""
        return np.diff(self.starts)

    def padded(self, chosen: np.ndarray, device: torch.device, *, end: bool) -> tuple[Tensor, Tensor]:
        """Return sequences ``[B, T]`` int64, padded with the end, and their lengths ``[B]`` int64 on the CPU.

        Args:
            chosen: Numbers of the sequences, ``[B]``.
            device: Device of the sequences.
            end: Whether the symbol of the end counts as a part of each.
        """
        begins = self.starts[chosen]
        lengths = self.starts[chosen + 1] - begins
        steps = np.arange(lengths.max() + end)
        places = np.minimum(begins[:, None] + steps, len(self.words) - 1)
        padded = np.where(steps < lengths[:, None], self.words[places].astype(np.int64), END)
        return torch.from_numpy(padded).to(device), torch.from_numpy(lengths + end)


def middles(lengths: np.ndarray) -> np.ndarray:
    """Return the sentences that stand between two, all three of 1 to :data:`MOST_WORDS` words, ``[M]`` int64.

    The empty sentence that stands between two books keeps a triple from reaching from one into the other.
    """
    fits = (lengths > 0) & (lengths <= MOST_WORDS)
    return np.flatnonzero(fits[:-2] & fits[1:-1] & fits[2:]) + 1


@dataclass(frozen=True, kw_only=True)
class Triples:
    """Books, and the sentences in them that stand between two others."""

    sentences: Ragged
    middles: np.ndarray
    """``[M]`` int64."""

    @classmethod
    def of(cls, lines: Iterable[str], vocabulary: BookWords) -> "Triples":
        """Encode books, an empty line between two."""
        sentences = Ragged.of(vocabulary.encode(line.split()) for line in lines)
        return cls(sentences=sentences, middles=middles(sentences.lengths))

    def batch(self, indices: np.ndarray, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return the sentences in the middle, before and after, each padded with its lengths and ends."""
        chosen = self.middles[indices]
        return tuple(self.sentences.padded(chosen + place, device, end=True) for place in (0, -1, 1))


class LengthBatches:
    """Batches of examples of one length, as in the published code.

    Every epoch is a random permutation; the batches of a length are full but for the last one, and all are shuffled.
    Each occurs once per epoch.

    Args:
        lengths: Length of every example, ``[N]`` int64.
        batch_size: Most examples of a batch.
        draw: Returns the random generator of an epoch.

    Raises:
        ValueError: If there is no example, or ``batch_size`` is below one.

    References:
        Kiros et al. (2015), ``homogeneous_data.py``. Departs from it in: all batches are shuffled, while it takes one
            of every length in turn.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, draw: Draw) -> None:
        if not len(lengths) or batch_size < 1:
            raise ValueError(f"expected examples and a batch size of at least 1, got {len(lengths)} and {batch_size}")
        self.lengths, self.batch_size, self.draw = lengths, batch_size, draw
        counts = np.unique(lengths, return_counts=True)[1]
        self.count = int(np.ceil(counts / batch_size).sum())
        """Number of batches of an epoch."""
        self._held: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, step: int) -> Tensor:
        """Return the examples of batch ``step``, ``[B]`` int64."""
        number, place = divmod(step, self.count)
        if self._held[0] != number:
            self._held = (number, self._batches(self.draw(number)))
        return torch.from_numpy(self._held[1][place])

    def _batches(self, generator: torch.Generator) -> list[np.ndarray]:
        examples = torch.randperm(len(self.lengths), generator=generator).numpy()
        examples = examples[np.argsort(self.lengths[examples], kind="stable")]
        cuts = np.flatnonzero(np.diff(self.lengths[examples])) + 1
        groups = [
            group[begin : begin + self.batch_size]
            for group in np.split(examples, cuts)
            for begin in range(0, len(group), self.batch_size)
        ]
        return [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]


def encode_texts(texts: Iterable[str], vocabulary: BookWords) -> Ragged:
    """Encode sentences whose vectors are tested: tokenized, at most :data:`MOST_EVALUATED` words, at least one."""
    return Ragged.of(vocabulary.encode(tokenize(text)[:MOST_EVALUATED]) or [UNKNOWN] for text in texts)
