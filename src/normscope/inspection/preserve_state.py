"""Measurements that leave a model and the random states as they were, to the bit, and copies of small modules."""

import copy
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normscope.torch_internals import buffers_of, children_of, gradient_hooks_of, parameters_of, set_tables


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None, copies: bool = True) -> Iterator[None]:
    """Restore a model and the random states when the block ends, even if it raises.

    Restored are parameters, buffers (running moments), gradients, ``requires_grad``, the class, the attributes, the
    mode and all hooks of every module, the hooks and attributes of every parameter, and the random states of Python,
    NumPy and torch. In attributes, lists, dictionaries, sets, tensors and random generators are restored to a depth of
    six; other objects are not. Inside, the model works on copies of its parameters and buffers, so that in-place
    changes do not reach the model's tensors. Hooks on the model run inside, as in any forward pass.

    Args:
        model: Any module without lazy parameters and buffers.
        seed: Seed of torch's random state inside, so that dropout is the same in two measurements. With None the
            current state is used, and two blocks in a row see the same one.
        copies: Whether the parameters are copied; without copies their in-place changes stay.

    Yields:
        None. Gradients are None inside.

    Raises:
        ValueError: If a parameter or a buffer is lazy: its first pass decides its shape, which cannot be undone.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"{type(model).__name__} has lazy parameters or buffers: run a batch through it first")
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    # Restored in reverse order, each even if another fails.
    with ExitStack() as restore:
        _replace_by_copies(model, restore, copies)
        # In evaluation torch's transformer layers otherwise bypass their norms.
        restore.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        restore.enter_context(random_states_kept(sorted(device.index or 0 for device in devices)))
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def random_states_kept(devices: Sequence[int] | None = None) -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch when the block, or a function with this decorator, ends.

    Args:
        devices: Indices of the GPUs whose states are restored; None for all.
    """
    with ExitStack() as restore:
        restore.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 the global state is restored
        restore.callback(random.setstate, random.getstate())
        restore.enter_context(torch.random.fork_rng(devices))
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


def _replace_by_copies(model: nn.Module, restore: ExitStack, parameters_too: bool) -> None:
    """Replace the tensors of a model by copies, and register how everything is restored."""
    copies: dict[int, Tensor] = {}
    modules, parameters = list(model.modules()), list(model.parameters())
    remembered = {id(thing) for thing in (*modules, *parameters, *model.buffers())}
    for parameter in parameters:
        restore.callback(_return_table, vars(parameter), dict(vars(parameter)))
        restore.callback(_return_hooks, parameter, [dict(hooks or {}) for hooks in gradient_hooks_of(parameter)])
        # An inference tensor cannot be written to.
        if not parameter.is_inference():
            restore.callback(_return_parameter, parameter, parameter.data, parameter.grad, parameter.requires_grad)
            parameter.data = parameter.data.clone() if parameters_too else parameter.data
        parameter.grad = None
    for module in modules:
        _remember(vars(module), restore, remembered, _DEEP)
        restore.callback(setattr, module, "__class__", type(module))
        restore.callback(_return_table, buffers_of(module), dict(buffers_of(module).items()))
        for name, buffer in list(buffers_of(module).items()):
            if buffer is not None:
                # A buffer with two names is copied once.
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone().requires_grad_(buffer.requires_grad)
                buffers_of(module)[name] = copies[id(buffer)]


def _remember(value: Any, restore: ExitStack, remembered: set[int], deep: int) -> None:
    """Register how a value that can be changed in place is restored, and the values in it."""
    if id(value) in remembered or not deep:
        return
    remembered.add(id(value))
    if isinstance(value, dict):
        restore.callback(_return_table, value, dict(value))
    elif isinstance(value, list | deque | set):
        restore.callback(_return_items, value, copy.copy(value))
    elif isinstance(value, torch.Generator | np.random.RandomState):
        restore.callback(value.set_state, value.get_state())  # pyright: ignore[reportArgumentType]
    elif isinstance(value, random.Random):
        restore.callback(value.setstate, value.getstate())
    elif isinstance(value, np.random.Generator):
        restore.callback(setattr, value.bit_generator, "state", value.bit_generator.state)
    elif type(value) is Tensor and value.layout == torch.strided and not (value.is_inference() or value.is_meta):
        restore.callback(_return_values, value, value.detach().clone())
    if isinstance(value, dict | list | deque | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _remember(item, restore, remembered, deep - 1)


def _return_parameter(parameter: nn.Parameter, data: Tensor, gradient: Tensor | None, trained: bool) -> None:
    # A gradient must match its data when it is assigned.
    parameter.grad = None
    parameter.data = data
    parameter.requires_grad_(trained)
    parameter.grad = gradient


def _return_hooks(parameter: nn.Parameter, saved: list[dict[Any, Any]]) -> None:
    for hooks, before in zip(gradient_hooks_of(parameter), saved, strict=True):
        if hooks is not None:
            _return_table(hooks, before)


def _return_table(table: Any, saved: dict[Any, Any]) -> None:
    """Restore the entries of a dictionary and their order, and delete all others."""
    names = [name for name, _ in table.items()]
    if names != list(saved):
        for name in names:
            del table[name]
    for name, value in saved.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _return_items(items: Any, saved: Any) -> None:
    """Restore the items of a list, a deque or a set."""
    if [id(item) for item in items] != [id(item) for item in saved]:
        items.clear()
        items.update(saved) if isinstance(items, set) else items.extend(saved)


def _return_values(tensor: Tensor, saved: Tensor) -> None:
    """Restore the values of a tensor that was written to in place."""
    if tensor.shape != saved.shape:
        tensor.data = saved
    elif not torch.equal(tensor, saved):
        tensor.data.copy_(saved)


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

    old_parameters, old_buffers = parameters_of(module), buffers_of(module)
    parameters = {name: None if p is None else nn.Parameter(number(p, fresh)) for name, p in old_parameters.items()}
    buffers = {name: None if b is None else number(b, fresh=False) for name, b in old_buffers.items()}
    known |= {id(p): parameters[name] for name, p in old_parameters.items() if p is not None}
    known |= {id(b): buffers[name] for name, b in old_buffers.items() if b is not None}
    children = {
        name: None if child is None else _module(child, fresh, draw, known)
        for name, child in children_of(module).items()
    }
    set_tables(twin, parameters, buffers, children)
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
