"""What watching gradients through training costs: ``./run bench probe``.

Three copies of a model take a step in turns, by the time that one thread computes: without the probe, in a step between
two measurements, and in a step that is measured. The price is of the probe's default cadence.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from normscope.cli.bench import turns
from normscope.diagnostics.gradients.history import EVERY, gradients_through_training


def transformer(width: int, length: int) -> tuple[nn.Module, Tensor]:
    """Build six Pre-LN layers and a batch of eight."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    stack = nn.TransformerEncoder(layer, 6, norm=nn.LayerNorm(width), enable_nested_tensor=False)
    return stack, torch.randn(8, length, width)


def convolutions(channels: int) -> tuple[nn.Module, Tensor]:
    """Build six batch-normed convolutions and a batch of eight small images."""
    blocks = [
        nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        for _ in range(6)
    ]
    return nn.Sequential(*blocks), torch.randn(8, channels, 16, 16)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "transformer, width 256, 8 x 64 tokens": lambda: transformer(256, 64),
    "transformer, width 32, 8 x 32 tokens": lambda: transformer(32, 32),
    "convolutions, 64 channels, 8 x 16 x 16": lambda: convolutions(64),
    "convolutions, 16 channels, 8 x 16 x 16": lambda: convolutions(16),
}


def step(model: nn.Module, x: Tensor, upstream: Tensor) -> Callable[[], None]:
    """Give one update of a model as a function."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def update() -> None:
        optimizer.zero_grad()
        (model(x) * upstream).mean().backward()
        optimizer.step()

    return update


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="for each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for label, build in MODELS.items():
        model, x = build()
        upstream = torch.randn_like(model(x))
        copies = {kind: copy.deepcopy(model) for kind in ("plain", "between", "measured")}
        steps = {kind: step(each, x, upstream) for kind, each in copies.items()}
        with ExitStack() as watched:
            for kind, every in (("between", 10**9), ("measured", 1)):
                watched.enter_context(gradients_through_training(copies[kind], every=every))
                # The first step is measured, whatever the cadence.
                steps[kind]()
            taken, _ = turns(steps, threads=1, seconds=options.seconds)
        plain = taken["plain"]
        between, measured = (
            statistics.median(b / a - 1 for a, b in zip(plain, taken[kind], strict=True))
            for kind in ("between", "measured")
        )
        print(
            f"{label}: step {statistics.median(plain) * 1e3:.2f} ms; between measurements +{between:.1%}, "
            f"measured +{measured:.0%}; one in {EVERY}: +{(between * (EVERY - 1) + measured) / EVERY:.1%} "
            f"({len(plain)} turns)",
            flush=True,
        )


if __name__ == "__main__":
    main()
