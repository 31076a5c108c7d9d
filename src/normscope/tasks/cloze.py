"""Cloze questions answered by an attentive reader: novels cut by the recipe of the Children's Book Test, and CNN."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.data.readers.cloze import (
    FIRST_IDENTIFIER,
    ClozeQuestions,
    ClozeSplits,
    Size,
    load_novels_cloze,
)
from normscope.data.readers.cnn import load_cnn
from normscope.models.attentive_reader import AttentiveReader, ReaderStart
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import (
    DATA_SETS_KEPT,
    BaseTask,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Published,
    Split,
    check_split,
)

EVALUATION_BATCH = 250
"""Questions per forward pass in evaluation; affects results only by rounding."""

VALID_QUESTIONS = 1000
"""Number of validation questions of an evaluation, evenly spaced, enough for a standard error of 1.6 points."""

STARTS: Mapping[str, ReaderStart] = {
    "init_0.05": ReaderStart(scale=0.05),
    "init_0.3": ReaderStart(scale=0.3),
    "init_1": ReaderStart(scale=1.0),
    "reader_init": ReaderStart(scale=0.05, equal_gates=True),
}
"""Ways to draw the parameters, by variant."""

VARIANTS: Mapping[str, str] = {
    "kiros": "the bias added twice, before and after the norms, as in ryankiros/layer-norm",
    "everywhere": "norms behind the linear maps of attention and output, too: BN-everywhere of Cooijmans et al.",
    "clip_100": "gradients clipped from a length of 100 on: the published clip compares the length with a square",
    "reader_init": "init_0.05 with all gates equal, as in the published code, which seeds every draw alike",
    "init_0.05": "square matrices 0.05 x orthogonal, embeddings within 0.0095, forget bias 0: the published scale",
    "init_0.3": "the same with square matrices 0.3 x orthogonal, and embeddings within 0.057",
    "init_1": "the same with orthogonal square matrices, and embeddings within 0.19",
}


PUBLISHED_CLIP: Mapping[str, Any] = {"clip": 10.0, "clip_rule": "reader2016"}
PUBLISHED: Mapping[str, Any] = {"schedule": "constant", **PUBLISHED_CLIP}
"""Settings of a recipe in the published code."""


@dataclass(frozen=True, kw_only=True)
class ReaderSize:
    """Sizes of a reader and of its data."""

    questions: Size
    width: int
    units: int
    joint: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions on a device, or the tensors of a batch."""

    passages: Tensor
    """``[N, T]`` int64."""
    queries: Tensor
    """``[N, L]`` int64."""
    candidates: Tensor | None
    """``[N, K]`` int64; None if the answer is any symbol."""
    targets: Tensor
    """``[N]`` int64: the answer's place among the candidates, or its symbol."""


class RenamingOrder(BatchOrder):
    """The order of :class:`BatchOrder` with a permutation of identifiers for every batch.

    Args:
        examples: Number of training questions.
        batch_size: Questions per batch.
        identifiers: Number of identifiers.
        draw: Returns the random generator of an epoch; that of the permutation of batch n is ``draw(-1 - n)``.

    Raises:
        ValueError: If the batch is larger than the set.
    """

    def __init__(self, examples: int, batch_size: int, identifiers: int, draw: Draw) -> None:
        super().__init__(examples, batch_size, draw)
        self.identifiers = identifiers

    def batch(self, step: int) -> Tensor:
        """Return the questions of batch ``step`` and behind them the permutation, ``[batch_size + identifiers]``."""
        names = torch.randperm(self.identifiers, generator=self.draw(-1 - step))
        return torch.cat([super().batch(step), names])


@dataclass(frozen=True, kw_only=True)
class ClozeData:
    """Questions on a device in three parts; ``test`` is empty in the split ``"tune"``."""

    train: Questions
    valid: Questions
    test: Questions
    identifiers: int
    symbols: int
    hashes: Mapping[str, str]
    counts: Mapping[str, int]

    @property
    def train_examples(self) -> int:
        """Number of training questions."""
        return len(self.train.targets)

    def order(self, batch_size: int, draw: Draw) -> RenamingOrder:
        """Return the assignment of questions to batches, with the new names of identifiers."""
        return RenamingOrder(self.train_examples, batch_size, self.identifiers, draw)

    def batch(self, indices: Tensor) -> Questions:
        """Return training questions with their identifiers renamed.

        Args:
            indices: Questions and a permutation of the identifiers, ``[B + identifiers]``, from :meth:`order`.
        """
        indices, names = indices.to(self.train.targets.device).tensor_split([len(indices) - self.identifiers])
        renamed = torch.arange(self.symbols, device=names.device)
        renamed[FIRST_IDENTIFIER : FIRST_IDENTIFIER + self.identifiers] = FIRST_IDENTIFIER + names
        candidates, targets = self.train.candidates, self.train.targets[indices]
        return Questions(
            passages=renamed[self.train.passages[indices]],
            queries=renamed[self.train.queries[indices]],
            candidates=None if candidates is None else renamed[candidates[indices]],
            targets=renamed[targets] if candidates is None else targets,
        )


@dataclass(frozen=True, kw_only=True)
class Cloze(BaseTask):
    """A missing word, by an attentive reader with cross entropy; the metric is the accuracy."""

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[[Size], ClozeSplits]
    """Reads the questions, cut to a size."""
    sizes: Mapping[str, ReaderSize]
    """Sizes by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    variant: str = ""
    """Key of :data:`VARIANTS`; empty for the task as it is."""

    placements = ("preactivation",)

    @property
    def variants(self) -> Mapping[str, str]:
        """Oddities of the published code, norms everywhere, and initial scales."""
        return VARIANTS

    def varied(self, variant: str) -> Self:
        """Return the task with one of the variants."""
        recipes = {name: dataclasses.replace(one, **PUBLISHED_CLIP) for name, one in self.presets.items()}
        return dataclasses.replace(self, variant=variant, presets=recipes if variant == "clip_100" else self.presets)

    @property
    def metric(self) -> Metric:
        """Metric of the test questions."""
        return Metric(name="test accuracy", unit="%", higher_is_better=True)

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation questions."""
        return Metric(name="accuracy", unit="%", higher_is_better=True)

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the reader of a preset with arbitrary weights.

        Raises:
            ValueError: If the norm is neither one of rows nor batch norm.
        """
        size = self.sizes[preset]
        splits = _read(self.read, size.questions)
        return AttentiveReader(
            vocabulary=len(splits.vocabulary),
            width=size.width,
            units=size.units,
            joint=size.joint,
            norm=norm,
            steps=(size.questions.passage, 2 * size.questions.around + 1),
            places="kiros" if self.variant == "kiros" else "paper",
            everywhere=self.variant == "everywhere",
            dropout=size.dropout,
            start=STARTS.get(self.variant),
            vectors=None if splits.vectors is None else torch.from_numpy(splits.vectors),
        )

    def load(self, device: torch.device, split: Split, preset: str) -> ClozeData:
        """Read the questions onto a device.

        Args:
            device: Device of the tensors.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, its last questions held
                out for validation.
            preset: Determines the length of passages and queries.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        splits = _read(self.read, self.sizes[preset].questions)
        train, valid, test = splits.train, splits.valid, splits.test
        if split == "tune":
            cut = len(train) - splits.held_for_tuning
            train, valid, test = _some(train, slice(cut)), _some(train, slice(cut, None)), _some(test, slice(0))
        spread = np.arange(min(VALID_QUESTIONS, len(valid))) * len(valid) // min(VALID_QUESTIONS, len(valid))
        return ClozeData(
            train=_on(train, device),
            valid=_on(_some(valid, spread), device),
            test=_on(test, device),
            identifiers=splits.identifiers,
            symbols=len(splits.vocabulary),
            hashes=splits.hashes,
            counts=splits.counts,
        )

    def loss(self, model: Any, batch: Questions) -> Tensor:
        """Compute the mean cross entropy of a batch in nats, a scalar."""
        logits = model(batch.passages, batch.queries, batch.candidates)
        return F.cross_entropy(logits.float(), batch.targets)

    def terms(self, batch: Questions) -> int:
        """Return the number of questions of a batch, of which the loss is the mean."""
        return len(batch.targets)

    def evaluate(self, model: Any, data: ClozeData, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean cross entropy in nats, and 100 or 0 per question, ``[N]`` float32."""
        questions = {"valid": data.valid, "test": data.test}[part]
        losses, right = [], []
        for begin in range(0, len(questions.targets), EVALUATION_BATCH):
            some = slice(begin, begin + EVALUATION_BATCH)
            candidates = None if questions.candidates is None else questions.candidates[some]
            logits = model(questions.passages[some], questions.queries[some], candidates).float()
            losses.append(F.cross_entropy(logits, questions.targets[some], reduction="none"))
            right.append(logits.argmax(-1) == questions.targets[some])
        scores = 100.0 * torch.cat(right).float()
        return torch.cat(losses).double().mean().item(), scores.cpu().numpy()


def _some(questions: ClozeQuestions, chosen: Any) -> ClozeQuestions:
    fields = dataclasses.fields(questions)
    return ClozeQuestions(**{field.name: getattr(questions, field.name)[chosen] for field in fields})


def _on(questions: ClozeQuestions, device: torch.device) -> Questions:
    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    choices = questions.candidates
    places = (choices == questions.answers[:, None]).argmax(1) if choices.shape[1] else questions.answers
    return Questions(
        passages=tensor(questions.passages),
        queries=tensor(questions.queries),
        candidates=tensor(choices) if choices.shape[1] else None,
        targets=tensor(places),
    )


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[[Size], ClozeSplits], size: Size) -> ClozeSplits:
    """Read the data; cached, since a worker process computes many runs."""
    return read(size)


COOIJMANS = "Cooijmans et al. (2016), Recurrent batch normalization, arXiv:1603.09025, CNN, four sentences"

NOVELS_CLOZE = Cloze(
    name="novels_cloze",
    description="a missing noun or name of a novel among ten, from twenty sentences before: a stand-in for cnn_cloze; "
    "attentive reader",
    datasets=("gutenberg-novels",),
    read=load_novels_cloze,
    sizes={
        "small": ReaderSize(
            questions=Size(near=2, passage=64, around=3, words=8000, vectors=64),
            width=64,
            units=64,
            joint=64,
            dropout=0.3,
        ),
        "full": ReaderSize(
            questions=Size(passage=700, around=40, words=30_000), width=240, units=240, joint=600, dropout=0.5
        ),
    },
    presets={
        "small": Recipe(steps=1600, batch_size=64, learning_rate=4e-3, clip=5.0, evaluations=20),
        "full": Recipe(steps=60_000, batch_size=64, learning_rate=8e-5, evaluations=60, **PUBLISHED),
    },
    margin=1.0,
    regime="an attentive reader with LSTMs of 64 units (240 in full) on cloze questions from eight novels, Adam with "
    "linear decay (a constant rate in full)",
)

CNN_CLOZE = Cloze(
    name="cnn_cloze",
    description="a missing entity of a summary, from four sentences of the article; attentive reader (Ba et al., 6.2)",
    datasets=("cnn-questions",),
    read=load_cnn,
    sizes={
        "small": ReaderSize(
            questions=Size(passage=160, around=20, sentences=4, words=20_000),
            width=64,
            units=64,
            joint=64,
            dropout=0.2,
        ),
        "full": ReaderSize(
            questions=Size(passage=300, around=40, sentences=4, words=65_829),
            width=240,
            units=240,
            joint=600,
            dropout=0.5,
        ),
    },
    presets={
        "small": Recipe(steps=6000, batch_size=64, learning_rate=2e-3, clip=5.0, evaluations=20),
        "full": Recipe(steps=800_000, batch_size=64, learning_rate=8e-5, evaluations=800, **PUBLISHED),
    },
    margin=0.5,
    regime="an attentive reader with LSTMs of 64 units (240 in full) on CNN questions cut to four sentences, Adam with "
    "linear decay (a constant rate in full)",
    published=(
        Published(
            source=COOIJMANS,
            rows={"none": 49.7, "batch_norm": 50.5},
            note="best validation accuracy, 100 minus the error; norms everywhere 50.0; ours is of test questions, and "
            "which four sentences were kept is not published; Ba et al. (2016) print a curve only",
        ),
    ),
)
