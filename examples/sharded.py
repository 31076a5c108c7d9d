"""A model whose parameters are sharded over the devices of a run, by FSDP2, in a training loop of one's own.

normscope compare examples/sharded.py:make --devices-per-run 2 --seeds 0-5

Every process computes a part of each batch and holds a part of each parameter, as a DTensor; torch gathers the
parameters of a layer when it is computed. The whole model is put together only to be evaluated. With one device the
same function trains without sharding, on the same batches.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from normscope import Metric, Recipe, Trial

draw = torch.Generator().manual_seed(0)
X = torch.randn(512, 16, generator=draw)
TARGETS = (X[:, :8].norm(dim=1) > X[:, 8:].norm(dim=1)).long()
BATCH = 32
PARTS = {"train": slice(256), "valid": slice(256, 384), "test": slice(384, 512)}


class Block(nn.Module):
    """A residual branch behind its norm."""

    def __init__(self, width: int, norm) -> None:
        super().__init__()
        self.norm, self.inside, self.out = norm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, width]`` to ``[B, width]``."""
        return x + self.out(F.relu(self.inside(self.norm(x))))


def shard(model: nn.Module, group) -> nn.Module:
    """Return a copy of a model that holds this process's part of every parameter."""
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (group.size(),))
    sharded = copy.deepcopy(model)
    for block in sharded:
        if isinstance(block, Block):
            fully_shard(block, mesh=mesh)
    return fully_shard(sharded, mesh=mesh)


def train(model: nn.Module, callback, recipe: Recipe, group=None) -> None:
    """Train a model, sharded over a process group if there is one.

    FSDP averages gradients over the processes. That is the gradient of the whole batch here, as all parts of a batch
    have the same number of examples; docs/guides/devices.md has the weights for those that have not.
    """
    trained = model if group is None else shard(model, group)
    rank, count = (0, 1) if group is None else (group.rank(), group.size())
    optimizer = recipe.make_optimizer(trained)
    device = next(model.parameters()).device
    x, targets = X[PARTS["train"]].to(device), TARGETS[PARTS["train"]].to(device)
    order = torch.Generator().manual_seed(torch.initial_seed())
    for step in range(recipe.steps):
        batch = torch.randperm(len(x), generator=order)[:BATCH].to(device)
        mine = batch[rank * BATCH // count : (rank + 1) * BATCH // count]
        loss = F.cross_entropy(trained(x[mine]), targets[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        callback(step + 1, loss)
    if group is not None:
        # All processes take part; the model of the first is evaluated.
        whole = {
            name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in trained.state_dict().items()
        }
        model.load_state_dict(whole)


def make(norm, placement, seed: int) -> Trial:
    """Which half of a vector is longer."""

    def evaluate(model: nn.Module, part: str) -> torch.Tensor:
        device = next(model.parameters()).device
        return F.cross_entropy(model(X[PARTS[part]].to(device)).cpu(), TARGETS[PARTS[part]], reduction="none")

    return Trial(
        model=nn.Sequential(nn.Linear(16, 32), Block(32, norm), Block(32, norm), nn.Linear(32, 2)),
        train=train,
        evaluate=evaluate,
        metric=Metric(name="cross entropy", unit="nats", higher_is_better=False),
        margin=0.02,
        recipe=Recipe(steps=100, batch_size=BATCH, learning_rate=1e-2),
    )
