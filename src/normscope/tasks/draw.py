"""DRAW on the fixed binarization of MNIST (Ba et al. 2016, section 6.4)."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from normscope import data
from normscope.models.draw import DRAW, NO_START, Glimpses, Start, Window
from normscope.results.pictures import Picture
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

EVALUATION_BATCH = 500
"""Images per forward pass in evaluation; bounds memory and affects results only by rounding."""

NOISE_SEEDS: Mapping[Part, int] = {"valid": 64_001, "test": 64_002}
"""Seeds of the latent noise of an evaluation. Every image has its own, the same in all runs and evaluations."""

TUNING_STRIDE = 10
"""One training image of so many is held out for tuning."""


@dataclass(frozen=True, kw_only=True)
class BinaryImageSplits:
    """Images ``[N, A, A]`` uint8, 0 or 1, on a device; ``test`` is empty in the split ``"tune"``."""

    train: Tensor
    valid: Tensor
    test: Tensor
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: no example is excluded."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of training images."""
        return len(self.train)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Return the assignment of images to batches."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> Tensor:
        """Return the images of ``indices``, ``[B, A, A]`` float32."""
        return self.train[indices.to(self.train.device)].float()


@dataclass(frozen=True, kw_only=True)
class DrawSize:
    """Sizes of a network, and of its validation."""

    width: int
    """Units of each LSTM."""
    latent: int
    """Latent numbers of a glimpse."""
    glimpses: int
    """Number of glimpses."""
    read: int
    """Filters along each side of a window that reads."""
    write: int
    """Filters along each side of a window that writes."""
    start: Start = NO_START
    """Initial values of windows and canvas."""
    valid_examples: int | None = None
    """Number of validation images, evenly spaced in the file; None for all."""


@dataclass(frozen=True, kw_only=True)
class DrawTask(BaseTask):
    """Generation of binary images with :class:`normscope.models.DRAW`; the metric is the variational bound."""

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    sizes: Mapping[str, DrawSize]
    """Sizes by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    placements: tuple[str, ...] = ("preactivation",)
    """Placements the network supports."""

    @property
    def variants(self) -> Mapping[str, str]:
        """Other settings of the task that arms may have: the small preset without the starts of its windows."""
        return {"start_0": "windows and canvas start at zero, where they see and paint little"}

    @property
    def metric(self) -> Metric:
        """Metric of the test data: an upper bound of the negative log-likelihood, with one sample per image."""
        return Metric(name="test bound", unit="nats", higher_is_better=False)

    def varied(self, variant: str) -> "DrawTask":
        """Return the task with a setting of :attr:`variants`."""
        sizes = {preset: dataclasses.replace(size, start=NO_START) for preset, size in self.sizes.items()}
        return dataclasses.replace(self, sizes=sizes)

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> DRAW:
        """Build the network of a preset, with arbitrary weights."""
        size = self.sizes[preset]
        return DRAW(
            side=28,
            width=size.width,
            latent=size.latent,
            glimpses=size.glimpses,
            read=size.read,
            write=size.write,
            norm=norm,
            start=size.start,
        )

    def load(self, device: torch.device, split: Split, preset: str) -> BinaryImageSplits:
        """Read the data onto a device.

        Args:
            device: Device of the tensors.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every tenth image of it
                held out for validation.
            preset: Determines the number of validation images.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        return _load(device, split, self.sizes[preset].valid_examples)

    def loss(self, model: DRAW, batch: Tensor) -> Tensor:
        """Compute the mean bound of a batch in nats, with a latent sample from the global generator."""
        return model(batch, torch.randn(model.glimpses, len(batch), model.latent, device=batch.device)).mean()

    def terms(self, batch: Tensor) -> int:
        """Return the number of images of a batch, of which the loss is the mean."""
        return len(batch)

    def evaluate(self, model: DRAW, data: BinaryImageSplits, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean bound, and the bound of every image in nats, ``[N]`` float32.

        The latent noise of an image depends on its number only: it is read in order from one stream per part.
        """
        images = {"valid": data.valid, "test": data.test}[part]
        stream = np.random.default_rng(NOISE_SEEDS[part])
        bounds = []
        for x in images.split(EVALUATION_BATCH):
            noise = stream.standard_normal((len(x), model.glimpses, model.latent), dtype=np.float32)
            bounds.append(model(x.float(), torch.from_numpy(noise).to(x.device).transpose(0, 1)))
        scores = torch.cat(bounds)
        return scores.double().mean().item(), scores.cpu().numpy()

    def pictures(self, model: DRAW, data: BinaryImageSplits, generator: torch.Generator) -> Sequence[Picture]:
        """Draw test images glimpse by glimpse, images from the prior glimpse by glimpse, and samples."""
        source = data.test if len(data.test) else data.valid
        images = source[torch.linspace(0, len(source) - 1, 6).long()].float()

        def noise(count: int) -> Tensor:
            shape = (model.glimpses, count, model.latent)
            return torch.randn(shape, generator=generator).to(images.device)

        seen, made = model.look(images, noise(len(images))), model.generate(noise(6))
        shown = sorted({round(place) for place in np.linspace(0, model.glimpses - 1, 7)})
        numbers = ", ".join(str(place + 1) for place in shown)
        rebuilt, boxes = _table(seen, seen.reads, shown)
        painted, written = _table(made, made.writes, shown)
        originals = images.mul(255).byte().cpu().numpy()[:, None]
        samples = model.generate(noise(48)).canvases[-1].sigmoid().mul(255).byte().cpu().numpy()
        return [
            Picture(
                f"Test images, and the pixels' probabilities after glimpses {numbers}; boxes: where a glimpse read",
                "images",
                np.concatenate([originals, rebuilt], 1),
                np.concatenate([np.full_like(boxes[:, :1], np.nan), boxes], 1),
            ),
            Picture(
                f"Images from the prior after glimpses {numbers}; boxes: where a glimpse wrote",
                "images",
                painted,
                written,
            ),
            Picture("Samples from the prior, as probabilities", "images", samples.reshape(4, 12, *samples.shape[1:])),
        ]


def _table(found: Glimpses, windows: Sequence[Window], shown: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return canvases ``[B, columns, A, A]`` uint8 and the boxes of their windows, ``[B, columns, 1, 4]``."""
    canvases = torch.stack([found.canvases[place] for place in shown], 1).sigmoid().mul(255).byte()
    # Pixel 1 is centred half a pixel from the edge. A box reaches from the first centre of a filter to the last.
    centres = torch.stack([windows[place].centres for place in shown], 1).float() - 0.5
    boxes = torch.cat([centres[..., 0], centres[..., -1] - centres[..., 0]], -1)[:, :, None]
    return canvases.cpu().numpy(), boxes.cpu().numpy()


@lru_cache(maxsize=DATA_SETS_KEPT)
def _load(device: torch.device, split: Split, valid_examples: int | None) -> BinaryImageSplits:
    """Read the data; cached, since a worker process computes many runs."""
    files = data.load_binarized_mnist()
    train, valid, test = files.train, files.valid, files.test
    if split == "tune":
        held = np.arange(len(train)) % TUNING_STRIDE == TUNING_STRIDE - 1
        train, valid = train[~held], train[held]
    if split not in TESTED:
        test = test[:0]
    if valid_examples is not None:
        valid = valid[:: max(1, len(valid) // valid_examples)]
    parts = {"train": train, "valid": valid, "test": test}
    on_device = {name: torch.from_numpy(np.ascontiguousarray(part)).to(device) for name, part in parts.items()}
    return BinaryImageSplits(**on_device, hashes=files.hashes)


DRAW_MNIST = DrawTask(
    name="draw_mnist",
    description="DRAW on the fixed binarization of MNIST (Ba et al. 2016, 6.4); small: 5 glimpses, LSTMs of 64 units; "
    "full: 64 glimpses, 256 units",
    datasets=("binarized-mnist",),
    sizes={
        "small": DrawSize(
            width=64,
            latent=16,
            glimpses=5,
            read=5,
            write=5,
            start=Start(canvas=-3.0, variance=2.0, intensity=3.0),
            valid_examples=1000,
        ),
        "full": DrawSize(width=256, latent=100, glimpses=64, read=2, write=5),
    },
    presets={
        "small": Recipe(steps=6000, batch_size=32, learning_rate=4e-3, clip=10.0, evaluations=20),
        # 200 passes over 50,000 images.
        "full": Recipe(
            steps=78_125, batch_size=128, learning_rate=1e-3, clip=10.0, evaluations=200, schedule="constant"
        ),
    },
    margin=1.0,
    regime="DRAW on binarized MNIST, 5 glimpses of windows of 5 x 5 and LSTMs of 64 units (small) or 64 glimpses and "
    "256 units (full), Adam with linear decay (small) or a constant rate (full)",
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), section 6.4",
            rows={"none": 82.36, "layer_norm": 82.09},
            note="after 200 epochs; one run each, no seeds printed; 64 glimpses, 256 units",
        ),
    ),
)
