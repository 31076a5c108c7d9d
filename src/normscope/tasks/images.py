"""Image classification: handwritten digits by a residual MLP, a plain MLP or a small convolutional network."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope import data, models
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published

EVALUATION_BATCH = 1000
"""Examples a forward pass outside training; it bounds memory and changes no number beyond rounding."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled images on a device."""

    x: Tensor
    """``[N, ...]`` float32 in the shape that the network takes."""
    y: Tensor
    """``[N]`` int64."""


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """The three parts of a set of images; ``test`` is empty where a split may not touch it."""

    train: Images
    valid: Images
    test: Images
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing is left out."""
        return {}

    @property
    def train_examples(self) -> int:
        """Size of the training set."""
        return len(self.train.y)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Say which images make which batch."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Give images ``[B, ...]`` and labels ``[B]``."""
        indices = indices.to(self.train.y.device)
        return self.train.x[indices], self.train.y[indices]


@dataclass(frozen=True, kw_only=True)
class ImageClassification:
    """Classify images by cross entropy; the metric is the share of test images that are wrong (or right), in per cent.

    Pixels are scaled to mean 0 and variance 1 by two numbers, taken over the whole training set.
    """

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    datasets: tuple[str, ...]
    """Keys of the data sets it reads."""
    read: Callable[[], data.ArraySplits]
    """Reads the original files."""
    shape: tuple[int, ...]
    """Shape of one image as the network takes it."""
    build: Callable[[NormFactory, PlacementLike], nn.Module]
    """Builds the network."""
    placements: tuple[str, ...]
    """Placements that the network can take, its default first."""
    steps: int
    """Updates of the default preset."""
    full_steps: int
    """Updates of the full preset."""
    batch_size: int
    """Examples an update."""
    learning_rate: float
    """Adam's first learning rate."""
    accuracy: bool
    """Whether the metric is accuracy, as the source prints it, or error."""
    margin: float
    """Smallest difference worth having, in points of per cent."""
    regime: str
    """What claims are limited to."""
    published: tuple[Published, ...] = ()
    """What others printed for it."""
    revision: int = 1
    """Raised whenever numbers change."""

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        name = "test accuracy" if self.accuracy else "test error"
        return Metric(name=name, unit="%", higher_is_better=self.accuracy)

    @property
    def batch_unit(self) -> str:
        """Batches are of so many images."""
        return "examples"

    @property
    def valid_metric(self) -> Metric:
        """The same on the validation images."""
        return self.metric

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """One network; ``full`` trains it until the figures stop improving."""
        return {
            preset: Recipe(steps=steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
            for preset, steps in (("small", self.steps), ("full", self.full_steps))
        }

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network with any weights; it is the same in every preset."""
        return self.build(norm, placement)

    def load(self, device: torch.device, split: str, preset: str) -> ImageSplits:
        """Read the data onto a device.

        Args:
            device: Where the tensors go.
            split: ``"study"`` for the set's own parts; ``"tune"`` for the training part alone, its last images held
                out: what is chosen there has seen neither the validation nor the test images of the study.
            preset: The data are the same in every preset.

        Raises:
            ValueError: If ``split`` is neither.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
        return _load(self.read, self.shape, device, split)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def evaluate(self, model: nn.Module, data: ImageSplits, part: str) -> tuple[float, np.ndarray]:
        """Give the mean cross entropy in nats, and 100 or 0 for every image of a part, ``[N]`` float32."""
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


def plain_mlp(*widths: int) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Build an :class:`normscope.models.MLP` of these widths."""
    return lambda norm, placement: models.MLP(widths, norm)


def convnet(*channels: int, size: int, classes: int) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Build an :class:`normscope.models.ConvNet` of these channels."""
    return lambda norm, placement: models.ConvNet(channels, size=size, classes=classes, norm=norm)


def residual_mlp(
    *, inputs: int, width: int, depth: int, classes: int
) -> Callable[[NormFactory, PlacementLike], nn.Module]:
    """Build an :class:`normscope.models.ResidualMLP` of this size."""

    def build(norm: NormFactory, placement: PlacementLike) -> nn.Module:
        return models.ResidualMLP(
            inputs=inputs, width=width, depth=depth, classes=classes, stack=partial(placement.stack, norm=norm)
        )

    return build


@cache
def _load(
    read: Callable[[], data.ArraySplits], shape: tuple[int, ...], device: torch.device, split: str
) -> ImageSplits:
    """Read once a process: a worker computes many runs."""
    arrays = read()
    counts = np.bincount(arrays.train.x.reshape(-1), minlength=256)
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
    regime="a four-block residual MLP of width 64 on 1,029 images of 8 x 8, Adam with linear decay",
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
