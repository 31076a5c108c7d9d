"""Compare norms in your model: `normscope compare my_file.py:make`.

Edit `make`, which builds one run; normscope trains every norm on the same seeds, and reports a verdict with an
interval, and a page. Unchanged, this file compares norms in a small network on handwritten digits: try it first.

To use your own training loop, pass `train(model, callback, recipe)` to the Trial instead of `loss` and `batches`. It
trains the model in place for `recipe.steps` updates, and calls `callback(step, loss)` from time to time. For `--tune`,
add a fourth parameter `split` to `make`: if it is "tune", hold out training data and validate on them.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from normscope import Metric, Recipe, Trial


def make(norm, placement, seed):
    """Build one run: a network with two hidden layers that classifies 8x8 images of digits.

    norm: builds a norm for a width; write `norm(128)` instead of `nn.LayerNorm(128)`.
    placement: where the norms are around residual branches, if your model has such branches and you want to compare
        placements; `placement.stack(branches, width, norm)` builds the residual stream. Otherwise ignore it.
    seed: seed of this run. The generators of torch, NumPy and Python are already seeded with it; use it to seed others.
    """
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 8 - 1, dtype=torch.float32), torch.tensor(labels)
    train, valid, test = slice(0, 1000), slice(1000, 1400), slice(1400, None)

    model = nn.Sequential(
        nn.Linear(64, 128),
        norm(128),
        nn.ReLU(),
        nn.Linear(128, 128),
        norm(128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )

    # All batches of one epoch; alternatively, a function that returns the batch of a step.
    batches = list(zip(x[train].split(50), y[train].split(50), strict=True))

    def loss(model, batch):
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(model, part):
        """Return one score per example (here 100 or 0) of the part "valid" or "test"; the metric is their mean."""
        chosen = {"valid": valid, "test": test}[part]
        return 100.0 * (model(x[chosen]).argmax(-1) == y[chosen])

    return Trial(
        model=model,
        loss=loss,
        batches=batches,
        evaluate=evaluate,
        metric=Metric(name="test accuracy", unit="%", higher_is_better=True),
        margin=0.5,  # the smallest difference worth having
        recipe=Recipe(steps=400, batch_size=50, learning_rate=2e-3),
        regime="a network with two hidden layers of 128 on 1,000 digits, Adam with linear decay",
    )
