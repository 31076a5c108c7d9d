"""A norm copied apart from its model, in float64, to be run without a trace."""

import copy
from collections import deque
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from normscope.torch_internals import buffers_of, children_of, parameters_of, set_tables

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

    parameters = {
        name: None if p is None else nn.Parameter(number(p, fresh)) for name, p in parameters_of(module).items()
    }
    buffers = {name: None if b is None else number(b, fresh=False) for name, b in buffers_of(module).items()}
    known |= {id(p): parameters[name] for name, p in parameters_of(module).items() if p is not None}
    known |= {id(b): buffers[name] for name, b in buffers_of(module).items() if b is not None}
    children = {
        name: None if child is None else _module(child, fresh, draw, known)
        for name, child in children_of(module).items()
    }
    set_tables(twin, parameters, buffers, children)
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
