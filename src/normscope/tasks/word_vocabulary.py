"""Word vocabularies, learned on the training side only."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PAD, UNKNOWN = 0, 1
"""What fills a row up, and every word that the vocabulary lacks."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Numbers of words; lower case, split at single spaces as the data sets are tokenized."""

    numbers: Mapping[str, int]
    """From a word to its number, from 2 up."""

    @property
    def size(self) -> int:
        """Numbers in use, the pad and the unknown word included."""
        return len(self.numbers) + 2

    def encode(self, sentence: str, *, at_most: int) -> list[int]:
        """Give the numbers of a sentence's first ``at_most`` words; of the unknown word where it has none."""
        words = sentence.lower().split(" ")[:at_most]
        return [self.numbers.get(word, UNKNOWN) for word in words] or [UNKNOWN]


def learn_words(sentences: Iterable[str], *, at_least: int) -> Words:
    """Number the words that occur ``at_least`` times, the commonest first, words of equal count by their letters.

    Raises:
        ValueError: If no word does.
    """
    counts = Counter(word for sentence in sentences for word in sentence.lower().split(" "))
    kept = sorted((word for word, count in counts.items() if count >= at_least), key=lambda word: (-counts[word], word))
    if not kept:
        raise ValueError(f"no word occurs {at_least} times or more in {counts.total()} words")
    return Words(numbers={word: number for number, word in enumerate(kept, start=2)})
