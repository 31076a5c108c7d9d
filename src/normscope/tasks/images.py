"""Image classification: handwritten digits by a residual MLP, a plain MLP or a small convolutional network."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope import data, models
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import (
    DATA_SETS_KEPT,
    TESTED,
    BaseTask,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Published,
    Split,
    check_split,
)

EVALUATION_BATCH = 1000
"""Examples per forward pass in evaluation; bounds memory and affects results only by rounding."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled images on a device."""

    x: Tensor
    """``[N, ...]`` float32 in the shape that the network takes."""
    y: Tensor
    """``[N]`` int64."""


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """Training, validation and test images; ``test`` is empty in the split ``"tune"``."""

    train: Images
    valid: Images
    test: Images
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: no example is excluded."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of training images."""
        return len(self.train.y)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Return the assignment of images to batches."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``[B, ...]`` and labels ``[B]`` of ``indices``."""
        indices = indices.to(self.train.y.device)
        return self.train.x[indices], self.train.y[indices]


@dataclass(frozen=True, kw_only=True)
class ImageTask(BaseTask):
    """Classification of images, in whatever form, with cross entropy; the metric is the error rate or the accuracy."""

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    placements: tuple[str, ...]
    """Placements the network supports, default first."""
    steps: int
    """Number of updates of the preset ``small``."""
    full_steps: int
    """Number of updates of the preset ``full``."""
    batch_size: int
    """Examples per update."""
    learning_rate: float
    """Adam's initial learning rate."""
    evaluations: int = Recipe.evaluations
    """Number of evaluations on the validation data."""
    accuracy: bool
    """Whether the metric is the accuracy, as in the source, or the error rate."""

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        name = "test accuracy" if self.accuracy else "test error"
        return Metric(name=name, unit="%", higher_is_better=self.accuracy)

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """Training settings by preset; ``full`` trains until the metric stops improving."""
        given = {"batch_size": self.batch_size, "learning_rate": self.learning_rate, "evaluations": self.evaluations}
        return {
            preset: Recipe(steps=steps, **given) for preset, steps in (("small", self.steps), ("full", self.full_steps))
        }

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def terms(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return the number of images of a batch, of which the loss is the mean."""
        return len(batch[1])

    def evaluate(self, model: nn.Module, data: ImageSplits, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean cross entropy in nats, and 100 or 0 per image, ``[N]`` float32."""
        images = {"valid": data.valid, "test": data.test}[part]
        losses, wrong = [], []
        for x, y in zip(images.x.split(EVALUATION_BATCH), images.y.split(EVALUATION_BATCH), strict=True):
            logits = model(x).float()
            losses.append(F.cross_entropy(logits, y, reduction="none"))
            wrong.append(logits.argmax(-1) != y)
        scores = 100.0 * torch.cat(wrong).float()
        if self.accuracy:
            scores = 100.0 - scores
        return torch.cat(losses).double().mean().item(), scores.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class ImageClassification(ImageTask):
    """Image classification with cross entropy; the metric is the error rate or accuracy on test images, in percent.

    Pixels are standardized with the mean and the variance over all training images.
    """

    read: Callable[..., data.ArraySplits]
    """Reads the original files; with the argument ``seed``, split for that seed."""
    shape: tuple[int, ...]
    """Shape of an image in the network's input."""
    build: Callable[[NormFactory, PlacementLike], nn.Module]
    """Builds the network."""
    other_networks: Mapping[str, tuple[str, Callable[[NormFactory, PlacementLike], nn.Module]]] = field(
        default_factory=dict
    )
    """Variants by name: description, and what builds the network."""

    @property
    def variants(self) -> Mapping[str, str]:
        """Variants with another network."""
        return {name: description for name, (description, _) in self.other_networks.items()}

    def varied(self, variant: str) -> Self:
        """Return the task with the network of a variant."""
        return dataclasses.replace(self, build=self.other_networks[variant][1])

    def stacked_losses(self, model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute :meth:`loss` of every member of a stack, ``[S]``, from batches ``[S, B, ...]``."""
        x, y = batch
        logits = model(x).float()
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network, which is the same in every preset, with arbitrary weights."""
        return self.build(norm, placement)

    def load(self, device: torch.device, split: Split, preset: str) -> ImageSplits:
        """Read the data onto a device.

        Args:
            device: Device of the tensors.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, its last images held
                out for validation; ``"resampled"`` for the parts of the task's seed; ``"resampled_tune"`` for the same
                without the test part.
            preset: Unused: the data are the same in every preset.

        Raises:
            ValueError: If ``split`` is not one of these, or a seed is missing or not used.
        """
        check_split(split, self.split_seed)
        return load_images(self.read, self.shape, device, split, self.split_seed)


def plain_mlp(*widths: int) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Return a function that builds a :class:`normscope.models.MLP` of these widths."""
    return lambda norm, placement: models.MLP(widths, norm)


def convnet(
    *channels: int, size: int, classes: int, whole_layers: bool = False
) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Return a function that builds a :class:`normscope.models.ConvNet` of these channels."""
    return lambda norm, placement: models.ConvNet(
        channels, size=size, classes=classes, norm=norm, whole_layers=whole_layers
    )


def residual_mlp(
    *, inputs: int, width: int, depth: int, classes: int
) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Return a function that builds a :class:`normscope.models.ResidualMLP` of this size."""

    def build(norm: NormFactory, placement: PlacementLike) -> nn.Module:
        return models.ResidualMLP(
            inputs=inputs, width=width, depth=depth, classes=classes, stack=partial(placement.stack, norm=norm)
        )

    return build


@lru_cache(maxsize=DATA_SETS_KEPT)
def load_images(
    read: Callable[..., data.ArraySplits], shape: tuple[int, ...], device: torch.device, split: Split, seed: int | None
) -> ImageSplits:
    """Read the data; cached, since a worker process computes many runs."""
    arrays = read() if seed is None else read(seed=seed)
    # In parts, because numpy converts them to 64 bits.
    parts = np.array_split(arrays.train.x, max(1, arrays.train.x.size >> 24))
    counts = np.sum([np.bincount(part.reshape(-1), minlength=256) for part in parts], axis=0)
    levels = np.arange(len(counts))
    mean = np.average(levels, weights=counts)
    deviation = np.sqrt(np.average((levels - mean) ** 2, weights=counts))

    def images(part: data.Arrays) -> Images:
        x = ((part.x.astype(np.float32) - np.float32(mean)) / np.float32(deviation)).reshape(-1, *shape)
        return Images(x=torch.from_numpy(x).to(device), y=torch.from_numpy(part.y.astype(np.int64)).to(device))

    train, valid, test = images(arrays.train), images(arrays.valid), images(arrays.test)
    if split == "tune":
        kept = len(train.y) - arrays.held_for_tuning
        train, valid = Images(x=train.x[:kept], y=train.y[:kept]), Images(x=train.x[kept:], y=train.y[kept:])
    if split not in TESTED:
        test = Images(x=test.x[:0], y=test.y[:0])
    return ImageSplits(train=train, valid=valid, test=test, hashes=arrays.hashes)


DIGITS = ImageClassification(
    name="digits",
    description="8 x 8 handwritten digits (UCI, in scikit-learn), residual MLP of four blocks; nothing to download",
    datasets=("digits",),
    read=data.load_digits,
    shape=(64,),
    build=residual_mlp(inputs=64, width=64, depth=4, classes=10),
    placements=("pre", "post", "output", "peri"),
    steps=1000,
    full_steps=4000,
    batch_size=32,
    learning_rate=2e-3,
    accuracy=False,
    margin=0.5,
    revision=2,
    regime="a four-block residual MLP of width 64 on about 1,029 images of 8 x 8, Adam with linear decay",
    splits={
        "resampled": "over seeds and splits of these 14 sheets of digits, each copied by one writer",
        "published": "over seeds, and over images of these four test sheets",
    },
)

MNIST_MLP = ImageClassification(
    name="mnist_mlp",
    description="permutation-invariant MNIST, 784-1000-1000-10, batch 128 (Ba et al. 2016, 6.6)",
    datasets=("mnist",),
    read=data.load_mnist,
    shape=(784,),
    build=plain_mlp(784, 1000, 1000, 10),
    placements=("preactivation",),
    steps=2150,
    full_steps=8600,
    batch_size=128,
    learning_rate=1e-3,
    accuracy=False,
    margin=0.1,
    regime="a two-hidden-layer MLP of width 1000 on MNIST, Adam with linear decay, no regularization",
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Figure 6, batch 128",
            rows={"none": 1.5, "layer_norm": 1.3, "batch_norm": 1.35},
            note="read off a plot, about +-0.1; 65 epochs, rate and seeds not printed; batch norm on the logits, too",
        ),
    ),
)

MNIST_MLP_BATCH4 = dataclasses.replace(
    MNIST_MLP,
    name="mnist_mlp_batch4",
    description="the same at batch 4, where batch statistics are poor (Ba et al. 2016, 6.6)",
    steps=13_750,
    full_steps=137_500,
    batch_size=4,
    learning_rate=2e-4,
    margin=0.2,
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Figure 6, batch 4",
            rows={"none": 1.55, "layer_norm": 1.45, "batch_norm(unbiased=True)": 2.0},
            note="read off a plot, about +-0.1; batch norm 'at or above' its figure",
        ),
    ),
)

MNIST_CNN = ImageClassification(
    name="mnist_cnn",
    description="MNIST, three convolutions of 16, 32 and 64 channels (Xu et al. 2019 name a 3-layer CNN)",
    datasets=("mnist",),
    read=data.load_mnist,
    shape=(1, 28, 28),
    build=convnet(1, 16, 32, 64, size=28, classes=10),
    other_networks={
        "whole_layers": (
            "layer norms over all units of a layer, as in Ba et al. (2016), not over the channels of a position",
            convnet(1, 16, 32, 64, size=28, classes=10, whole_layers=True),
        )
    },
    placements=("preactivation",),
    steps=1720,
    full_steps=4300,
    batch_size=128,
    learning_rate=2e-3,
    accuracy=True,
    margin=0.1,
    regime="a three-convolution network (16, 32, 64 channels) on MNIST, Adam with linear decay",
    published=(
        Published(
            source="Xu et al. (2019), Tables 1 to 3, MNIST",
            rows={
                "none": 99.14,
                "layer_norm": 99.13,
                "layer_norm_simple": 99.09,
                "detach_norm": 99.10,
                "ada_norm": 99.35,
            },
            note="no seeds and no spread printed; channels, optimizer, epochs and AdaNorm's C not printed",
        ),
    ),
)

CIFAR10_PART = ImageClassification(
    name="cifar10_part",
    description="half of CIFAR-10 as JPEG, four convolutions of 16 to 64 channels (Ba et al. 2016, 6.7, name no data)",
    datasets=("cifar10-jpeg",),
    read=data.load_cifar10_part,
    shape=(3, 32, 32),
    build=convnet(3, 16, 32, 64, 64, size=32, classes=10, whole_layers=True),
    other_networks={
        "per_position": (
            "layer norms over the channels of a position, not over all units of a layer as in Ba et al. (2016)",
            convnet(3, 16, 32, 64, 64, size=32, classes=10),
        )
    },
    placements=("preactivation",),
    steps=2000,
    full_steps=14_000,
    batch_size=64,
    learning_rate=2e-3,
    evaluations=20,
    accuracy=True,
    margin=1.0,
    regime="a four-convolution network (16, 32, 64, 64 channels) on 22,500 JPEG images of CIFAR-10, Adam with linear "
    "decay, no augmentation",
)

CIFAR10 = dataclasses.replace(
    CIFAR10_PART,
    name="cifar10",
    description="CIFAR-10 from its own archive, four convolutions of 16 to 64 channels",
    datasets=("cifar10",),
    read=data.load_cifar10,
    full_steps=28_000,
    regime="a four-convolution network (16, 32, 64, 64 channels) on 45,000 images of CIFAR-10, Adam with linear decay, "
    "no augmentation",
)
