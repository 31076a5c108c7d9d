"""Where the tests find real data, and a file such as a user writes.

A checkout of the project has ``shared/data`` beside it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

if SHARED.is_dir():
    os.environ.setdefault("NORMSCOPE_DATA", str(SHARED))

USER_FILE = '''
import torch
import torch.nn.functional as F
from torch import nn

from normscope import Metric, Recipe, Trial


def make(norm, placement, seed):
    """Points of two kinds."""
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    parts = {"valid": slice(32, 64), "test": slice(64, 96)}
    model = nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(model, part):
        return 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]])

    def train(model, callback):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(1, 13):
            value = loss(model, (x[:32], y[:32]))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            callback(step, value)

    return Trial(
        model=model,
        loss=loss,
        batches=list(zip(x[:32].split(4), y[:32].split(4))),
        evaluate=evaluate,
        metric=Metric(name="test accuracy", unit="%", higher_is_better=True),
        margin=1.0,
        recipe=Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3),
    )
'''

OURS_TRAINS = "        loss=loss,\n        batches=list(zip(x[:32].split(4), y[:32].split(4))),\n"


@pytest.fixture
def user_file(tmp_path: Path) -> Callable[..., str]:
    """Write the file above with changes; give the name of its function, as the command line takes it.

    ``driven`` makes it train by itself.
    """

    def write(*changes: tuple[str, str], path: Path = tmp_path / "my_file.py", driven: bool = False) -> str:
        text = USER_FILE
        for old, new in (*([(OURS_TRAINS, "        train=train,\n")] if driven else []), *changes):
            assert text.count(old) == 1, f"the file has {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return f"{path}:make"

    return write
