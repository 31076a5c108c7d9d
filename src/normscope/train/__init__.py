"""One run: named random streams, the training loop, checkpoints."""

from normscope.train.loop import train as train
from normscope.train.outcome import Interrupted as Interrupted
from normscope.train.outcome import Watch as Watch
from normscope.train.streams import initialize as initialize
