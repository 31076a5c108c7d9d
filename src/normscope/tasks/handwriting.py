"""Handwriting: the next point of a drawing from those before it, and from a text where there is one."""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

from normscope.data import Drawings, DrawingSplits, load_iam_ondb, load_strokes
from normscope.models import HandwritingNetwork, PenMixture
from normscope.models.handwriting import clip_gradient
from normscope.results.pictures import Picture
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.recurrent import VARIANTS
from normscope.tasks.task import (
    DATA_SETS_KEPT,
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

EVALUATION_BATCH = 250
"""Drawings per forward pass in evaluation; affects scores only by rounding."""

CHARACTERS = string.ascii_letters + " .,'"
"""Characters of a text; all others are one further kind, so there are 57, the number that Graves and Ba et al. have."""

NOISE_SEED = 1308_0850
"""Seed of the noise that spreads whole-numbered offsets, the same in all runs."""

SHOWN = 12
"""Number of drawings in a picture."""


@dataclass(frozen=True, kw_only=True)
class PenSize:
    """Sizes of a network and of its training sequences."""

    width: int
    """Units of each of the three layers."""
    longest: int
    """Number of points after which a training sequence is cut; validation and test drawings are whole."""
    layers: int = 3
    mixtures: int = 20
    windows: int = 10


class PenBatch(NamedTuple):
    """Drawings as a network reads them."""

    points: PackedSequence
    """``[N, 3]``: of each drawing a point of zeros, and all points but the last."""
    targets: Tensor
    """``[N, 3]``: all points, in the same order."""
    text: Tensor | None
    """Characters, one-hot, ``[B, U + 1, 57]``, U those of the longest text; zeros behind each text."""


@dataclass(frozen=True, kw_only=True)
class PenPart:
    """Drawings on a device."""

    points: Tensor
    """``[N, 3]`` float32, offsets normalized."""
    ends: np.ndarray
    """``[D + 1]`` int64: where drawing i begins, and where drawing i - 1 ends."""
    texts: tuple[Tensor, ...]
    """Kinds of characters of each drawing, ``[U]`` int64; empty without texts."""

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.ends) - 1

    def lengths(self, indices: Sequence[int]) -> np.ndarray:
        """Return the numbers of points of drawings."""
        return self.ends[np.array(indices) + 1] - self.ends[np.array(indices)]

    def batch(self, indices: Sequence[int], longest: int | None = None) -> PenBatch:
        """Return drawings by their numbers, cut after ``longest`` points."""
        drawings = [self.points[self.ends[i] : self.ends[i + 1]][:longest] for i in indices]
        start = self.points.new_zeros(1, 3)
        points = pack_sequence([torch.cat([start, one[:-1]]) for one in drawings], enforce_sorted=False)
        targets = pack_sequence(drawings, enforce_sorted=False)
        return PenBatch(points, targets.data, self.text(indices) if self.texts else None)

    def text(self, indices: Sequence[int]) -> Tensor:
        """Return the texts of drawings, one-hot."""
        chosen = [self.texts[i] for i in indices]
        kinds = len(CHARACTERS) + 1
        text = self.points.new_zeros(len(chosen), 1 + max(map(len, chosen)), kinds)
        for row, one in zip(text, chosen, strict=True):
            row[torch.arange(len(one)), one] = 1.0
        return text


@dataclass(frozen=True, kw_only=True)
class PenData:
    """Training, validation and test drawings; ``test`` is empty in the split ``"tune"``."""

    train: PenPart
    valid: PenPart
    test: PenPart
    mean: np.ndarray
    """``[2]``: mean of the training offsets, in the units of the files."""
    deviation: np.ndarray
    """``[2]``: their standard deviation."""
    longest: int
    hashes: Mapping[str, str]
    counts: Mapping[str, int]

    @property
    def train_examples(self) -> int:
        """Number of training drawings."""
        return len(self.train)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Return the assignment of drawings to batches."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> PenBatch:
        """Return training drawings."""
        return self.train.batch(indices.tolist(), self.longest)


@dataclass(frozen=True, kw_only=True)
class HandwritingTask(BaseTask):
    r"""Prediction of pen points; the metric is the negative log-likelihood per point in nats, lower is better.

    Each axis of the offsets is normalized to mean 0 and standard deviation 1 over the training points, and the density
    is that of normalized offsets: in the units of the files it is larger by the logarithms of both standard deviations.
    The figure is the sum over all points of all drawings divided by their number, and can be negative.

    References:
        Graves (2013). arXiv:1308.0850, sections 4 and 5. Ba et al. (2016). arXiv:1607.06450, section 6.5.
        Departs from them in: the derivatives inside the LSTM layers, which Graves clips at 10 and the kernels here do
        not show; the recipe clips the norm of the whole gradient instead. IAM-OnDB as it is: Graves fills gaps and
        removes long steps, by thresholds that he does not print.
    """

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[[], DrawingSplits]
    """Reads the original files."""
    sizes: Mapping[str, PenSize]
    """Sizes by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    spread: bool
    """Whether uniform noise of one unit of the files is added to whole-numbered offsets, once: without it, narrow
    Gaussians on frequent numbers make the likelihood as large as one likes (Theis et al. 2016, section 3.1)."""
    conditioned: bool = False
    """Whether the network reads the text."""
    output_clip: float = 100.0
    """Bound of the derivatives of a point's loss with respect to the outputs (Graves, section 4.2)."""
    places: str = "paper"
    """Places of the norms in :class:`normscope.LSTM`."""

    batch_unit = "drawings"
    placements = ("preactivation",)

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return Metric(name="test negative log-likelihood", unit="nats/point", higher_is_better=False, aggregate="ratio")

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation data: the same."""
        return dataclasses.replace(self.metric, name="negative log-likelihood")

    @property
    def variants(self) -> Mapping[str, str]:
        """Places of the norms other than the paper's."""
        return VARIANTS["LSTM"]

    def varied(self, variant: str) -> Self:
        """Return the task with the norms at other places."""
        return dataclasses.replace(self, places=variant.replace("_", " "))

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network of a preset with arbitrary weights.

        Raises:
            ValueError: If the norm mixes positions, see :func:`normscope.tasks.task.check_blind`, or its statistics are
                not those of a row.
        """
        size = self.sizes[preset]
        model = HandwritingNetwork(
            width=size.width,
            layers=size.layers,
            mixtures=size.mixtures,
            norm=norm,
            places=self.places,
            characters=len(CHARACTERS) + 1 if self.conditioned else 0,
            windows=size.windows,
        )
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: Split, preset: str) -> PenData:
        """Read the data onto a device.

        Args:
            device: Device of the points.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, its last tenth held
                out.
            preset: Determines the length of training sequences.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        splits = _read(self.read)
        train, valid, test = splits.train, splits.valid, splits.test
        if split == "tune":
            train, valid = _cut(train, len(train) * 9 // 10)
        if split not in TESTED:
            test = _cut(test, 0)[0]
        noise = np.random.default_rng(NOISE_SEED)

        def offsets(part: Drawings) -> np.ndarray:
            spread = noise.uniform(-0.5, 0.5, (len(part.points), 2)) if self.spread else 0.0
            return part.points[:, :2] + spread

        moved = {"test": offsets(test), "valid": offsets(valid), "train": offsets(train)}
        mean, deviation = moved["train"].mean(0), moved["train"].std(0)

        def part(name: str, drawings: Drawings) -> PenPart:
            points = np.concatenate([(moved[name] - mean) / deviation, drawings.points[:, 2:]], axis=1)
            return PenPart(
                points=torch.from_numpy(points.astype(np.float32)).to(device),
                ends=np.concatenate([[0], np.cumsum(drawings.lengths)]),
                texts=tuple(map(encode, drawings.texts)) if self.conditioned else (),
            )

        return PenData(
            train=part("train", train),
            valid=part("valid", valid),
            test=part("test", test),
            mean=mean,
            deviation=deviation,
            longest=self.sizes[preset].longest,
            hashes=splits.hashes,
            counts=splits.left_out,
        )

    undivided = "its batches are packed sequences, and the bound of its gradients depends on their number of points"

    def loss(self, model: Any, batch: PenBatch) -> Tensor:
        """Compute the mean negative log-likelihood of the points of a batch in nats, a scalar."""
        outputs, _ = model(batch.points, batch.text)
        outputs = clip_gradient(outputs, self.output_clip / len(outputs))
        return -PenMixture.read(outputs).log_density(batch.targets).mean()

    def evaluate(self, model: Any, data: PenData, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean loss per point, and nats and points per drawing, ``[D, 2]`` float32."""
        drawings = {"valid": data.valid, "test": data.test}[part]
        scores = []
        for begin in range(0, len(drawings), EVALUATION_BATCH):
            indices = range(begin, min(begin + EVALUATION_BATCH, len(drawings)))
            batch = drawings.batch(indices)
            nats = -PenMixture.read(model(batch.points, batch.text)[0]).log_density(batch.targets)
            lengths = drawings.lengths(indices)
            owner = pack_sequence(
                [torch.full((int(length),), row) for row, length in enumerate(lengths)], enforce_sorted=False
            ).data
            sums = torch.zeros(len(indices), dtype=torch.float64).index_add(0, owner, nats.double().cpu())
            scores.append(np.stack([sums.numpy(), lengths], axis=1))
        table = np.concatenate(scores)
        return float(table[:, 0].sum() / table[:, 1].sum()), table.astype(np.float32)

    def pictures(self, model: HandwritingNetwork, data: PenData, generator: torch.Generator) -> list[Picture]:
        """Return test drawings, and as many that the model draws with as many points (or to the end of their text)."""
        part = data.test if len(data.test) else data.valid
        shown = range(min(SHOWN, len(part)))
        given = [part.points[part.ends[i] : part.ends[i + 1]].cpu() for i in shown]
        text = part.text(shown) if part.texts else None
        ends = torch.tensor([len(part.texts[i]) for i in shown]) if part.texts else None
        sample = model.sample(torch.from_numpy(part.lengths(shown)), generator, text, ends)
        titles = (
            "drawings of the data set",
            f"drawn by the network, each with as many points{'' if text is None else ', or to the end of its text'}",
        )
        return [
            Picture(title, "strokes", self._unscaled(points, data))
            for title, points in zip(titles, (pad_sequence(given, True, torch.nan), sample), strict=True)
        ]

    def _unscaled(self, points: Tensor, data: PenData) -> np.ndarray:
        """Return normalized points in the units of the files, behind the point where the pen begins."""
        offsets = points[..., :2].numpy() * data.deviation + data.mean
        array = np.concatenate([offsets, points[..., 2:].numpy()], axis=-1)
        return np.pad(array, ((0, 0), (1, 0), (0, 0))).astype(np.float32)


def encode(text: str) -> Tensor:
    """Return the kinds of the characters of a text, ``[U]`` int64; all unknown ones are the last kind."""
    places = [CHARACTERS.find(character) for character in text]
    return torch.tensor([place if place >= 0 else len(CHARACTERS) for place in places])


def _cut(drawings: Drawings, count: int) -> tuple[Drawings, Drawings]:
    """Return the first drawings, and the others."""
    cut = int(drawings.lengths[:count].sum())
    first, rest = (
        Drawings(points=points, lengths=lengths, texts=texts)
        for points, lengths, texts in (
            (drawings.points[:cut], drawings.lengths[:count], drawings.texts[:count]),
            (drawings.points[cut:], drawings.lengths[count:], drawings.texts[count:]),
        )
    )
    return first, rest


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[[], DrawingSplits]) -> DrawingSplits:
    """Read the data; cached, since a worker process computes many runs."""
    return read()


# Section 6.5 of Ba et al. prints layers, widths, mixtures, windows, batch, length and optimizer; steps, rate and clip
# are ours.
FULL = PenSize(width=400, longest=500)

OMNIGLOT_STROKES = HandwritingTask(
    name="omniglot_strokes",
    description="characters of 50 alphabets point by point, a stand-in for iam_ondb without text; three LSTM layers",
    datasets=("omniglot-strokes",),
    read=partial(load_strokes, "omniglot-strokes"),
    sizes={"small": PenSize(width=64, longest=500), "full": FULL},
    presets={
        "small": Recipe(steps=1000, batch_size=32, learning_rate=1e-2, clip=1.0, evaluations=20),
        "full": Recipe(steps=40_000, batch_size=8, learning_rate=1e-3, clip=1.0, evaluations=40),
    },
    spread=True,
    margin=0.02,
    regime="three LSTM layers of 64 units (400 in full) that predict 30,000 characters of Omniglot point by point, "
    "Adam with linear decay",
)

KANJI_STROKES = dataclasses.replace(
    OMNIGLOT_STROKES,
    name="kanji_strokes",
    description="Chinese characters point by point, a stand-in for iam_ondb without its text; three LSTM layers",
    datasets=("kanji-strokes",),
    read=partial(load_strokes, "kanji-strokes"),
    regime=OMNIGLOT_STROKES.regime.replace("30,000 characters of Omniglot", "10,000 Chinese characters of KanjiVG"),
)

IAM_ONDB = dataclasses.replace(
    OMNIGLOT_STROKES,
    name="iam_ondb",
    description="lines of English handwriting point by point, given their text; three LSTM layers and a soft window "
    "(Ba et al. 2016, 6.5): bring your own copy",
    datasets=("iam-ondb",),
    read=load_iam_ondb,
    sizes={"small": PenSize(width=64, longest=200), "full": FULL},
    presets={
        "small": Recipe(steps=500, batch_size=8, learning_rate=1e-2, clip=1.0, evaluations=20),
        "full": Recipe(steps=60_000, batch_size=8, learning_rate=1e-3, clip=1.0, evaluations=40),
    },
    spread=False,
    conditioned=True,
    regime="three LSTM layers of 64 units (400 in full) with a window over the text, on IAM-OnDB, Adam with linear "
    "decay",
)
