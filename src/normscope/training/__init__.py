"""A single run: named random streams, the training loop, checkpoints, and the result on disk."""

from normscope.training.loop import train
from normscope.training.outcome import Interrupted, Watch
from normscope.training.randomness import initialize

__all__ = [
    "Interrupted",
    "Watch",
    "initialize",
    "train",
]
