"""Dependency parsing: greedy arc-standard transitions chosen by a perceptron (Chen & Manning 2014, Xu et al. 2019)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import ParsedSentence, Treebank
from normscope.models import FeatureMLP
from normscope.tasks.arc_standard import parse
from normscope.tasks.attachment import attachment, metric_name
from normscope.tasks.order import BatchOrder, Draw
from normscope.tasks.parser_features import encode, examples, extract
from normscope.tasks.parser_state import State
from normscope.tasks.parser_vocabulary import Vocabulary, vocabulary
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published

TUNING_EVERY = 10
"""Every tenth training sentence is held out where learning rates are chosen."""


@dataclass(frozen=True, kw_only=True)
class ParserSize:
    """How large the perceptron is. The paper prints "3 layers"; the rest is our choice."""

    width: int
    hidden: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class ParserSplits:
    """Oracle transitions to learn from, and sentences to parse."""

    features: Tensor
    """``[M, 48]`` int16 or int32."""
    targets: Tensor
    """``[M]`` int64."""
    valid: tuple[ParsedSentence, ...]
    test: tuple[ParsedSentence, ...]
    known: Vocabulary
    left_out: Mapping[str, int]
    """Training sentences that the oracle cannot build, by reason; nothing is left out of the other parts."""
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Training sentences that the oracle cannot build."""
        return {f"sentences left out: {reason}": count for reason, count in self.left_out.items()}

    @property
    def train_examples(self) -> int:
        """Transitions in the training part."""
        return len(self.targets)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Say which transitions make which batch."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Give features ``[B, 48]`` and transitions ``[B]``."""
        indices = indices.to(self.targets.device)
        return self.features[indices], self.targets[indices]


@dataclass(frozen=True, kw_only=True)
class Parsing:
    """Choose the oracle's transition by cross entropy; the metric is the unlabelled attachment score, in per cent.

    Tags are the gold ones. Every token counts, punctuation too. Sentences whose trees cross arcs cannot be built by
    the oracle: they are left out of training, counted, and kept in the validation and test parts.
    """

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    datasets: tuple[str, ...]
    """Keys of the data sets it reads."""
    read: Callable[[], Treebank]
    """Reads the original files."""
    sizes: Mapping[str, ParserSize]
    """Of the network, by preset."""
    presets: Mapping[str, Recipe]
    """How it is trained."""
    margin: float
    """Smallest difference worth having, in points of per cent."""
    regime: str
    """What claims are limited to."""
    labelled: bool = False
    """Whether the relation must be right, too: LAS instead of UAS."""
    column: str = "xpos"
    """Where tags are read."""
    published: tuple[Published, ...] = ()
    """What others printed for it."""
    revision: int = 1
    """Raised whenever numbers change."""

    @property
    def placements(self) -> tuple[str, ...]:
        """There is no residual branch."""
        return ("preactivation",)

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        name = metric_name(labelled=self.labelled)
        return Metric(name=f"test {name}", unit="%", higher_is_better=True, aggregate="percentage")

    @property
    def valid_metric(self) -> Metric:
        """The same on the validation sentences."""
        return self.metric

    @property
    def batch_unit(self) -> str:
        """Batches are of so many transitions."""
        return "transitions"

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> FeatureMLP:
        """Build the network of a preset with any weights."""
        size, known = self.sizes[preset], _known(self.read, self.column)
        words, tags, labels = known.sizes
        return FeatureMLP(
            words=words,
            tags=tags,
            labels=labels,
            transitions=len(known.transitions),
            width=size.width,
            hidden=size.hidden,
            norm=norm,
            dropout=size.dropout,
        )

    def load(self, device: torch.device, split: str, preset: str) -> ParserSplits:
        """Read the treebank onto a device.

        Args:
            device: Where the tensors go.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every tenth sentence
                held out. The vocabulary is that of the whole training part in both.
            preset: The data are the same in every preset.

        Raises:
            ValueError: If ``split`` is neither.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
        return _load(self.read, self.column, device, split)

    def loss(self, model: FeatureMLP, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch of transitions in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def evaluate(self, model: FeatureMLP, data: ParserSplits, part: str) -> tuple[float, np.ndarray]:
        """Parse a part; give its loss, and right heads and words of every sentence, ``[S, 2]`` float32.

        The loss is the share of words that hang wrong: a greedy parser goes its own way, and no oracle says there what
        would have been right. It is not a number if a score was none.
        """
        sentences = {"valid": data.valid, "test": data.test}[part]
        encoded = encode(sentences, data.known)
        finite = True

        def score(state: State) -> np.ndarray:
            nonlocal finite
            x = torch.from_numpy(extract(state, encoded)).to(data.targets.device)
            scores = model(x).float()
            finite = finite and bool(scores.isfinite().all())
            return scores.cpu().numpy()

        trees = parse(data.known.transitions, encoded.lengths, score)
        found = attachment(sentences, trees, data.known)
        counts = found.labelled if self.labelled else found.unlabelled
        right, words = counts.sum(axis=0)
        return float(1 - right / words) if finite else float("nan"), counts.astype(np.float32)


@cache
def _read(read: Callable[[], Treebank]) -> Treebank:
    """Read once a process: a worker computes many runs."""
    return read()


@cache
def _known(read: Callable[[], Treebank], column: str) -> Vocabulary:
    return vocabulary(_read(read).train, column=column)


@cache
def _load(read: Callable[[], Treebank], column: str, device: torch.device, split: str) -> ParserSplits:
    bank, known = _read(read), _known(read, column)
    train, valid, test = bank.train, bank.valid, bank.test
    if split == "tune":
        valid, test = train[TUNING_EVERY - 1 :: TUNING_EVERY], ()
        train = tuple(one for number, one in enumerate(train) if number % TUNING_EVERY != TUNING_EVERY - 1)
    made = examples(train, known)
    return ParserSplits(
        features=torch.from_numpy(made.features).to(device),
        targets=torch.from_numpy(made.targets.astype(np.int64)).to(device),
        valid=valid,
        test=test,
        known=known,
        left_out=made.left_out,
        hashes=bank.hashes,
    )
