"""Batches of so many tokens: random, with little padding, and each of them to be had at any time."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[int], torch.Generator]
"""Gives the random source of a pass over the data, by its number from 0."""


class BatchOrder:
    """One random permutation of the set after another, cut into equal batches.

    Every example is seen once in each pass, every batch is full, and batch ``step`` can be asked for at any time.

    Args:
        examples: Size of the training set.
        batch_size: Examples a batch.
        draw: Source of the permutations.

    Raises:
        ValueError: If the batch is larger than the set.
    """

    def __init__(self, examples: int, batch_size: int, draw: Draw) -> None:
        if not 1 <= batch_size <= examples:
            raise ValueError(f"batch_size must be 1 to {examples}, the size of the training set, got {batch_size}")
        self.examples = examples
        self.batch_size = batch_size
        self.draw = draw
        self._passes: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Give the indices of batch ``step``, ``[batch_size]`` int64."""
        start = step * self.batch_size
        number, offset = divmod(start, self.examples)
        indices = self._pass(number)[offset : offset + self.batch_size]
        missing = self.batch_size - len(indices)
        return torch.cat([indices, self._pass(number + 1)[:missing]]) if missing else indices

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            self._passes = {key: order for key, order in self._passes.items() if key == number - 1}
            self._passes[number] = torch.randperm(self.examples, generator=self.draw(number))
        return self._passes[number]


class StreamOrder:
    """Consecutive segments of a long stream, read by several readers at once, for models that remember.

    The stream is cut into ``readers`` equal parts; batch ``step`` is the next segment of every part. A pass ends when
    a part has no whole segment left; each pass begins at an offset of its own, so that segments fall differently and
    no symbol is left out for ever.

    Args:
        length: Symbols of the stream.
        readers: How many parts, the rows of a batch; at least 1.
        segment: Symbols a segment; at least 1.
        draw: Source of the offsets.

    Raises:
        ValueError: If a part is shorter than two segments.
    """

    def __init__(self, length: int, readers: int, segment: int, draw: Draw) -> None:
        # One symbol more than the segments hold: the last one is a target only.
        self.part = (length - 1) // readers
        self.segments = self.part // segment - 1
        if self.segments < 1:
            raise ValueError(
                f"a stream of {length} symbols is too short for {readers} readers of segments of {segment}"
            )
        self.readers, self.segment, self.draw = readers, segment, draw

    def batch(self, step: int) -> Tensor:
        """Give ``[2, readers]`` int64: where every reader's segment begins, and the segment's number in its pass."""
        number, place = divmod(step, self.segments)
        spare = self.part - self.segments * self.segment
        offset = int(torch.randint(spare + 1, (), generator=self.draw(number)))
        begins = torch.arange(self.readers) * self.part + offset + place * self.segment
        return torch.stack([begins, torch.full_like(begins, place)])


# Examples are sorted by length among about so many batches' worth of others, drawn at random.
_BATCHES_A_BUCKET = 50


class TokenBatches:
    r"""The examples of every training batch, so many that the padded batch holds at most ``tokens`` tokens.

    Every pass over the data is a random permutation whose buckets, each many batches large, are sorted by
    length; it is cut as late as :math:`B \max_i l_i \le tokens` allows, and the batches are put in random order. Every
    example is seen once a pass. The last batch cut may be a small one. Passes differ in their number of batches, so the
    first question about a late step counts the batches of all passes before it; nothing else is needed to resume.

    Args:
        lengths: Tokens of every example, ``[N]`` whole numbers, at least 1.
        tokens: Most tokens of a batch, padding included.
        generator_of_pass: Gives the random generator of a pass, 0, 1, 2, …; the same one each time it is asked.

    Raises:
        ValueError: If there are no examples, a length is below 1, or one example alone is beyond the budget; the
            message has its number and length.
    """

    def __init__(self, lengths: np.ndarray, tokens: int, generator_of_pass: Callable[[int], torch.Generator]) -> None:
        self.lengths = np.asarray(lengths)
        if self.lengths.ndim != 1 or not len(self.lengths) or self.lengths.dtype.kind not in "iu":
            raise ValueError(
                f"expected whole lengths [N], at least one, got {list(self.lengths.shape)} {self.lengths.dtype}"
            )
        self.lengths = self.lengths.astype(np.int64)
        shortest, longest = int(self.lengths.argmin()), int(self.lengths.argmax())
        if self.lengths[shortest] < 1:
            raise ValueError(f"lengths must be 1 or more, example {shortest} has {self.lengths[shortest]}")
        if self.lengths[longest] > tokens:
            raise ValueError(
                f"example {longest} has {self.lengths[longest]} tokens, more than the {tokens} that a batch may have"
            )
        self.tokens = tokens
        self.generator_of_pass = generator_of_pass
        # The batches up to the end of every pass that was looked at.
        self._ends: list[int] = []
        self._held: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, step: int) -> Tensor:
        """Give the examples of batch ``step``, ``[B]`` int64.

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        while not self._ends or self._ends[-1] <= step:
            self.count(len(self._ends))
        number = bisect_right(self._ends, step)
        return torch.from_numpy(self._batches(number)[step - self._start(number)])

    def count(self, number: int) -> int:
        """Give the number of batches of a pass."""
        for each in range(len(self._ends), number + 1):
            self._ends.append(self._start(each) + len(self._batches(each)))
        return self._ends[number] - self._start(number)

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _batches(self, number: int) -> list[np.ndarray]:
        """Give the batches of a pass; the last pass asked for is held."""
        if self._held[0] != number:
            generator = self.generator_of_pass(number)
            examples = self._sorted(torch.randperm(len(self.lengths), generator=generator).numpy())
            batches = np.split(examples, _cuts(self.lengths[examples], self.tokens))
            order = torch.randperm(len(batches), generator=generator)
            self._held = (number, [batches[place] for place in order.tolist()])
        return self._held[1]

    def _sorted(self, examples: np.ndarray) -> np.ndarray:
        """Sort by length inside buckets, up in one and down in the next, so that a batch may lie in two of them."""
        bucket = max(1, round(_BATCHES_A_BUCKET * self.tokens / self.lengths.mean()))
        numbers = np.arange(len(examples)) // bucket
        lengths = self.lengths[examples]
        return examples[np.lexsort((np.where(numbers % 2, -lengths, lengths), numbers))]


def _cuts(lengths: np.ndarray, tokens: int) -> list[int]:
    """Say where to cut so that every part, as long as can be, has at most ``tokens`` tokens when padded."""
    cuts, start = [], 0
    while True:
        window = lengths[start : start + tokens // int(lengths[start])]
        padded = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        start += int(np.searchsorted(padded, tokens, side="right"))
        if start == len(lengths):
            return cuts
        cuts.append(start)
