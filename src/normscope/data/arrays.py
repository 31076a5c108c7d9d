"""What every reader returns: arrays in three parts, and the hashes of the files that they came from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Labelled examples, as the files hold them: nothing is scaled, shifted or shuffled."""

    x: np.ndarray
    """``[N, height, width]`` uint8."""
    y: np.ndarray
    """``[N]`` int64, classes from 0."""

    def __len__(self) -> int:
        """Give the number of examples."""
        return len(self.y)


@dataclass(frozen=True, kw_only=True)
class ArraySplits:
    """The three parts of a data set, disjoint and in file order."""

    train: Arrays
    valid: Arrays
    test: Arrays
    held_for_tuning: int
    """How many training examples, the last ones, judge a learning rate while it is chosen on the others."""
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""
