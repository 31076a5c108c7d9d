"""Measurements of layers in a forward and a backward pass: sizes, and which tensor each norm reads and returns."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.layer_stacks import Called, Stack, choose_stacks, find_candidates
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel
from normscope.torch_internals import in_backward, sequence_number


@dataclass(frozen=True, kw_only=True)
class DoubleNorm:
    """A norm whose input is the output of another norm."""

    first: str
    second: str


@dataclass(kw_only=True)
class LayerCall:
    """Measurements of one call of one layer; numbers stay on the device until they are read."""

    name: str
    module: nn.Module
    x: Tensor | None
    """Input, during the call."""
    links: Mapping[str, bool]
    """Whether the input depends on the previous call, by the candidate stacks that the layer belongs to."""
    activation_in: Tensor | float
    activation: Tensor | float = math.nan
    resemblance: float = 0.0
    common: float = 0.0
    """Share of the energy of the output that is common to all rows."""
    gradient: Tensor | float | None = None
    output: Tensor | None = None
    """Copy of the output, if it is kept."""
    norms: int = 0
    """Number of norms called inside."""
    pre: bool = False
    """Whether a norm reads the input."""
    post: bool = False
    """Whether a norm makes the output."""


@dataclass(kw_only=True)
class DepthWatch:
    """Recorded calls, from which :func:`~normscope.diagnostics.depth.profile.read_depth` computes profiles."""

    stacks: list[Stack]
    """Before :meth:`settle`, all candidates."""
    known: bool = False
    """Whether the stacks have been selected from the candidates."""
    calls: list[LayerCall] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """``("norm", name)``, ``("in", layer)`` and ``("out", layer)``, in order."""
    doubles: list[DoubleNorm] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    """Outputs of the calls of the last stack, if they are kept."""

    def last_calls(self) -> list[LayerCall]:
        """Return the calls of the last stack's layers."""
        return [call for call in self.calls if self.stacks and holds(self.stacks[-1], call.module)]

    def settle(self) -> None:
        """Select the stacks by the order of the calls, and discard all other calls and events."""
        if not self.known:
            chains = {stack.name: _chain(stack, self.calls) for stack in self.stacks}
            self.stacks, self.known = choose_stacks(self.stacks, chains), True
        self.calls = [call for call in self.calls if any(holds(stack, call.module) for stack in self.stacks)]
        names = {call.name for call in self.calls}
        self.events = [event for event in self.events if event[0] == "norm" or event[1] in names]
        self.outputs = [call.output for call in self.last_calls() if call.output is not None]


@contextmanager
def watch_depth(
    model: nn.Module,
    *,
    found: Sequence[NormInModel] | None = None,
    keep: bool = False,
    stacks: Sequence[Stack] | None = None,
) -> Iterator[DepthWatch]:
    """Measure the output of every layer of every stack in the forward and backward pass inside the block.

    Args:
        model: Any module.
        found: Its norms, if they are already known.
        keep: Whether to keep the outputs of the layers of the last stack.
        stacks: Its stacks, if they are already known; otherwise they are determined from the pass, which must run with
            gradients enabled.

    Yields:
        A record that is filled inside the block, to be read after the backward pass.
    """
    listed = find_norms(model)[0] if found is None else found
    candidates = find_candidates(model, listed) if stacks is None else stacks
    watch = DepthWatch(stacks=list(candidates), known=stacks is not None)
    layers = {id(layer): (name, layer) for stack in reversed(candidates) for name, layer in stack.layers}
    recorder = _Recorder(watch, candidates, layers.values(), keep=keep)
    with ExitStack() as hooks:
        for norm in listed:
            _hook(norm.module, norm.name, recorder.norm_in, recorder.norm_out, hooks)
        for name, layer in layers.values():
            _hook(layer, name, recorder.layer_in, recorder.layer_out, hooks)
        yield watch
    watch.settle()


class _Recorder:
    """Hooks that fill a :class:`DepthWatch` during a forward pass."""

    def __init__(
        self, watch: DepthWatch, candidates: Sequence[Stack], layers: Iterable[tuple[str, nn.Module]], *, keep: bool
    ) -> None:
        self.watch, self.keep = watch, keep
        # References to the outputs are kept: an address identifies a tensor only while the tensor lives.
        self.outputs: list[tuple[str, Tensor]] = []
        self.open_layers: list[LayerCall] = []
        # The names of the candidates that a layer belongs to, and the latest call in each.
        self.owners = {id(layer): [stack.name for stack in candidates if holds(stack, layer)] for _, layer in layers}
        self.latest: dict[str, tuple[Tensor | None, Tensor]] = {}

    def norm_in(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = _first_tensor([*inputs, *named.values()])
        self.watch.events.append(("norm", name))
        for call in self.open_layers:
            call.norms += 1
            if x is not None and call.x is not None and _same(x, call.x):
                call.pre = True
        before = next((first for first, z in self.outputs if x is not None and _same(x, z)), None)
        if before is not None and before != name:
            self.watch.doubles.append(DoubleNorm(first=before, second=name))

    def norm_out(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if (z := _first_tensor([output])) is not None:
            self.outputs.append((name, z.detach()))

    def layer_in(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = _first_tensor([*inputs, *named.values()])
        self.watch.events.append(("in", name))
        links = {
            owner: x is not None and owner in self.latest and _follows(x, *self.latest[owner])
            for owner in self.owners[id(module)]
        }
        given = None if x is None else x.detach()
        self.open_layers.append(LayerCall(name=name, module=module, x=given, links=links, activation_in=_size(x)))

    def layer_out(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self.open_layers.pop()
        self.watch.events.append(("out", name))
        z = _first_tensor([output])
        x, call.x = call.x, None
        if z is None:
            return
        self.latest.update(dict.fromkeys(self.owners[id(module)], (x, z)))
        call.resemblance = _resemblance(x, z)
        call.post = call.norms > 0 and bool(self.outputs) and _same(self.outputs[-1][1], z)
        call.activation, call.common = _size(z), common_share(z)
        call.output = z.detach().clone() if self.keep else None
        self.watch.calls.append(call)
        if z.requires_grad:
            z.register_hook(lambda gradient: setattr(call, "gradient", _size(gradient)))


def holds(stack: Stack, layer: nn.Module) -> bool:
    """Return whether a module is a layer of a stack."""
    return any(each is layer for _, each in stack.layers)


def _hook(module: nn.Module, name: str, before: Callable[..., None], after: Callable[..., None], to: ExitStack) -> None:
    def first(module: nn.Module, inputs: Any, named: Any) -> None:
        if not in_backward():
            before(name, module, inputs, named)

    def then(module: nn.Module, inputs: Any, output: Any) -> None:
        if not in_backward():
            after(name, module, inputs, output)

    to.callback(module.register_forward_pre_hook(first, with_kwargs=True).remove)
    to.callback(module.register_forward_hook(then).remove)


def _chain(stack: Stack, calls: Sequence[LayerCall]) -> list[Called]:
    return [Called(layer=call.module, linked=call.links[stack.name]) for call in calls if holds(stack, call.module)]


def _follows(x: Tensor, before: Tensor | None, z: Tensor) -> bool:
    """Return whether x depends on z.

    Without a graph, return whether it may: x has the shape of z and is not the input that z was computed from.
    """
    if x.grad_fn is None or z.grad_fn is None:
        return x.shape == z.shape and not (before is not None and _same(x, before))
    wanted, seen, left = z.grad_fn, {x.grad_fn}, [x.grad_fn]
    while left:
        node = left.pop()
        if node is wanted:
            return True
        # Nodes are numbered in order of creation: an older node than that of z cannot lead to it.
        new = {
            each
            for each, _ in node.next_functions
            if each is not None and each not in seen and sequence_number(each) >= sequence_number(wanted)
        }
        seen |= new
        left += new
    return False


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.dtype == other.dtype


def _first_tensor(values: Any) -> Tensor | None:
    """Return the first floating-point tensor in nested tuples, lists and mappings."""
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
    """Return the share of the energy common to all rows: |mean row|^2 divided by the mean of |row|^2."""
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
    """Reshape to ``[N, features]``; the features of 4-D feature maps are on axis 1."""
    wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    return wide.movedim(1, -1).reshape(-1, wide.shape[1]) if wide.dim() == 4 else wide.reshape(-1, wide.shape[-1])
