"""Images and captions in one space by order embeddings, evaluated by retrieval in both directions."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from normscope.data import CaptionedImages, CaptionSplits, load_coco_captions, load_multi30k_captions
from normscope.data.readers.captions import PER_IMAGE
from normscope.models import OrderEmbedding
from normscope.models.order_embedding import Similarity, contrastive_loss
from normscope.tasks.batching import Draw
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

END, UNKNOWN = 0, 1
"""Ids of the end of a sentence and of words outside the vocabulary."""

BATCH = 128
"""Images per update, each with one of its captions."""

POOL = 1000
"""Images among which one is searched for; a larger part is divided into pools of consecutive images."""

HELD_FOR_TUNING = 1000
"""Last images of the training part, held out for validation in the split ``"tune"``."""

MEASURES = ("R@1", "R@5", "R@10", "mean rank")
"""Figures of each direction, in the order of the scores."""

_SENTENCES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class EmbeddingSize:
    """Sizes of the network."""

    width: int
    """Units of the GRU, and features of the common space."""
    word_width: int


class CaptionOrder:
    """Batches of different images, each with one of its captions, drawn anew in every epoch.

    The last images of an epoch, fewer than a batch, are left out: an image is never contrasted with itself.

    Args:
        images: Number of training images.
        batch_size: Images per batch.
        draw: Returns the random generator of an epoch.

    Raises:
        ValueError: If the batch is smaller than two images or larger than the set.
    """

    def __init__(self, images: int, batch_size: int, draw: Draw) -> None:
        if not 2 <= batch_size <= images:
            raise ValueError(f"batch_size must be 2 to {images}, the number of training images, got {batch_size}")
        self.images, self.batch_size, self.draw = images, batch_size, draw
        self.per_epoch = images // batch_size
        self._held: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, step: int) -> Tensor:
        """Return the captions of batch ``step``, ``[batch_size]`` int64; caption c is of image ``c // PER_IMAGE``."""
        number, place = divmod(step, self.per_epoch)
        if self._held[0] != number:
            generator = self.draw(number)
            images = torch.randperm(self.images, generator=generator)
            self._held = number, images * PER_IMAGE + torch.randint(PER_IMAGE, (self.images,), generator=generator)
        return self._held[1][place * self.batch_size :][: self.batch_size]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Images with encoded captions."""

    words: Tensor
    """Ids of the words of all captions, one caption after the other, int64."""
    starts: np.ndarray
    """``[PER_IMAGE N + 1]`` int64: caption c has the words from ``starts[c]`` to ``starts[c + 1]``."""
    features: np.ndarray
    """``[N, F]`` float32."""

    def sentences(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the words ``[S, T]``, padded at the end, and the lengths ``[S]`` of captions by their numbers."""
        begins, lengths = self.starts[captions], self.starts[captions + 1] - self.starts[captions]
        places = np.arange(lengths.max())
        there = torch.from_numpy(np.where(places < lengths[:, None], begins[:, None] + places, begins[:, None]))
        return self.words[there], torch.from_numpy(lengths)


@dataclass(frozen=True, kw_only=True)
class CaptionData:
    """Training, validation and test images; ``test`` is empty in the split ``"tune"``."""

    train: Captioned
    valid: Captioned
    test: Captioned
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: no example is excluded."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of training images."""
        return len(self.train.features)

    def order(self, batch_size: int, draw: Draw) -> CaptionOrder:
        """Return the order of batches of ``batch_size`` images."""
        return CaptionOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words ``[B, T]``, lengths ``[B]`` and features ``[B, F]`` of captions and their images."""
        captions = indices.numpy()
        words, lengths = self.train.sentences(captions)
        return words.to(self.device), lengths, _rows(self.train.features, captions // PER_IMAGE, self.device)


@dataclass(frozen=True, kw_only=True)
class OrderEmbeddings(BaseTask):
    """Retrieval of images by captions and of captions by images.

    The metric is the mean of R@1, R@5 and R@10 in both directions. Which direction is better is known only after the
    runs; the mean is fixed before them, varies less between seeds than any of the six, and can be computed from
    published tables. The public code selects its model by the sum of three of the six. The scores of a run contain R@K
    and mean rank of each direction, see :func:`retrieval_scores`.
    """

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[[], CaptionSplits]
    """Reads the original files."""
    sizes: Mapping[str, EmbeddingSize]
    """Sizes of the network, by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    at_least: int
    """Minimum count of a word in training and validation captions to enter the vocabulary."""
    similarity: Similarity = "order"
    """How a sentence and an image are compared."""
    hinge: float = 0.05
    """Margin of the loss."""
    places: str = "paper"
    """Where the norms stand in the GRU, see :class:`normscope.GRU`."""

    placements = ("preactivation",)
    batch_unit = "images"

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return Metric(name="mean recall", unit="%", higher_is_better=True, aggregate="retrieval")

    @property
    def variants(self) -> Mapping[str, str]:
        """Other settings: the similarity, what is clipped, and places of the norms."""
        return {
            "symmetric": "cosine instead of the order: no absolute values, margin 0.2",
            "tensor_clip": "the gradient of each parameter clipped by itself, as in the code of Vendrov et al.",
            "kiros": "the bias added before the norms of the GRU, as in ryankiros/layer-norm",
        }

    def varied(self, variant: str) -> Self:
        """Return the task with a setting of :attr:`variants`."""
        change: dict[str, Any] = {
            "symmetric": {"similarity": "cosine", "hinge": 0.2},
            "tensor_clip": {"presets": {name: replace(one, clip_rule="tensor") for name, one in self.presets.items()}},
            "kiros": {"places": "kiros"},
        }[variant]
        return replace(self, **change)

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> OrderEmbedding:
        """Build the network of a preset with arbitrary weights."""
        size = self.sizes[preset]
        return OrderEmbedding(
            vocabulary=2 + len(_words(self.read, self.at_least)),
            word_width=size.word_width,
            image_width=_read(self.read).train.features.shape[1],
            width=size.width,
            similarity=self.similarity,
            norm=norm,
            places=self.places,
        )

    def load(self, device: torch.device, split: Split, preset: str) -> CaptionData:
        """Read the data.

        Args:
            device: Device of the batches.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, its last images held
                out for validation. Vocabulary, and vectors of images, are those of the whole training part in both.
            preset: Unused: the data are the same in every preset.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        return _load(self.read, self.at_least, device, split)

    undivided = "its loss compares every caption with every image of the batch"

    def loss(self, model: OrderEmbedding, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Compute the sum of the hinge losses over all contrastive pairs of a batch, a scalar."""
        return contrastive_loss(model(*batch), self.hinge)

    def evaluate(self, model: OrderEmbedding, data: CaptionData, part: Part) -> tuple[float, np.ndarray]:
        """Return the expected loss of a batch, and the scores of :func:`retrieval_scores` per image, ``[N, 8]``.

        The loss is the mean over all contrastive pairs of a pool, times the number of pairs of ``BATCH`` images.
        """
        images = {"valid": data.valid, "test": data.test}[part]
        sentences = _encode(model, images, data.device)
        pools = range(0, len(images.features), POOL)
        if len(images.features) - pools[-1] < POOL // 2 and len(pools) > 1:
            pools = pools[:-1]
        losses, scores = [], []
        for start, end in zip(pools, [*pools[1:], len(images.features)], strict=True):
            features = _rows(images.features, np.arange(start, end), data.device)
            errors = model.errors(sentences[PER_IMAGE * start : PER_IMAGE * end], model.embedded(features))
            pairs = (end - start) * (end - start - 1)
            losses += [contrastive_loss(errors[k::PER_IMAGE], self.hinge).item() / pairs for k in range(PER_IMAGE)]
            scores.append(retrieval_scores(errors))
        return BATCH * (BATCH - 1) * float(np.mean(losses)), np.concatenate(scores)

    def measures(self, model: OrderEmbedding, data: CaptionData, scores: np.ndarray) -> Mapping[str, float]:
        """Return R@1, R@5, R@10 in percent and the mean rank, of captions and of images."""
        names = [f"{measure} of {sought}" for sought in ("captions", "images") for measure in MEASURES]
        return dict(zip(names, scores.mean(axis=0, dtype=np.float64).tolist(), strict=True))


def retrieval_scores(errors: Tensor) -> np.ndarray:
    """Compute the scores of the images of a pool in both directions.

    The rank of an image is one plus the number of other images with an error that is not larger, so a tie counts
    against it, and a network that maps everything to one place finds nothing; likewise that of the best of an image's
    own captions among the captions of other images.

    Args:
        errors: ``[PER_IMAGE N, N]``; captions ``PER_IMAGE i`` and on are those of image i.

    Returns:
        ``[N, 8]`` float32: R@1, R@5 and R@10 in percent and the rank, first of captions for the image, then of the
        image for its captions, of which the mean is taken.

    References:
        Vendrov et al. (2016), arXiv:1511.06361, section 4.2. Departs from its code in: ties.
    """
    images = errors.shape[1]
    own = errors.view(images, PER_IMAGE, images).diagonal(dim1=0, dim2=2)
    # Negated, so that an error that is not a number counts against the image, too.
    image_ranks = (~(errors > own.T.reshape(-1, 1))).sum(1).view(images, PER_IMAGE)
    best = own.amin(0)
    caption_ranks = 1 + (~(errors > best)).sum(0) - (~(own > best)).sum(0)
    columns = [
        score
        for ranks in (caption_ranks[:, None], image_ranks)
        for score in (*(100.0 * (ranks <= k).float().mean(1) for k in (1, 5, 10)), ranks.float().mean(1))
    ]
    return torch.stack(columns, 1).cpu().numpy()


def _encode(model: OrderEmbedding, images: Captioned, device: torch.device) -> Tensor:
    """Map all captions to the common space, sentences of similar length together."""
    by_length = np.argsort(np.diff(images.starts), kind="stable")
    found = []
    for captions in np.array_split(by_length, -(-len(by_length) // _SENTENCES_AT_ONCE)):
        words, lengths = images.sentences(captions)
        found.append(model.sentences(words.to(device), lengths))
    return torch.cat(found)[torch.from_numpy(np.argsort(by_length, kind="stable")).to(device)]


def _rows(features: np.ndarray, numbers: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(features[numbers])).to(device)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[[], CaptionSplits]) -> CaptionSplits:
    """Read the data; cached, since a worker process computes many runs."""
    return read()


@lru_cache(maxsize=DATA_SETS_KEPT)
def _words(read: Callable[[], CaptionSplits], at_least: int) -> Mapping[str, int]:
    """Return the ids of words from 2, by decreasing count and then alphabetically."""
    splits = _read(read)
    counts = Counter(word for part in (splits.train, splits.valid) for line in part.captions for word in line.split())
    kept = sorted((word for word, count in counts.items() if count >= at_least), key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(kept, start=2)}


@lru_cache(maxsize=DATA_SETS_KEPT)
def _load(read: Callable[[], CaptionSplits], at_least: int, device: torch.device, split: Split) -> CaptionData:
    splits, words = _read(read), _words(read, at_least)
    train, valid, test = (_encoded(part, words) for part in (splits.train, splits.valid, splits.test))
    if split == "tune":
        cut = len(train.features) - min(HELD_FOR_TUNING, len(train.features) // 10)
        train, valid, test = _part(train, 0, cut), _part(train, cut, len(train.features)), _part(test, 0, 0)
    return CaptionData(train=train, valid=valid, test=test, device=device, hashes=splits.hashes)


def _encoded(part: CaptionedImages, words: Mapping[str, int]) -> Captioned:
    rows = [[*(words.get(word, UNKNOWN) for word in line.split()), END] for line in part.captions]
    return Captioned(
        words=torch.tensor([word for row in rows for word in row]),
        starts=np.cumsum([0, *map(len, rows)]),
        features=part.features,
    )


def _part(images: Captioned, start: int, end: int) -> Captioned:
    starts = images.starts[PER_IMAGE * start : PER_IMAGE * end + 1]
    return replace(images, starts=starts, features=images.features[start:end])


VENDROV = "Vendrov et al. (2016), arXiv:1511.06361"

MULTI30K_ORDER = OrderEmbeddings(
    name="multi30k_order",
    description="English captions of 31,014 images, known by their German ones, a stand-in for coco_order; GRU",
    datasets=("multi30k-task2",),
    read=load_multi30k_captions,
    at_least=2,
    sizes={
        "small": EmbeddingSize(width=256, word_width=128),
        "full": EmbeddingSize(width=1024, word_width=300),
    },
    presets={
        "small": Recipe(steps=600, batch_size=BATCH, learning_rate=8e-3, clip=2.0, evaluations=20),
        "full": Recipe(steps=9000, batch_size=BATCH, learning_rate=1e-3, clip=2.0, evaluations=30, schedule="constant"),
    },
    margin=1.0,
    regime="order embeddings of captions and of vectors of German captions on Multi30k, a one-layer GRU, Adam with "
    "linear decay",
)

COCO_ORDER = replace(
    MULTI30K_ORDER,
    name="coco_order",
    description="images and captions of COCO, order embeddings with a GRU (Ba et al. 2016, 6.1)",
    datasets=("coco-captions",),
    read=load_coco_captions,
    at_least=1,
    presets={
        "small": replace(MULTI30K_ORDER.presets["small"], steps=4000),
        # 100 epochs of 885 updates; evaluated every 300.
        "full": replace(MULTI30K_ORDER.presets["full"], steps=88_500, evaluations=295),
    },
    regime="order embeddings of captions and features of VGG19 on COCO, a one-layer GRU, Adam",
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Table 2, OE (ours) and OE + LN",
            rows={"none": 68.7, "layer_norm": 69.7},
            note="means of the six recalls of the table, of one run each, tested on five times 1,000 images",
        ),
    ),
)
