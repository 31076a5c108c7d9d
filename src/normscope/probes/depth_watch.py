"""What a forward and a backward pass tell about layers: sizes, and which norm reads and gives out which tensor."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.probes.norms_in import NormIn, find_norms
from normscope.probes.stacks import Stack, find_stacks


@dataclass(frozen=True, kw_only=True)
class DoubleNorm:
    """A norm whose input is another one's output."""

    first: str
    second: str


@dataclass(kw_only=True)
class DepthWatch:
    """What was seen; :func:`~normscope.probes.depth.read_depth` makes profiles of it."""

    stacks: list[Stack]
    calls: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """``("norm", name)``, ``("in", layer)`` and ``("out", layer)`` in their order."""
    doubles: list[DoubleNorm] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    """What the layers of the last stack put out, if it was to be kept."""


@contextmanager
def watch_depth(model: nn.Module, *, found: Sequence[NormIn] | None = None, keep: bool = False) -> Iterator[DepthWatch]:
    """Measure, in the forward and backward pass inside, what every layer of every stack gives out.

    Args:
        model: Any module.
        found: Its norms, where they are known.
        keep: Whether to keep what the layers of the last stack put out.

    Yields:
        What is filled inside; to be read after the backward pass.
    """
    listed = find_norms(model)[0] if found is None else found
    watch = DepthWatch(stacks=find_stacks(model, listed))
    # Held for the length of the pass: an address is only a name while its tensor lives.
    outputs: list[tuple[str, Tensor]] = []
    open_layers: list[dict[str, Any]] = []
    last = {name for name, _ in watch.stacks[-1].layers} if watch.stacks else set()
    with ExitStack() as hooks:

        def norm_in(name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = _first_tensor([*inputs, *named.values()])
            watch.events.append(("norm", name))
            for call in open_layers:
                call["norms"] += 1
                if x is not None and call["x"] is not None and _same(x, call["x"]):
                    call["pre"] = True
            before = next((first for first, z in outputs if x is not None and _same(x, z)), None)
            if before is not None and before != name:
                watch.doubles.append(DoubleNorm(first=before, second=name))

        def norm_out(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            if (z := _first_tensor([output])) is not None:
                outputs.append((name, z.detach()))

        def layer_in(name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = _first_tensor([*inputs, *named.values()])
            watch.events.append(("in", name))
            started = {"name": name, "module": module, "x": None if x is None else x.detach(), "norms": 0, "pre": False}
            open_layers.append(started | {"activation_in": _size(x), "post": False, "gradient": None})

        def layer_out(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            call = open_layers.pop()
            watch.events.append(("out", name))
            z = _first_tensor([output])
            x, call["x"] = call["x"], None
            if z is None:
                return
            call["resemblance"] = _resemblance(x, z)
            call["post"] = call["norms"] > 0 and bool(outputs) and _same(outputs[-1][1], z)
            call["activation"], call["common"] = _size(z), common_share(z)
            watch.calls.append(call)
            if keep and name in last:
                watch.outputs.append(z.detach().clone())
            if z.requires_grad:
                z.register_hook(lambda gradient: call.__setitem__("gradient", _size(gradient)))

        for norm in listed:
            _hook(norm.module, norm.name, norm_in, norm_out, hooks)
        for stack in watch.stacks:
            for name, layer in stack.layers:
                _hook(layer, name, layer_in, layer_out, hooks)
        yield watch


def _hook(module: nn.Module, name: str, before: Callable[..., None], after: Callable[..., None], to: ExitStack) -> None:
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, named: before(name, m, inputs, named), with_kwargs=True),
        module.register_forward_hook(lambda m, inputs, output: after(name, m, inputs, output)),
    ]
    for handle in handles:
        to.callback(handle.remove)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.dtype == other.dtype


def _first_tensor(values: Any) -> Tensor | None:
    """Return the first floating tensor in an output, however it is packed."""
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, tuple | list | Mapping) and (inner := _first_tensor(value)) is not None:
            return inner
    return None


def _size(tensor: Tensor | None) -> Tensor | float:
    if tensor is None or not tensor.numel():
        return math.nan
    wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    return wide.norm() / wide.numel() ** 0.5


def common_share(tensor: Tensor) -> float:
    """Return the share of the energy that all rows have in common: |mean row|^2 over the mean of |row|^2."""
    rows = _positions(tensor)
    whole = rows.square().sum(-1).mean()
    return float(rows.mean(0).square().sum() / whole) if whole > 0 else 0.0


def _resemblance(x: Tensor | None, z: Tensor) -> float:
    if x is None or x.shape != z.shape:
        return 0.0
    one, other = (rows - rows.mean(0) for rows in (_positions(x), _positions(z)))
    lengths = float(one.norm() * other.norm())
    return float((one * other).sum()) / lengths if lengths > 0 else 0.0


def _positions(tensor: Tensor) -> Tensor:
    """Reshape to ``[N, features]``; feature maps have their features on axis 1."""
    wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    return wide.movedim(1, -1).reshape(-1, wide.shape[1]) if wide.dim() == 4 else wide.reshape(-1, wide.shape[-1])
