"""What skip-thoughts are trained and tested on, as numbers: triples of books, and the sets of classes and pairs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from normscope.data import BookSplits, LabelledTextSplits, load_cr, load_mpqa, load_rt, load_sick, load_subj, load_trec
from normscope.tasks.batching import Draw
from normscope.tasks.skip_thoughts.corpus import (
    BookWords,
    LengthBatches,
    Ragged,
    Triples,
    encode_texts,
    learn_vocabulary,
)
from normscope.tasks.task import DATA_SETS_KEPT

TEST_SETS: Mapping[str, Callable[..., LabelledTextSplits]] = {
    "MR": load_rt,
    "CR": load_cr,
    "SUBJ": load_subj,
    "MPQA": load_mpqa,
    "TREC": load_trec,
}
"""Readers of the sets of classes on which vectors are tested."""

Labelled = tuple[Ragged, np.ndarray]
"""Sentences and their labels ``[N]`` int64."""


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """A set of classes, in its three parts."""

    name: str
    train: Labelled
    valid: Labelled
    test: Labelled

    __test__ = False


@dataclass(frozen=True, kw_only=True)
class SkipThoughtsData:
    """Triples to train and to validate, and the sets that test vectors: none in the splits for tuning."""

    train: Triples
    valid: Triples
    sets: tuple[TestSet, ...]
    pairs: tuple[tuple[Ragged, Ragged, np.ndarray], ...]
    """First and second sentences of SICK and their relatedness ``[N]``, to train, to validate and to test."""
    order_seed: int | None
    """Seed of the order of examples in cross-validation."""
    test: Literal["split", "folds"]
    hashes: Mapping[str, str]
    device: torch.device

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of training sentences that no triple has in its middle."""
        return {"not in the middle of a triple": len(self.train.sentences.lengths) - len(self.train.middles)}

    @property
    def train_examples(self) -> int:
        """Number of training triples."""
        return len(self.train.middles)

    def order(self, batch_size: int, draw: Draw) -> LengthBatches:
        """Return the order of batches: sentences of one length in the middle."""
        return LengthBatches(self.train.sentences.lengths[self.train.middles], batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return the sentences in the middle, before and after, each padded ``[B, T]`` with its lengths ``[B]``."""
        return self.train.batch(indices.numpy(), self.device)


@dataclass(frozen=True, kw_only=True)
class EncodedBooks:
    """Triples to train and to validate."""

    train: Triples
    valid: Triples
    hashes: Mapping[str, str]


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[[], BookSplits]) -> BookSplits:
    """Read the books; cached, since a worker process computes many runs."""
    return read()


@lru_cache(maxsize=DATA_SETS_KEPT)
def vocabulary_of(read: Callable[[], BookSplits], size: int) -> BookWords:
    """Return the vocabulary of all training books; cached, like the others, since a process computes many runs."""
    books = _read(read)
    return learn_vocabulary(chain(books.train(), books.tune_valid()), size)


@lru_cache(maxsize=DATA_SETS_KEPT)
def books_of(read: Callable[[], BookSplits], size: int, tune: bool) -> EncodedBooks:
    """Return the books, of all or, to choose a learning rate, of the training books alone."""
    books, vocabulary = _read(read), vocabulary_of(read, size)
    train = books.train() if tune else chain(books.train(), [""], books.tune_valid())
    return EncodedBooks(
        train=Triples.of(train, vocabulary),
        valid=Triples.of((books.tune_valid if tune else books.valid)(), vocabulary),
        hashes=books.hashes,
    )


@lru_cache(maxsize=DATA_SETS_KEPT)
def test_sets_of(
    read: Callable[[], BookSplits], size: int, seed: int | None
) -> tuple[tuple[TestSet, ...], Mapping[str, str]]:
    """Return the sets of classes in the splits of a seed, or the fixed ones, and the hashes of all tests."""
    vocabulary = vocabulary_of(read, size)
    sets, hashes = [], pairs_of(read, size)[1]
    for name, load in TEST_SETS.items():
        texts = load(seed=seed)
        parts = {
            part: (encode_texts(getattr(texts, part).sentences, vocabulary), getattr(texts, part).labels)
            for part in ("train", "valid", "test")
        }
        sets.append(TestSet(name=name, **parts))
        hashes = {**hashes, **texts.hashes}
    return tuple(sets), hashes


@lru_cache(maxsize=DATA_SETS_KEPT)
def pairs_of(
    read: Callable[[], BookSplits], size: int
) -> tuple[tuple[tuple[Ragged, Ragged, np.ndarray], ...], Mapping[str, str]]:
    """Return the pairs of SICK to train, to validate and to test, and the hashes of their files."""
    vocabulary, pairs = vocabulary_of(read, size), load_sick()
    parts = (pairs.train, pairs.valid, pairs.test)
    encoded = tuple(
        (encode_texts(part.first, vocabulary), encode_texts(part.second, vocabulary), part.scores) for part in parts
    )
    return encoded, pairs.hashes
