"""The tasks of skip-thoughts: books of which the sentences beside a sentence are predicted, and sets that test it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from normscope.data import BookSplits, load_book_corpus, load_novel_sentences
from normscope.models import SkipThoughts
from normscope.tasks.recipe import Recipe
from normscope.tasks.skip_thoughts.corpus import Ragged
from normscope.tasks.skip_thoughts.data import SkipThoughtsData, books_of, pairs_of, test_sets_of, vocabulary_of
from normscope.tasks.skip_thoughts.evaluation import (
    correlations,
    folded_scores,
    nested_scores,
    normalized,
    pair_features,
    relatedness,
    shuffled_order,
    split_scores,
)
from normscope.tasks.task import (
    TESTED,
    BaseTask,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Split,
    check_blind,
    check_split,
)

EVALUATION_BATCH = 256
"""Sentences per forward pass in tests, sorted by length."""

VALID_TRIPLES = 480
"""Triples of an evaluation on validation data, evenly spaced over the book."""


@dataclass(frozen=True, kw_only=True)
class SkipThoughtsSize:
    """Sizes of the network, and the form of the test."""

    vocabulary: int
    features: int
    """Width of an embedding."""
    width: int
    test: Literal["split", "folds"]
    """One split into training, validation and test part, or nested ten-fold cross-validation, as published."""


@dataclass(frozen=True, kw_only=True)
class SkipThoughtsTask(BaseTask):
    """Skip-thoughts, validated by nats per word of the decoders, and tested by what its vectors are good for.

    The metric of the test is the accuracy of logistic regression on the vectors of the encoder, which is not trained
    further, over all test sentences of MR, CR, SUBJ, MPQA and TREC: the paper's claims are about such scores.
    """

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[[], BookSplits]
    """Reads the books."""
    sizes: Mapping[str, SkipThoughtsSize]
    """Sizes by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    conditioned: bool = False
    """Whether the decoders read the vector at every step."""
    places: str = "paper"
    """Places of the norms in the GRUs."""

    placements = ("preactivation",)

    @property
    def variants(self) -> Mapping[str, str]:
        """Variants by name, with a description."""
        return {
            "conditioned": "the decoders read the vector of the sentence at every step, as in Kiros et al. (2015)",
            "kiros": "norms as in ryankiros/layer-norm, biases before the norms",
        }

    def varied(self, variant: str) -> Self:
        """Return the task with a setting of :attr:`variants`."""
        return replace(self, conditioned=True) if variant == "conditioned" else replace(self, places=variant)

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return Metric(name="test accuracy", unit="%", higher_is_better=True)

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation data: of the sentences before and after, ends included."""
        return Metric(name="nats per word", unit="nats", higher_is_better=False, aggregate="ratio")

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> SkipThoughts:
        """Build the network of a preset with arbitrary weights.

        Raises:
            ValueError: If the statistics of the norm are not those of a row.
        """
        size = self.sizes[preset]
        model = SkipThoughts(
            vocabulary=vocabulary_of(self.read, size.vocabulary).size,
            features=size.features,
            width=size.width,
            norm=norm,
            places=self.places,
            conditioned=self.conditioned,
        )
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: Split, preset: str) -> SkipThoughtsData:
        """Read the data onto a device.

        Args:
            device: Device of the batches.
            split: ``"study"`` for all training books and the fixed splits of the sets; ``"resampled"`` for the splits
                of the task's seed; ``"tune"`` and ``"resampled_tune"`` for the training books alone, some of them held
                out. The vocabulary is that of all training books.
            preset: Determines the vocabulary and the form of the test.

        Raises:
            ValueError: If ``split`` is not one of these, or a seed is missing or not used.
        """
        check_split(split, self.split_seed)
        size = self.sizes[preset]
        books = books_of(self.read, size.vocabulary, split not in TESTED)
        sets, hashes = test_sets_of(self.read, size.vocabulary, self.split_seed) if split in TESTED else ((), {})
        return SkipThoughtsData(
            train=books.train,
            valid=books.valid,
            sets=sets,
            pairs=pairs_of(self.read, size.vocabulary)[0] if split in TESTED else (),
            order_seed=self.split_seed,
            test=size.test,
            hashes={**books.hashes, **hashes},
            device=device,
        )

    def loss(self, model: SkipThoughts, batch: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
        """Compute the mean negative log-likelihood of a word of the sentences before and after, a scalar."""
        nats = _nats(model, batch)
        return torch.cat([side for side, _ in nats]).mean()

    def terms(self, batch: tuple[tuple[Tensor, Tensor], ...]) -> int:
        """Return the number of predicted words of a batch, of which the loss is the mean."""
        return sum(int(lengths.sum()) for _, lengths in batch[1:])

    def evaluate(self, model: SkipThoughts, data: SkipThoughtsData, part: Part) -> tuple[float, np.ndarray]:
        """Return, to validate, the nats per word, and nats and words per triple, ``[E, 2]`` float32.

        To test, the share of errors, and 100 or 0 per sentence of MR, CR, SUBJ, MPQA and TREC, ``[E]`` float32.
        """
        if part == "test":
            right = np.concatenate(_right(data, lambda texts: encode(model, texts, data.device)))
            return 1 - float(right.mean()), right.astype(np.float32) * 100
        count = min(VALID_TRIPLES, len(data.valid.middles))
        chosen = np.linspace(0, len(data.valid.middles) - 1, count).astype(np.int64)
        scores = np.zeros((count, 2))
        lengths = data.valid.sentences.lengths[data.valid.middles[chosen]]
        for rows in np.array_split(np.argsort(lengths, kind="stable"), -(-count // 64)):
            for nats, numbers in _nats(model, data.valid.batch(chosen[rows], data.device)):
                of = numbers.cpu().numpy()
                scores[rows, 0] += np.bincount(of, nats.cpu().double().numpy(), len(rows))
                scores[rows, 1] += np.bincount(of, minlength=len(rows))
        return float(scores[:, 0].sum() / scores[:, 1].sum()), scores.astype(np.float32)

    def measures(self, model: SkipThoughts, data: SkipThoughtsData, scores: np.ndarray) -> Mapping[str, float]:
        """Return the accuracies of each set, those of the bag of the model's words, and r, rho and MSE on SICK.

        Args:
            model: The tested model.
            data: The data.
            scores: What :meth:`evaluate` returned for the test.
        """
        bag = _right(data, lambda texts: encode(model, texts, data.device, bag=True))
        sizes = np.cumsum([len(each) for each in bag])[:-1]
        found = {one.name: float(part.mean()) for one, part in zip(data.sets, np.split(scores, sizes), strict=True)}
        found |= {f"{one.name}, words": 100 * float(part.mean()) for one, part in zip(data.sets, bag, strict=True)}
        return found | sick(data.pairs, lambda texts: encode(model, texts, data.device, end=True))


def encode(
    model: SkipThoughts, texts: Ragged, device: torch.device, *, end: bool = False, bag: bool = False
) -> np.ndarray:
    """Return the vectors of sentences, ``[N, D]`` float32 of length one.

    Args:
        model: The model.
        texts: The sentences.
        device: Its device.
        end: Whether the encoder reads the end, too; the published code does so on SICK alone.
        bag: Whether to return the means of the embeddings instead.
    """
    by_length = np.argsort(texts.lengths, kind="stable")
    found = []
    for rows in np.split(by_length, range(EVALUATION_BATCH, len(by_length), EVALUATION_BATCH)):
        words, lengths = texts.padded(rows, device, end=end)
        compute = model.word_means if bag else model.encode
        found.append(compute(words, lengths.to(device)).float().cpu().numpy())
    vectors = np.concatenate(found)
    return normalized(vectors[np.argsort(by_length)])


def sick(
    pairs: tuple[tuple[Ragged, Ragged, np.ndarray], ...], vectors: Callable[[Ragged], np.ndarray]
) -> dict[str, float]:
    """Return r, rho and MSE on SICK with the vectors of sentences that a function gives."""
    train, valid, test = ((pair_features(vectors(first), vectors(second)), scores) for first, second, scores in pairs)
    return {f"SICK {name}": value for name, value in correlations(relatedness(train, valid, test[0]), test[1]).items()}


def _nats(model: SkipThoughts, batch: tuple[tuple[Tensor, Tensor], ...]) -> list[tuple[Tensor, Tensor]]:
    (words, lengths), before, after = batch
    vectors = model.encode(words, lengths.to(words.device))
    return [model.nats(vectors, "before", *before), model.nats(vectors, "after", *after)]


def _right(data: SkipThoughtsData, vectors: Callable[[Ragged], np.ndarray]) -> list[np.ndarray]:
    """Return whether each test sentence of each set is classified right."""
    found = []
    for one in data.sets:
        train, valid, test = ((vectors(texts), labels) for texts, labels in (one.train, one.valid, one.test))
        if data.test == "split":
            found.append(split_scores(train, valid, test))
            continue
        x, y = (np.concatenate(side) for side in zip(train, valid, strict=True))
        if one.name != "TREC":
            x, y = np.concatenate([x, test[0]]), np.concatenate([y, test[1]])
        order = shuffled_order(len(y), data.order_seed)
        x, y = x[order], y[order]
        found.append(folded_scores((x, y), test) if one.name == "TREC" else nested_scores(x, y))
    return found


SIZES = {
    "small": SkipThoughtsSize(vocabulary=2000, features=64, width=256, test="split"),
    # The published code.
    "full": SkipThoughtsSize(vocabulary=20_000, features=620, width=2400, test="folds"),
}

PRESETS = {
    "small": Recipe(steps=600, batch_size=32, learning_rate=6e-3, clip=1.0, evaluations=20),
    # The published code clips the gradient of the sum over the words of a batch at 5, so always; this is its mean.
    "full": Recipe(steps=1_000_000, batch_size=64, learning_rate=2e-4, clip=0.003, evaluations=20, schedule="constant"),
}

TESTS = ("rt-polarity", "custrev", "subj", "mpqa", "trec", "sick2014")

NOVELS_SKIP_THOUGHTS = SkipThoughtsTask(
    name="novels_skip_thoughts",
    description="skip-thoughts (GRUs) of eleven novels, a stand-in for BookCorpus; tested on MR, CR, SUBJ, MPQA, TREC",
    datasets=("gutenberg-novels", *TESTS),
    read=load_novel_sentences,
    sizes=SIZES,
    presets=PRESETS,
    margin=0.5,
    regime="a GRU encoder of 256 units (small) or 2,400, trained on triples of sentences of ten novels, and logistic "
    "regression on its vectors",
    splits={
        "resampled": "over seeds, and over splits of these sentences of MR, CR, SUBJ and MPQA",
        "published": "over seeds, and over test sentences",
    },
)

BOOK_CORPUS_SKIP_THOUGHTS = replace(
    NOVELS_SKIP_THOUGHTS,
    name="book_corpus_skip_thoughts",
    description="skip-thoughts (GRUs) of BookCorpus, 74 million sentences; tested on MR, CR, SUBJ, MPQA, TREC",
    datasets=("book-corpus", *TESTS),
    read=load_book_corpus,
    regime="a GRU encoder of 256 units (small) or 2,400, trained on triples of sentences of BookCorpus, and logistic "
    "regression on its vectors",
)
