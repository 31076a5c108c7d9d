"""Recurrent networks: MNIST pixel by pixel, in order and permuted, and characters of Shakespeare; LSTM and GRU."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from normscope import data
from normscope.data.readers.files import shuffled
from normscope.models import RecurrentLanguageModel, SequenceClassifier
from normscope.models.recurrent import Cell
from normscope.tasks.images import ImageSplits, ImageTask, load_images
from normscope.tasks.language import TINY_SHAKESPEARE, VOCABULARY, LanguageModel, SegmentSize
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import NormFactory, PlacementLike, Published, Split, check_split

SIDES = {"small": 14, "full": 28}
"""Height and width of the images by preset: the mean of 2 x 2 pixels, rounded, or the pixels."""

WIDTHS = {"small": 64, "full": 100}
"""Number of units by preset; Cooijmans et al. have 100."""

VARIANTS: Mapping[Cell, Mapping[str, str]] = {
    "LSTM": {
        "kiros": "the bias added twice, before and after the norms, as in ryankiros/layer-norm",
        "per_gate": "every gate normalized by itself, instead of all four as one vector",
    },
    "GRU": {
        "kiros": "the bias added before the norms, as in ryankiros/layer-norm",
        "per_gate": "every gate normalized by itself, instead of both gates as one vector",
    },
}
"""Variants of the tasks by cell, each with a description: places of the norms, underscores for spaces."""

PERMUTATION = "permuted_mnist"
"""Name of the random stream of the one permutation that all images and all seeds share."""


def permutation(length: int) -> np.ndarray:
    """Return the order in which a permuted task reads pixels, ``[length]`` int64.

    It is that of the SHA-256 of the stream's name, a newline and the pixel's number in row-major order.
    """
    return np.array([int(place) for place in shuffled(map(str, range(length)), PERMUTATION)])


def pixel_sequences(side: int, *, permuted: bool) -> data.ArraySplits:
    """Read MNIST with every image as a sequence of ``side`` squared gray levels: ``x`` is ``[N, T]`` uint8.

    Args:
        side: 28, or 14 for the mean of 2 x 2 pixels, rounded to a gray level (halves upwards).
        permuted: Whether the order is that of :func:`permutation`, instead of row by row.
    """
    images = data.load_mnist()
    order = permutation(side * side) if permuted else slice(None)

    def sequences(part: data.Arrays) -> data.Arrays:
        x, factor = part.x, 28 // side
        if factor > 1:
            sums = x.reshape(-1, side, factor, side, factor).sum((2, 4), dtype=np.uint16)
            x = ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
        return data.Arrays(x=x.reshape(-1, side * side)[:, order], y=part.y)

    parts = {name: sequences(getattr(images, name)) for name in ("train", "valid", "test")}
    return data.ArraySplits(**parts, held_for_tuning=images.held_for_tuning, hashes=images.hashes)


READERS = {
    (preset, permuted): partial(pixel_sequences, side, permuted=permuted)
    for preset, side in SIDES.items()
    for permuted in (False, True)
}
"""Readers by preset and by whether pixels are permuted; one object each, as the cache of data wants it."""


@dataclass(frozen=True, kw_only=True)
class PixelSequences(ImageTask):
    """Classification of images that a recurrent network reads pixel by pixel.

    Pixels are standardized with the mean and the variance over all training images.
    """

    cell: Cell
    """LSTM or GRU."""
    permuted: bool
    """Whether the pixels are read in the order of :func:`permutation`."""
    places: str = "paper"
    """Where the norms stand in a cell, as in :class:`normscope.LSTM` and :class:`normscope.GRU`."""

    @property
    def variants(self) -> Mapping[str, str]:
        """Places of the norms other than the paper's."""
        return VARIANTS[self.cell]

    def varied(self, variant: str) -> "PixelSequences":
        """Return the task with the norms at other places."""
        return dataclasses.replace(self, places=variant.replace("_", " "))

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """Training settings by preset, with the gradient clipped at 1."""
        return {name: dataclasses.replace(one, clip=1.0, evaluations=5) for name, one in super().presets.items()}

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network of a preset with arbitrary weights."""
        return SequenceClassifier(
            cell=self.cell,
            inputs=1,
            width=WIDTHS[preset],
            classes=10,
            norm=norm,
            steps=SIDES[preset] ** 2,
            places=self.places,
        )

    def load(self, device: torch.device, split: Split, preset: str) -> ImageSplits:
        """Read the data onto a device: sequences ``[N, T, 1]``.

        Args:
            device: Device of the tensors.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, its last images held
                out for validation.
            preset: Determines the length of the sequences.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        return load_images(READERS[preset, self.permuted], (SIDES[preset] ** 2, 1), device, split, None)


def language_model(cell: Cell) -> Callable[[SegmentSize, int, NormFactory, PlacementLike], nn.Module]:
    """Return a function that builds a :class:`normscope.models.RecurrentLanguageModel` over bytes."""
    return lambda size, batch, norm, placement: RecurrentLanguageModel(
        cell=cell, vocabulary=VOCABULARY, width=size.width, layers=size.layers, batch=batch, norm=norm
    )


COOIJMANS = "Cooijmans et al. (2016), Recurrent batch normalization, arXiv:1603.09025, pixel by pixel MNIST"
DEPARTURES = (
    "784 steps, 100 units, RMSProp at 1e-3 with momentum 0.9; recurrent weights that start at the identity; ours in "
    "full: Adam, weights as torch draws them, a forget bias of 1"
)

SEQUENTIAL_MNIST = PixelSequences(
    name="sequential_mnist",
    description="MNIST pixel by pixel, row by row; small: mean-pooled to 14 x 14, LSTM of 64 units; full: 100 units",
    datasets=("mnist",),
    cell="LSTM",
    placements=("preactivation",),
    permuted=False,
    steps=2000,
    full_steps=43_000,
    batch_size=64,
    learning_rate=4e-3,
    accuracy=True,
    margin=1.0,
    regime="an LSTM that reads MNIST pixel by pixel, 64 units and 196 steps (small) or 100 and 784 (full), Adam with "
    "linear decay",
    published=(Published(source=COOIJMANS, rows={"none": 98.9, "batch_norm": 99.0}, note=DEPARTURES),),
)

PERMUTED_MNIST = dataclasses.replace(
    SEQUENTIAL_MNIST,
    name="permuted_mnist",
    description="the same in one fixed random order of the pixels: dependencies over all distances; LSTM",
    permuted=True,
    regime="an LSTM that reads MNIST in one random order of pixels, 64 units and 196 steps (small) or 100 and 784 "
    "(full), Adam with linear decay",
    published=(Published(source=COOIJMANS, rows={"none": 90.2, "batch_norm": 95.4}, note=DEPARTURES),),
)

SEQUENTIAL_MNIST_GRU = dataclasses.replace(
    SEQUENTIAL_MNIST,
    name="sequential_mnist_gru",
    description="sequential_mnist with a GRU",
    cell="GRU",
    regime=SEQUENTIAL_MNIST.regime.replace("an LSTM", "a GRU"),
    published=(),
)

PERMUTED_MNIST_GRU = dataclasses.replace(
    PERMUTED_MNIST,
    name="permuted_mnist_gru",
    description="permuted_mnist with a GRU",
    cell="GRU",
    regime=PERMUTED_MNIST.regime.replace("an LSTM", "a GRU"),
    published=(),
)

SIZES = {
    "small": SegmentSize(width=256, layers=1, segment=64, test_segment=256, test_memory=256),
    "full": SegmentSize(width=512, layers=2, segment=128, test_segment=256, test_memory=256),
}

TINY_SHAKESPEARE_LSTM = LanguageModel(
    name="tiny_shakespeare_lstm",
    description="1.1 MB of Shakespeare, the next character from all before it; LSTM of 256 units",
    datasets=TINY_SHAKESPEARE.datasets,
    read=TINY_SHAKESPEARE.read,
    sizes=SIZES,
    build=language_model("LSTM"),
    presets={
        "small": Recipe(steps=1200, batch_size=32 * 64, learning_rate=6e-3, clip=1.0),
        "full": Recipe(steps=5000, batch_size=64 * 128, learning_rate=2e-3, clip=1.0),
    },
    margin=0.02,
    regime="a one-layer LSTM (two layers in full) on 1.0 MB of Shakespeare, Adam with linear decay",
    placements=("preactivation",),
)

TINY_SHAKESPEARE_GRU = dataclasses.replace(
    TINY_SHAKESPEARE_LSTM,
    name="tiny_shakespeare_gru",
    description="tiny_shakespeare_lstm with a GRU of 256 units",
    build=language_model("GRU"),
    regime=TINY_SHAKESPEARE_LSTM.regime.replace("LSTM", "GRU"),
)
