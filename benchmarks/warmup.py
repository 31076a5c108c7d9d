"""Which small transformers need a warm-up, and whether their first update tells: ``./run bench warmup``.

Every configuration is trained with and without a linear warm-up on the characters of tinyshakespeare, from the same
first weights and on the same batches, and the first update is measured at initialization. All that decides the verdict
stands in this file and was committed before the runs. About twenty minutes of one core; what ended is not run again.
"""

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.catalogue import NORMS, PLACEMENTS
from normscope.data import load_bytes
from normscope.models.attention import Attention, Context
from normscope.models.embedding import Embedding
from normscope.models.feed_forward import FeedForward
from normscope.models.linear import Linear
from normscope.models.positions import sinusoids
from normscope.probes.findings import Measured, lacks_warm_up
from normscope.probes.warmup import warmup_features
from normscope.results.disk import SCHEMA, read_json, write_bytes, write_json
from normscope.train.environment import device_name, versions

HEADS, HELD_OUT, LOOKS = 4, 256, 32
"""Heads of every attention; windows that are held out; windows looked at together."""

MARGIN = 0.1
"""Nats a character: a configuration needs warm-up where the mean over seeds of the held-out loss is worse by more."""

FEATURES = ("output_change", "common_after", "update_ratio", "decrease_ratio", "gradient_slope", "output_change_slope")
"""What the predictor chooses from, in every fold anew: one of these, a threshold, a direction, and whether it asks for
norms on the stream first. Of rules that are equally good on the other configurations, the first in this order."""

SIGNIFICANT = 0.05
"""The predictor beats a rule where a one-sided sign test over the configurations they disagree on stays below."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One model and its rate."""

    placement: str
    layers: int
    width: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long is trained, on how much."""

    steps: int = 240
    warmup: int = 80
    window: int = 48
    batch: int = 8
    seeds: int = 2


CONFIGURATIONS = [
    Configuration(placement=placement, layers=layers, width=width, learning_rate=rate)
    for placement, layers, width, rate in itertools.product(
        ("post", "pre", "deepnorm"), (4, 8), (32, 64), (1e-3, 3e-3, 1e-2)
    )
]


class Characters(nn.Module):
    """A causal transformer over characters, its norms where the placement wants them."""

    def __init__(self, configuration: Configuration, vocabulary: int, window: int) -> None:
        super().__init__()
        width = configuration.width
        branches: list[tuple[str, nn.Module]] = []
        for _ in range(configuration.layers):
            branches += [("attention", Attention(width, HEADS)), ("feed_forward", FeedForward(width, 4 * width))]
        self.embedding = Embedding(vocabulary, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(window), width), persistent=False)
        self.stack = PLACEMENTS[configuration.placement].stack(branches, width, NORMS["layer_norm"])
        self.head = Linear(width, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        """Map ``[B, T]`` int64 to logits ``[B, T, V]``."""
        x = self.embedding(characters, self.positions[: characters.shape[1]])
        return self.head(self.stack(x, Context(causal=True)))


@dataclass(frozen=True, kw_only=True)
class Text:
    """Running text as numbers of characters."""

    train: Tensor
    """``[N]`` int64."""
    held_out: Tensor
    """``[HELD_OUT, window + 1]`` int64."""
    vocabulary: int


def read_text(window: int) -> Text:
    """Read tinyshakespeare; the windows held out are drawn once, from the part that validates."""
    splits = load_bytes("text-small")
    letters = np.unique(np.concatenate([splits.train, splits.valid]))
    numbers = {part: torch.from_numpy(np.searchsorted(letters, getattr(splits, part))) for part in ("train", "valid")}
    generator = torch.Generator().manual_seed(0)
    held_out = windows(numbers["valid"], HELD_OUT, window, generator)
    return Text(train=numbers["train"], held_out=held_out, vocabulary=len(letters))


def windows(text: Tensor, rows: int, window: int, generator: torch.Generator) -> Tensor:
    """Draw windows and the character after each of their characters: ``[rows, window + 1]``."""
    begins = torch.randint(len(text) - window, (rows, 1), generator=generator)
    return text[begins + torch.arange(window + 1)]


def next_character(model: nn.Module, rows: Tensor) -> Tensor:
    """Give the mean cross-entropy in nats."""
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def frequencies(text: Text) -> float:
    """Give the loss of the held-out windows where nothing but the frequencies of the characters is known."""
    counts = torch.bincount(text.train, minlength=text.vocabulary).double() + 1
    return float(-(counts / counts.sum()).log()[text.held_out[:, 1:]].mean())


def start(configuration: Configuration, text: Text, seed: int, size: Size) -> tuple[Characters, torch.Generator]:
    """Make the model, and what draws its batches: both are the same with and without warm-up."""
    torch.manual_seed(seed)
    return Characters(configuration, text.vocabulary, size.window), torch.Generator().manual_seed(1000 + seed)


def measure(configuration: Configuration, text: Text, seed: int, size: Size) -> dict[str, float | None]:
    """Measure the first update without warm-up on the first batch; a number that cannot be told is None."""
    model, generator = start(configuration, text, seed, size)
    batch = windows(text.train, size.batch, size.window, generator)
    told = warmup_features(model, batch, next_character, configuration.learning_rate)
    return {name: value if math.isfinite(value) else None for name, value in told.items()}


def train(configuration: Configuration, text: Text, seed: int, warmup: int, size: Size) -> float | None:
    """Train with Adam, constant rate after the warm-up; give the held-out loss, None where it is not finite."""
    model, generator = start(configuration, text, seed, size)
    optimizer = torch.optim.Adam(model.parameters(), lr=configuration.learning_rate, fused=True)
    for step in range(size.steps):
        optimizer.param_groups[0]["lr"] = configuration.learning_rate * min((step + 1) / max(warmup, 1), 1.0)
        loss = next_character(model, windows(text.train, size.batch, size.window, generator))
        if not math.isfinite(float(loss.detach())):
            return None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = [float(next_character(model, rows)) for rows in text.held_out.split(LOOKS)]
    found = statistics.fmean(losses)
    return found if math.isfinite(found) else None


def key(configuration: Mapping[str, Any], seed: int) -> tuple[Any, ...]:
    """Name a run."""
    return *(configuration[name] for name in ("placement", "layers", "width", "learning_rate")), seed


def compute(path: Path, configurations: Sequence[Configuration], size: Size, say: Callable[[str], None]) -> None:
    """Measure and train what the file does not have yet; it is written whole after every seed of a configuration.

    Raises:
        ValueError: If the file is of another size.
    """
    text = read_text(size.window)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "size": asdict(size),
        "frequencies": frequencies(text),
        "machine": device_name(torch.device("cpu")),
        "torch": versions()["torch"],
        "runs": [],
    }
    if path.exists():
        content = read_json(path)
        if content["size"] != asdict(size):
            raise ValueError(f"{path} was measured with {content['size']}, wanted {asdict(size)}: take another folder")
    ended = {key(run, run["seed"]) for run in content["runs"]}
    for seed, configuration in itertools.product(range(size.seeds), configurations):
        if key(asdict(configuration), seed) in ended:
            continue
        begin = time.process_time()
        features = measure(configuration, text, seed, size)
        with_warmup = train(configuration, text, seed, size.warmup, size)
        without = train(configuration, text, seed, 0, size)
        run = {**asdict(configuration), "seed": seed, "with_warmup": with_warmup, "without": without}
        run |= {"seconds": round(time.process_time() - begin, 1), "features": features}
        content["runs"].append(run)
        write_json(path, content)
        say(f"{key(run, seed)}: {with_warmup} with warm-up, {without} without")
