"""A model lent out for a measurement, and given back as it was, to the bit."""

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
    """Give a model, and the random states, back as they were when the block ends, also when it fails.

    Parameters, buffers (running moments), gradients, what is trained, the attributes and the mode of every module, and
    the random states of Python, NumPy and torch. Inside, the model works on copies of its parameters and buffers, so
    that nothing that a forward does to them in place, or puts in their place, reaches the model's own tensors. Hooks
    that stand on the model do run inside, as in any forward pass. What a forward changes within an attribute (a list
    that it appends to, a tensor that is neither parameter nor buffer) is not known here; lazy parameters stay made.

    Args:
        model: Any module.
        seed: Of torch's random state inside, so that dropout is the same in two measurements. None goes on from the
            state as it is, which two blocks in a row then share.

    Yields:
        Nothing. Gradients are None inside.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    # What is entered last comes back first, and each also where another fails.
    with ExitStack() as back:
        _lend(model, back)
        # In evaluation torch's transformer layers otherwise take a way around their norms.
        back.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        back.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 the global one is kept
        back.callback(random.setstate, random.getstate())
        back.enter_context(torch.random.fork_rng(sorted(device.index or 0 for device in devices)))
        if seed is not None:
            torch.manual_seed(seed)
        yield


def gradients_of(value: Tensor, model: nn.Module) -> dict[int, Tensor | None]:
    """Differentiate a scalar by everything that is trained, without a trace in ``grad``.

    Returns:
        By the ``id`` of the parameter; None where the scalar does not depend on it.
    """
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True)
    return {id(parameter): gradient for parameter, gradient in zip(wanted, gradients, strict=True)}


def draw_seed(generator: torch.Generator | None) -> int | None:
    """Draw the seed of a measurement; None without a generator."""
    return None if generator is None else int(torch.randint(2**62, (), generator=generator))


def _lend(model: nn.Module, back: ExitStack) -> None:
    """Put copies into a model, and write down how everything comes back."""
    lent: dict[int, Tensor] = {}
    for parameter in model.parameters():
        # An inference tensor cannot be written to, nor a lazy one copied.
        if not (is_lazy(parameter) or parameter.is_inference()):
            back.callback(_return_parameter, parameter, parameter.data, parameter.grad, parameter.requires_grad)
            parameter.data = parameter.data.clone()
        parameter.grad = None
    for module in model.modules():
        for table in (vars(module), parameters_of(module), children_of(module), buffers_of(module)):
            back.callback(_return_table, table, dict(table.items()))
        back.callback(_return_names, unsaved_buffers_of(module), set(unsaved_buffers_of(module)))
        for name, buffer in list(buffers_of(module).items()):
            if buffer is not None and not is_lazy(buffer):
                # One that stands in two places is one copy.
                if id(buffer) not in lent:
                    lent[id(buffer)] = buffer.detach().clone().requires_grad_(buffer.requires_grad)
                buffers_of(module)[name] = lent[id(buffer)]


def _return_parameter(parameter: nn.Parameter, data: Tensor, gradient: Tensor | None, trained: bool) -> None:
    # A gradient must fit the data that it is given to.
    parameter.grad = None
    parameter.data = data
    parameter.requires_grad_(trained)
    parameter.grad = gradient


def _return_table(table: Any, kept: dict[str, Any]) -> None:
    """Bind every name to what it was, and no other."""
    for name in [name for name, _ in table.items() if name not in kept]:
        del table[name]
    for name, value in kept.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _return_names(names: set[str], kept: set[str]) -> None:
    names.clear()
    names.update(kept)


_MACHINERY = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_DEEP = 6
"""So many objects within one another are copied: enough for books that a norm keeps, too few for a whole trainer."""


def copy_of(module: nn.Module, *, generator: torch.Generator | None = None) -> nn.Module:
    """Copy a module in float64 on the CPU, without its hooks.

    What its forward may write to is copied, too: every attribute, private ones as well, with what is in lists, tuples,
    dictionaries and sets and in the attributes of objects, six deep. Not covered, and shared with the module: other
    modules that it holds without having registered them, attributes of its class, globals, what lies in ``__slots__``
    or outside of Python, and what ``copy.copy`` refuses.

    Args:
        module: Small: every parameter and buffer is copied.
        generator: Draws other parameters, between a half and one and a half; without it they are the module's own,
            and those that have no numbers (the meta device) are drawn as well.

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
    buffers = {name: None if b is None else number(b, fresh=False) for name, b in module._buffers.items()}
    known |= {id(p): parameters[name] for name, p in module._parameters.items() if p is not None}
    known |= {id(b): buffers[name] for name, b in module._buffers.items() if b is not None}
    twin._parameters, twin._buffers = parameters, buffers
    twin._modules = {
        name: None if child is None else _module(child, fresh, draw, known) for name, child in module._modules.items()
    }
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            vars(twin)[name] = type(value)()
        elif name not in _MACHINERY:
            vars(twin)[name] = _apart(value, known, _DEEP)
    return twin


def _apart(value: Any, known: dict[int, Any], deep: int) -> Any:
    """Copy what may be written to; give the copy for what was copied already, and the thing itself for all else."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, MethodType):
        # A method of the module itself is to be one of the copy.
        return MethodType(value.__func__, known[id(value.__self__)]) if id(value.__self__) in known else value
    if isinstance(value, nn.Module | type) or not deep:
        return value
    if isinstance(value, Tensor):
        known[id(value)] = value if value.is_meta else value.detach().to("cpu", copy=True)
        return known[id(value)]
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if type(value) is tuple:
        return tuple(_apart(item, known, deep - 1) for item in value)
    try:
        twin = copy.copy(value)
    except Exception:
        # A lock, a file, a generator: whatever its own code says of being copied.
        return value
    if twin is value:
        return value
    known[id(value)] = twin
    if isinstance(twin, dict):
        for key, item in value.items():
            twin[key] = _apart(item, known, deep - 1)
    elif isinstance(twin, list | deque):
        for place, item in enumerate(value):
            twin[place] = _apart(item, known, deep - 1)
    held = getattr(twin, "__dict__", None)
    if isinstance(held, dict) and held is not getattr(value, "__dict__", None):
        held.update({name: _apart(item, known, deep - 1) for name, item in held.items()})
    return twin
