"""A norm copied apart from its model, in float64, to be run without a trace."""

import copy

import torch
from torch import Tensor, nn


def copy_of(module: nn.Module, *, generator: torch.Generator | None = None) -> nn.Module:
    """Copy a module in float64 on the CPU, without its hooks.

    Args:
        module: Small: every parameter and buffer is copied.
        generator: Draws other parameters, between a half and one and a half; without it they are the module's own,
            and those that have no numbers (the meta device) are drawn as well.

    Returns:
        A module of the same class, in the same mode.
    """
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            vars(twin)[name] = type(value)()
        elif not name.startswith("_") and isinstance(value, list | dict | set):
            # What a forward adds to it stays with the copy.
            vars(twin)[name] = copy.copy(value)
    draw = generator or torch.Generator().manual_seed(0)

    def number(tensor: Tensor, fresh: bool) -> Tensor:
        if fresh or tensor.is_meta:
            return torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + 0.5
        wide = tensor.detach().to("cpu", torch.float64 if tensor.is_floating_point() else tensor.dtype)
        return wide.clone()

    twin._parameters = {
        name: None if p is None else nn.Parameter(number(p, generator is not None))
        for name, p in module._parameters.items()
    }
    twin._buffers = {name: None if b is None else number(b, fresh=False) for name, b in module._buffers.items()}
    twin._modules = {
        name: None if child is None else copy_of(child, generator=generator) for name, child in module._modules.items()
    }
    return twin
