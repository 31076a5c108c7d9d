"""The interface of a task: what the catalogue offers keeps it."""

import numpy as np
import pytest
import torch
from torch import nn

from normscope.catalogue import NORMS, PLACEMENTS, TASKS


@pytest.mark.parametrize("name", ["digits"])
def test_a_task_trains_and_scores(name: str) -> None:
    task = TASKS[name]
    data = task.load(torch.device("cpu"), "study")
    model = task.network(NORMS["layer_norm"], PLACEMENTS[task.placements[0]])
    loss = task.loss(model, data.batch(torch.arange(8)))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for part in ("valid", "test"):
        with torch.no_grad():
            mean, scores = task.evaluate(model.eval(), data, part)
        assert np.isfinite(mean)
        assert scores.dtype == np.float32
        assert set(np.unique(scores)) <= {0.0, 100.0}
    assert isinstance(model, nn.Module)
    assert all(len(digest) == 64 for digest in data.hashes.values())
