"""An old norm made what it was, where the model is now."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.kinds import Norm
from normscope.surgery.guards import leave_fast_path, same_direction
from normscope.surgery.optimizer import exchange
from normscope.surgery.replacement import Built


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
        parent._modules[child] = one.module
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
            parent._modules[child] = one.norm.module
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
                parent._modules[child] = one.norm.module
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


def remember(model: nn.Module, name: str, old: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Note what an old norm is, when another has just taken its place.

    What the two share is one thing: where the new norm has another object for it at the end (``to_empty`` makes such),
    the old one gets that. Device, dtype, mode and ``requires_grad`` follow what was done to the new norm, and to the
    model around it where that has no parameter.

    Args:
        model: Where they stand.
        name: Under which name.
        old: What stood there.
        new: What stands there.

    Returns:
        A function that gives the old norm its values again, to the bit. What was on the meta device had none, and is
        NaN where it has left that and no parameter of the new norm tells it.
    """
    saved = [
        (entries, key, tensor.detach().clone(), _places(new, tensor))
        for entries in _entries(old)
        for key, tensor in entries.items()
        if tensor is not None
    ]
    start = _like(model, name, new)
    trained = _flags(model, new)

    def restore() -> None:
        device, dtype = _like(model, name, new)
        if device is not None and device != start[0]:
            _bring(old, device)
        if dtype is not None and dtype != start[1]:
            old.to(dtype)
        now = {p: flag for p, flag in _flags(model, new).items() if p in trained}
        if now and any(now.values()) != any(trained[p] for p in now):
            old.requires_grad_(any(now.values()))
        with torch.no_grad():
            for entries, key, values, shared in saved:
                there = next((one[called] for one, called in shared if one.get(called) is not None), None)
                if there is not None and there.shape == values.shape:
                    entries[key] = there
                if not values.is_meta:
                    entries[key].copy_(values)
        old.train(new.training)
        same_direction(new, old)

    return restore


def _bring(old: nn.Module, device: torch.device) -> None:
    """Move a module; what comes from the meta device is NaN."""
    tensors = [*old.parameters(), *old.buffers()]
    if not any(tensor.is_meta for tensor in tensors) or device.type == "meta":
        old.to(device)
        return
    old.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*old.parameters(), *old.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.fill_(torch.nan)


def _entries(module: nn.Module) -> list[dict[str, Any]]:
    """Give the dictionaries of parameters and buffers of a module and its parts."""
    return [entries for part in module.modules() for entries in (part._parameters, part._buffers)]


def _places(new: nn.Module, tensor: Tensor) -> list[tuple[dict[str, Any], str]]:
    """Find the places where a module has a tensor."""
    return [(entries, key) for entries in _entries(new) for key, there in entries.items() if there is tensor]


def _like(model: nn.Module, name: str, new: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Give device and dtype of a module, or of the nearest around it that has any."""
    around = [new]
    while name:
        name = name.rpartition(".")[0]
        around.append(model.get_submodule(name))
    for module in around:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype.is_floating_point:
                return tensor.device, tensor.dtype
    return None, None


def _flags(model: nn.Module, new: nn.Module) -> dict[nn.Parameter, bool]:
    """Return what is trained of a module, or of the model where it has no parameter."""
    return {p: p.requires_grad for p in [*new.parameters()] or model.parameters()}
