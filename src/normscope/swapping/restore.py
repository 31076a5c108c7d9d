"""An old norm made what it was, where the model is now."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normscope.torch_internals import buffers_of, copy_backward_hook_kind, parameters_of


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
        copy_backward_hook_kind(new, old)

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
    return [entries for part in module.modules() for entries in (parameters_of(part), buffers_of(part))]


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
    """Tell what is trained of a module, or of the model where it has no parameter."""
    return {p: p.requires_grad for p in [*new.parameters()] or model.parameters()}
