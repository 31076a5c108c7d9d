"""What the readers of labelled sentences return: text and labels in three parts, and the hashes of their files."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """Labelled sentences, as the files hold them: nothing is lower-cased or shuffled."""

    sentences: tuple[str, ...]
    """Tokens with one space between them."""
    labels: np.ndarray
    """``[N]`` int64, classes from 0."""

    def __len__(self) -> int:
        """Give the number of sentences."""
        return len(self.sentences)


@dataclass(frozen=True, kw_only=True)
class LabelledTextSplits:
    """The three parts of a data set."""

    train: LabelledText
    valid: LabelledText
    test: LabelledText
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""
