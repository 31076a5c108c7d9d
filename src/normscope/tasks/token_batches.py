"""Batches of so many tokens: random, with little padding, and each of them to be had at any time."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

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
