"""Replacements put in their places, and taken out again to the bit."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from normscope.swapping.fast_path import leave_fast_path
from normscope.swapping.kinds import Norm
from normscope.swapping.parameter_groups import exchange
from normscope.swapping.replacement import Built


def put(
    model: nn.Module, built: Sequence[Built], optimizer: torch.optim.Optimizer | None = None
) -> tuple[Callable[[], None], list[str]]:
    """Put replacements in their places.

    Args:
        model: What they were built for.
        built: The replacements.
        optimizer: Told of the parameters that go and come.

    Returns:
        A function that undoes it, and what else was changed, in words.
    """
    saved = [
        (tensor, tensor.detach().clone())
        for one in built
        for tensor in (*one.norm.module.parameters(), *one.norm.module.buffers())
    ]
    groups_back = None
    if optimizer is not None:
        leaving = {id(module) for one in built for module in one.norm.module.modules()}
        rest = [module for module in model.modules() if id(module) not in leaving]
        groups_back = exchange(
            optimizer,
            [
                ([*one.norm.module.parameters()], dict(one.module.named_parameters(prefix=one.norm.name)))
                for one in built
            ],
            {id(p) for module in rest for p in module.parameters(recurse=False)},
        )
    for one in built:
        for parent, child in places_of(model, one.norm):
            parent._modules[child] = one.module
    notes, path_back = leave_fast_path(model, {id(one.module) for one in built})
    anchor = next((p for p in model.parameters()), None)
    start = None if anchor is None else (anchor.device, anchor.dtype)
    undone = False

    def undo() -> None:
        nonlocal undone
        if undone:
            raise RuntimeError("this swap was undone already")
        for one in built:
            for parent, child in places_of(model, one.norm):
                if parent._modules.get(child) is not one.module:
                    there = type(parent._modules.get(child)).__name__
                    raise RuntimeError(
                        f"{one.norm.name} is a {there} that this swap did not put there: undo what came later first"
                    )
        undone = True
        path_back()
        if groups_back is not None:
            groups_back()
        for one in built:
            if anchor is not None and (anchor.device, anchor.dtype) != start:
                one.norm.module.to(device=anchor.device, dtype=anchor.dtype)
            one.norm.module.train(one.module.training)
            for parent, child in places_of(model, one.norm):
                parent._modules[child] = one.norm.module
        with torch.no_grad():
            for tensor, values in saved:
                tensor.copy_(values)

    return undo, notes


def places_of(model: nn.Module, norm: Norm) -> list[tuple[nn.Module, str]]:
    """Give the parents of a norm, and its name in each.

    Args:
        model: Where it stands.
        norm: Found there.
    """
    found = []
    for name in norm.names:
        parent, _, child = name.rpartition(".")
        found.append((model.get_submodule(parent), child))
    return found
