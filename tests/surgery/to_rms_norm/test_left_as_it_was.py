"""A refused conversion, and one that is undone, leave the model and the process as they were."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from support.architectures import IDS
from support.whole_state import differences, whole_state


class Restless(nn.Module):
    """A forward that counts, draws, registers hooks and buffers, and changes modes and gradients."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(99, 32), nn.Linear(32, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.batch_norm, self.drop, self.head = nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 5)
        self.drop.eval()
        self.out.bias.requires_grad_(False)
        self.post, self.calls, self.history, self.generator = post, 0, [], torch.Generator()

    def forward(self, ids: Tensor, fails: bool = False) -> Tensor:
        self.calls += 1
        self.history.append(ids)
        self.norms[0].register_forward_hook(lambda module, given, z: None)
        noise = torch.rand((), generator=self.generator) * torch.rand(()) * np.random.rand() * random.random()  # noqa: NPY002 as users write it
        self.register_buffer("seen", ids.clone())
        self.head.requires_grad_(False)
        self.batch_norm.train()
        x = self.embed(ids)
        x = x + self.drop(self.out(self.norms[0](x))) * noise
        self.batch_norm(x.detach().flatten(0, 1))
        if fails and self.head.weight.dtype == torch.float64:
            raise RuntimeError("not in float64")
        h = self.norms[1](x)
        return self.head(h.tanh() + x if self.post else h)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("why", ["reads the mean", "fails in float64", "does not run", "is undone"])
def test_nothing_is_left(why: str, training: bool, autocast: bool) -> None:
    model = Restless(post=why == "reads the mean").train(training)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = whole_state(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if why == "is undone":
            normscope.to_rms_norm(model, IDS).undo()
        else:
            with pytest.raises((ValueError, IndexError)):
                normscope.to_rms_norm(model, IDS + 99 * (why == "does not run"), fails=why == "fails in float64")
    # Parts of torch that are imported at their first use add filters of warnings.
    assert set(differences(before, whole_state(model))) <= {"process.warnings"}
