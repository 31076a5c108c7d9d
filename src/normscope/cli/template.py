"""Compare norms in a model of your own: `normscope compare my_file.py:make`.

Fill in `make`; everything else is done for you: the same seeds for every norm, a verdict with an interval, a page.
As it stands it compares norms in a small network on handwritten digits, so that you can try it first.

A training loop of your own will do, too: give the Trial `train(model, callback, recipe)` in place of `loss` and
`batches`; it trains the model in place for `recipe.steps` updates and calls `callback(step, loss)` now and then. With
a fourth parameter of `make`, `split`, there is `--tune`: where it is "tune", hold training data out to validate.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from normscope import Metric, Recipe, Trial


def make(norm, placement, seed):
    """Eight-by-eight digits by a network of two hidden layers.

    norm: makes the norm of a width, `norm(128)`, where `nn.LayerNorm(128)` stood.
    placement: where norms stand around residual branches, if your model has any and you want that compared, too;
        `placement.stack(branches, width, norm)` builds the stream. Leave it alone otherwise.
    seed: of this run. torch's generator is seeded with it already; use it for what else is random.
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

    # All batches of a pass over the data; a function from the number of a step to its batch will do, too.
    batches = list(zip(x[train].split(50), y[train].split(50), strict=True))

    def loss(model, batch):
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(model, part):
        """Give the score of every example, here 100 or 0, of the part "valid" or "test"; their mean is the metric."""
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
        regime="a network of two hidden layers of 128 on 1,000 digits, Adam with linear decay",
    )
