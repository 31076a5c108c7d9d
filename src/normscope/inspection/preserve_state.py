"""Measurements that leave a model and the random states as they were, to the bit, and copies of small modules."""

import copy
import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normscope.torch_internals import buffers_of, children_of, parameters_of, unsaved_buffers_of


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Restore a model and the random states when the block ends, even if it raises.

    Restored are parameters, buffers (running moments), gradients, ``requires_grad``, the attributes and the mode of
    every module, and the random states of Python, NumPy and torch. Inside, the model works on copies of its parameters
    and buffers, so that in-place changes do not reach the model's tensors. Hooks on the model run inside, as in any
    forward pass. Changes inside an attribute (a list that a forward appends to, a tensor that is neither parameter nor
    buffer) are not undone; lazy parameters stay materialized.

    Args:
        model: Any module.
        seed: Seed of torch's random state inside, so that dropout is the same in two measurements. With None the
            current state is used, and two blocks in a row see the same one.

    Yields:
        None. Gradients are None inside.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    # Restored in reverse order, each even if another fails.
    with ExitStack() as restore:
        _replace_by_copies(model, restore)
        # In evaluation torch's transformer layers otherwise bypass their norms.
        restore.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        restore.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 the global state is restored
        restore.callback(random.setstate, random.getstate())
        restore.enter_context(torch.random.fork_rng(sorted(device.index or 0 for device in devices)))
        if seed is not None:
            torch.manual_seed(seed)
        yield


def gradients_of(value: Tensor, model: nn.Module) -> dict[int, Tensor | None]:
    """Differentiate a scalar by all trainable parameters, without changing ``grad``.

    Returns:
        From the ``id`` of a parameter to its gradient; None if the scalar does not depend on it.
    """
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True)
    return {id(parameter): gradient for parameter, gradient in zip(wanted, gradients, strict=True)}


def draw_seed(generator: torch.Generator | None) -> int | None:
    """Draw the seed of a measurement; return None without a generator."""
    return None if generator is None else int(torch.randint(2**62, (), generator=generator))


def _replace_by_copies(model: nn.Module, restore: ExitStack) -> None:
    """Replace the tensors of a model by copies, and register how everything is restored."""
    copies: dict[int, Tensor] = {}
    for parameter in model.parameters():
        # An inference tensor cannot be written to, and a lazy one cannot be copied.
        if not (is_lazy(parameter) or parameter.is_inference()):
            restore.callback(_return_parameter, parameter, parameter.data, parameter.grad, parameter.requires_grad)
            parameter.data = parameter.data.clone()
        parameter.grad = None
    for module in model.modules():
        for table in (vars(module), parameters_of(module), children_of(module), buffers_of(module)):
            restore.callback(_return_table, table, dict(table.items()))
        restore.callback(_return_names, unsaved_buffers_of(module), set(unsaved_buffers_of(module)))
        for name, buffer in list(buffers_of(module).items()):
            if buffer is not None and not is_lazy(buffer):
                # A buffer with two names is copied once.
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone().requires_grad_(buffer.requires_grad)
                buffers_of(module)[name] = copies[id(buffer)]


def _return_parameter(parameter: nn.Parameter, data: Tensor, gradient: Tensor | None, trained: bool) -> None:
    # A gradient must match its data when it is assigned.
    parameter.grad = None
    parameter.data = data
    parameter.requires_grad_(trained)
    parameter.grad = gradient


def _return_table(table: Any, saved: dict[str, Any]) -> None:
    """Restore the entries of a dictionary, and delete all others."""
    for name in [name for name, _ in table.items() if name not in saved]:
        del table[name]
    for name, value in saved.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _return_names(names: set[str], saved: set[str]) -> None:
    names.clear()
    names.update(saved)


_MACHINERY = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_DEEP = 6
"""Depth to which nested objects are copied: enough for the records of a norm, too little for a whole trainer."""


def copy_of(module: nn.Module, *, generator: torch.Generator | None = None) -> nn.Module:
    """Copy a module in float64 on the CPU, without its hooks.

    Attributes that its forward may write to are copied as well, with the contents of lists, tuples, dictionaries, sets
    and objects to a depth of six. Shared with the module are other modules that it has not registered, attributes of
    its class, globals, the contents of ``__slots__``, objects outside of Python, and those that ``copy.copy`` refuses.

    Args:
        module: A small module: every parameter and buffer is copied.
        generator: Draws other parameters, between 0.5 and 1.5. Without it the values of the module are used; parameters
            on the meta device, which have no values, are drawn in any case.

    Returns:
        A module of the same class, in the same mode.
    """
    return _module(module, generator is not None, generator or torch.Generator().manual_seed(0), {})


def _module(module: nn.Module, fresh: bool, draw: torch.Generator, known: dict[int, Any]) -> nn.Module:
    if id(module) in known:
        return known[id(module)]
    twin = known[id(module)] = copy.copy(module)

    def number(tensor: Tensor, fresh: bool) -> Tensor:
        if fresh or tensor.is_meta:
            return torch.rand(tensor.shape, generator=draw, dtype=torch.float64, device="cpu") + 0.5
        wide = tensor.detach().to("cpu", torch.float64 if tensor.is_floating_point() else tensor.dtype)
        return wide.clone()

    parameters = {name: None if p is None else nn.Parameter(number(p, fresh)) for name, p in module._parameters.items()}
    buffers = {name: None if b is None else number(b, fresh=False) for name, b in buffers_of(module).items()}
    known |= {id(p): parameters[name] for name, p in module._parameters.items() if p is not None}
    known |= {id(b): buffers[name] for name, b in buffers_of(module).items() if b is not None}
    twin._parameters, twin._buffers = parameters, buffers
    twin._modules = {
        name: None if child is None else _module(child, fresh, draw, known) for name, child in module._modules.items()
    }
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            vars(twin)[name] = type(value)()
        elif name not in _MACHINERY:
            vars(twin)[name] = _copied(value, known, _DEEP)
    return twin


def _copied(value: Any, known: dict[int, Any], deep: int) -> Any:
    """Copy a mutable value once; return values that cannot be copied as they are."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, MethodType):
        # A method of the module itself becomes a method of the copy.
        return MethodType(value.__func__, known[id(value.__self__)]) if id(value.__self__) in known else value
    if isinstance(value, nn.Module | type) or not deep:
        return value
    if isinstance(value, Tensor):
        known[id(value)] = value if value.is_meta else value.detach().to("cpu", copy=True)
        return known[id(value)]
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if type(value) is tuple:
        return tuple(_copied(item, known, deep - 1) for item in value)
    try:
        twin = copy.copy(value)
    except Exception:
        # A lock, a file, a generator: its code may raise anything.
        return value
    if twin is value:
        return value
    known[id(value)] = twin
    if isinstance(twin, dict):
        for key, item in value.items():
            twin[key] = _copied(item, known, deep - 1)
    elif isinstance(twin, list | deque):
        for place, item in enumerate(value):
            twin[place] = _copied(item, known, deep - 1)
    attributes = getattr(twin, "__dict__", None)
    if isinstance(attributes, dict) and attributes is not getattr(value, "__dict__", None):
        attributes.update({name: _copied(item, known, deep - 1) for name, item in attributes.items()})
    return twin
