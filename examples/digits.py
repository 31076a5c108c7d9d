"""A small convolutional network with a training loop of its own: `normscope compare examples/digits.py:make`."""

import os

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from normscope import Metric, Recipe, Trial

STEPS = int(os.environ.get("EXAMPLE_STEPS", "300"))


class ChannelsLast(nn.Module):
    """A norm of the last axis on feature maps `[B, C, H, W]`."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def make(norm, placement, seed):
    """Digits of 8 x 8 by two convolutions; the loop, the optimizer and the data order are the file's own."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    parts = {"valid": slice(1000, 1400), "test": slice(1400, None)}
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        ChannelsLast(norm(16)),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        ChannelsLast(norm(32)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )

    def train(model, callback, recipe):
        """Train for the recipe's steps, at its learning rate: `--steps` and tuning choose them."""
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        for step in range(recipe.steps):
            chosen = torch.randint(1000, (recipe.batch_size,), generator=generator)
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            callback(step + 1, loss.item())

    return Trial(
        model=model,
        train=train,
        evaluate=lambda model, part: 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]]),
        metric=Metric(name="test accuracy", unit="%", higher_is_better=True),
        margin=0.5,
        recipe=Recipe(steps=STEPS, batch_size=64, learning_rate=0.05),
        regime="two convolutions of 16 and 32 channels on 1,000 digits, SGD with momentum and a cosine",
    )
