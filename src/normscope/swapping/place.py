"""Replacements put in their places, and taken out again to the bit."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from normscope.swapping.fast_path import leave_fast_path
from normscope.swapping.kinds import Norm
from normscope.swapping.parameter_groups import exchange
from normscope.swapping.replacement import Built
from normscope.swapping.restore import remember
from normscope.torch_internals import children_of


def put(
    model: nn.Module, built: Sequence[Built], optimizer: torch.optim.Optimizer | None = None
) -> tuple[Callable[[], None], list[str]]:
    """Put replacements in their places.

    Args:
        model: What they were built for.
        built: The replacements.
        optimizer: Told of the parameters that go and come.

    Returns:
        A function that undoes it, and what else was changed, in words. Two of these may be called in any order, if
        they are about different places.

    Raises:
        TypeError: If the optimizer is none.
        ValueError: If the optimizer cannot be told. Nothing is changed then.
    """
    places = [(*place, one) for one in built for place in places_of(model, one.norm)]
    exchanged = None
    for parent, child, one in places:
        children_of(parent)[child] = one.module
    try:
        restores = [remember(model, one.norm.name, one.norm.module, one.module) for one in built]
        if optimizer is not None:
            pairs = [
                (
                    dict(one.norm.module.named_parameters(prefix=one.norm.name)),
                    dict(one.module.named_parameters(prefix=one.norm.name)),
                )
                for one in built
            ]
            exchanged = exchange(optimizer, pairs, _without(model, (one.module for one in built)))
    except BaseException:
        for parent, child, one in places:
            children_of(parent)[child] = one.norm.module
        raise
    notes, path_back = leave_fast_path(model, {id(one.module) for one in built})
    undone = False

    def undo() -> None:
        nonlocal undone
        if undone:
            raise RuntimeError("this swap was undone already")
        for one in built:
            _check_there(model, one)
        if exchanged is not None:
            exchanged.check()
        undone = True
        for restore in restores:
            restore()
        for one in built:
            for parent, child in places_of(model, one.norm):
                children_of(parent)[child] = one.norm.module
        path_back()
        if exchanged is not None:
            exchanged.back({id(p) for p in model.parameters()})

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


def _check_there(model: nn.Module, one: Built) -> None:
    """Refuse to undo what no longer stands where it was put.

    Raises:
        RuntimeError: If something else stands there, or nothing.
    """
    for name in one.norm.names:
        try:
            there = model.get_submodule(name)
        except AttributeError:
            raise RuntimeError(
                f"{name}, where this swap put a {type(one.module).__name__}, is no longer in the model: put it back "
                "there first"
            ) from None
        if there is not one.module:
            raise RuntimeError(
                f"{name} is a {type(there).__name__} that this swap did not put there: undo what came later first"
            )


def _without(model: nn.Module, parts: Iterable[nn.Module]) -> set[int]:
    """Give the identities of the parameters that a model has apart from some of its parts."""
    leaving = {id(module) for part in parts for module in part.modules()}
    rest = (module for module in model.modules() if id(module) not in leaving)
    return {id(p) for module in rest for p in module.parameters(recurse=False)}
