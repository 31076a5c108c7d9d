"""A refused conversion, and one that is undone, leave the model and the process as they were."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from support.architectures import IDS


class Restless(nn.Module):
    """A forward that counts, draws, registers buffers, and changes modes and gradients."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(99, 32), nn.Linear(32, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.batch_norm, self.drop, self.head = nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 5)
        self.drop.eval()
        self.out.bias.requires_grad_(False)
        self.post, self.calls = post, 0

    def forward(self, ids: Tensor, fails: bool = False) -> Tensor:
        self.calls += 1
        noise = torch.rand(()) * np.random.rand() * random.random()  # noqa: NPY002 as users write it
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


def snapshot(model: nn.Module) -> dict[str, Any]:
    """List what a call may change, tensors by identity and value."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            held = {entry: id(one) for entry, one in value.items()} if isinstance(value, dict) else value
            state[f"{name}.{key}"] = sorted(held) if isinstance(held, set) else held
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        state[name] = (
            tensor.tolist(),
            tensor.requires_grad,
            grad,
            tensor.dtype,
            tensor.data_ptr(),
            sorted(vars(tensor)),
        )
    state["random"] = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    state["process"] = (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.backends.mha.get_fastpath_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    return state


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("why", ["reads the mean", "fails in float64", "does not run", "is undone"])
def test_nothing_is_left(why: str, training: bool, autocast: bool) -> None:
    model = Restless(post=why == "reads the mean").train(training)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = snapshot(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if why == "is undone":
            normscope.to_rms_norm(model, IDS).undo()
        else:
            with pytest.raises((ValueError, IndexError)):
                normscope.to_rms_norm(model, IDS + 99 * (why == "does not run"), fails=why == "fails in float64")
    after = snapshot(model)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()
