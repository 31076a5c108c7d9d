"""Replacements put in their places, and the undo, which follows what was done to the model since."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import ModuleInModel
from normscope.surgery.guards import disable_fast_path
from normscope.surgery.optimizer import exchange
from normscope.surgery.replacement import Replacement
from normscope.torch_internals import buffers_of, children_of, copy_backward_hook_kind, parameters_of


def install(
    model: nn.Module, built: Sequence[Replacement], optimizer: torch.optim.Optimizer | None = None
) -> tuple[Callable[[], None], list[str]]:
    """Put replacements in the places of norms or recurrent layers.

    Args:
        model: The model for which they were built.
        built: The replacements.
        optimizer: An optimizer whose parameters are exchanged accordingly.

    Returns:
        A function that undoes the installation, and notes on what else was changed. Installations at different places
        can be undone in any order.

    Raises:
        TypeError: If ``optimizer`` is not a ``torch.optim.Optimizer``.
        ValueError: If the optimizer's parameters cannot be exchanged. Nothing is changed then.
    """
    places = [(*place, one) for one in built for place in places_of(model, one.old)]
    exchanged = None
    for parent, child, one in places:
        children_of(parent)[child] = one.module
    try:
        restores = [remember(model, one.old.name, one.old.module, one.module) for one in built]
        if optimizer is not None:
            pairs = [
                (
                    dict(one.old.module.named_parameters(prefix=one.old.name)),
                    dict(one.module.named_parameters(prefix=one.old.name)),
                )
                for one in built
            ]
            exchanged = exchange(optimizer, pairs, _without(model, (one.module for one in built)))
    except BaseException:
        for parent, child, one in places:
            children_of(parent)[child] = one.old.module
        raise
    notes, restore_fast_path = disable_fast_path(model, {id(one.module) for one in built})
    undone = False

    def undo() -> None:
        nonlocal undone
        if undone:
            raise RuntimeError("this swap was undone already")
        for one in built:
            _check_installed(model, one)
        if exchanged is not None:
            exchanged.check()
        undone = True
        for restore in restores:
            restore()
        for one in built:
            for parent, child in places_of(model, one.old):
                children_of(parent)[child] = one.old.module
        restore_fast_path()
        if exchanged is not None:
            exchanged.undo({id(p) for p in model.parameters()})

    return undo, notes


def places_of(model: nn.Module, old: ModuleInModel) -> list[tuple[nn.Module, str]]:
    """Return the parents of a module, and its name in each.

    Args:
        model: Any module.
        old: A norm or recurrent layer of the model.
    """
    places = []
    for name in old.names:
        parent, _, child = name.rpartition(".")
        places.append((model.get_submodule(parent), child))
    return places


def _check_installed(model: nn.Module, one: Replacement) -> None:
    """Refuse to undo if a replacement is no longer in its places.

    Raises:
        RuntimeError: If another module, or no module, is in one of them.
    """
    for name in one.old.names:
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
    """Return the identities of the parameters that a model has outside of some of its parts."""
    leaving = {id(module) for part in parts for module in part.modules()}
    rest = (module for module in model.modules() if id(module) not in leaving)
    return {id(p) for module in rest for p in module.parameters(recurse=False)}


def remember(model: nn.Module, name: str, old: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Record the state of an old module when another has just taken its place.

    Tensors that the two share stay shared: if the new module has another object for one at the end (``to_empty``
    creates such), the old one gets that. Device, dtype, mode and ``requires_grad`` follow what was done to the new one,
    or to the model if the new one has no parameter.

    Args:
        model: Any module.
        name: Name of the module in the model.
        old: The module that was replaced.
        new: The replacement.

    Returns:
        A function that restores the values of the old module to the bit. A tensor on the meta device had no values: it
        is filled with NaN if it has left that device and the new module has no value for it.
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
            _move(old, device)
        if dtype is not None and dtype != start[1]:
            old.to(dtype)
        now = {p: flag for p, flag in _flags(model, new).items() if p in trained}
        if now and any(now.values()) != any(trained[p] for p in now):
            old.requires_grad_(any(now.values()))
        with torch.no_grad():
            for entries, key, values, shared in saved:
                there = next((tensors[key] for tensors, key in shared if tensors.get(key) is not None), None)
                if there is not None and there.shape == values.shape:
                    entries[key] = there
                if not values.is_meta:
                    entries[key].copy_(values)
        old.train(new.training)
        copy_backward_hook_kind(new, old)

    return restore


def _move(old: nn.Module, device: torch.device) -> None:
    """Move a module; tensors that come from the meta device are filled with NaN."""
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
    """Return the dictionaries of parameters and buffers of a module and its submodules."""
    return [entries for part in module.modules() for entries in (parameters_of(part), buffers_of(part))]


def _places(new: nn.Module, tensor: Tensor) -> list[tuple[dict[str, Any], str]]:
    """Return the dictionaries and keys under which a module has a tensor."""
    return [(entries, key) for entries in _entries(new) for key, there in entries.items() if there is tensor]


def _like(model: nn.Module, name: str, new: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return device and dtype of a module, or of the nearest parent that has a floating-point tensor."""
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
    """Return ``requires_grad`` of a module's parameters, or of the model's if the module has none."""
    return {p: p.requires_grad for p in [*new.parameters()] or model.parameters()}
