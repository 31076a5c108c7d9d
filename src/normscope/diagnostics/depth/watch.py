"""Measurements of layers in a forward and a backward pass: sizes, and which tensor each norm reads and returns."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.layer_stacks import Called, Stack, choose_stacks, find_candidates
from normscope.inspection.find import find_norms, within_recurrent
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
    place: int
    """Number of the call among all."""
    node: Any
    """Node of the autograd graph that made the input."""
    streams: dict[str, int]
    """Number of the stream that it continues or begins, by the candidate stacks that the layer belongs to."""
    direct: set[str]
    """Those of them in which its input is the end of the stream itself."""
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


@dataclass(frozen=True, kw_only=True)
class Event:
    """The call of a norm, or the beginning or the end of that of a layer."""

    what: Literal["norm", "in", "out"]
    name: str
    node: Any
    """Node of the autograd graph that made the input, at the end of a layer the output; None without a graph."""
    call: LayerCall | None = None
    """The call of the layer."""


@dataclass(kw_only=True)
class DepthWatch:
    """Recorded calls, from which :func:`~normscope.diagnostics.depth.profile.read_depth` computes profiles."""

    stacks: list[Stack]
    """Before :meth:`settle`, all candidates."""
    known: bool = False
    """Whether the stacks have been selected from the candidates."""
    calls: list[LayerCall] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    doubles: list[DoubleNorm] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    """Outputs of the calls of the stack that ran last, if they are kept."""

    def last_calls(self) -> list[LayerCall]:
        """Return the calls of the layers of the stack that ran last."""
        return [call for call in self.calls if self.stacks and holds(self.stacks[-1], call.module)]

    def settle(self) -> None:
        """Select the stacks by the order of the calls, and discard all other calls and events."""
        if not self.known:
            chains = {stack.name: _chain(stack, self.calls) for stack in self.stacks}
            self.stacks, self.known = choose_stacks(self.stacks, chains), True
        self.calls = [call for call in self.calls if any(holds(stack, call.module) for stack in self.stacks)]
        names = {call.name for call in self.calls}
        self.events = [event for event in self.events if event.what == "norm" or event.name in names]
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
    inside = within_recurrent(model)
    stepped = {norm.name for norm in listed if id(norm.module) in inside}
    recorder = _Recorder(watch, candidates, layers.values(), stepped, keep=keep)
    with ExitStack() as hooks:
        for norm in listed:
            _hook(norm.module, norm.name, recorder.norm_in, recorder.norm_out, hooks)
        for name, layer in layers.values():
            _hook(layer, name, recorder.layer_in, recorder.layer_out, hooks)
        yield watch
    watch.settle()


_MOST_ENDS = 16
"""Number of parallel streams of one candidate that are followed."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """The latest call of a stream."""

    x: Tensor | None
    z: Tensor


class _Recorder:
    """Hooks that fill a :class:`DepthWatch` during a forward pass."""

    def __init__(
        self,
        watch: DepthWatch,
        candidates: Sequence[Stack],
        layers: Iterable[tuple[str, nn.Module]],
        stepped: Collection[str],
        *,
        keep: bool,
    ) -> None:
        self.watch, self.keep = watch, keep
        # Norms inside recurrent layers, which run at every step on what is no output of another norm.
        self.stepped = stepped
        # References to the outputs are kept: an address identifies a tensor only while the tensor lives.
        self.outputs: list[tuple[str, Tensor]] = []
        self.open_layers: list[LayerCall] = []
        # The names of the candidates that a layer belongs to, and the ends of the streams of each.
        self.owners = {id(layer): [stack.name for stack in candidates if holds(stack, layer)] for _, layer in layers}
        self.ends: dict[str, dict[int, _End]] = {stack.name: {} for stack in candidates}
        self.begun = 0

    def norm_in(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = _first_tensor([*inputs, *named.values()])
        self.watch.events.append(Event(what="norm", name=name, node=None if x is None else x.grad_fn))
        for call in self.open_layers:
            call.norms += 1
            if x is not None and call.x is not None and _same(x, call.x):
                call.pre = True
        if name in self.stepped:
            return
        before = next((first for first, z in self.outputs if x is not None and _same(x, z)), None)
        if before is not None and before != name:
            self.watch.doubles.append(DoubleNorm(first=before, second=name))

    def norm_out(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if name not in self.stepped and (z := _first_tensor([output])) is not None:
            self.outputs.append((name, z.detach()))

    def layer_in(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = _first_tensor([*inputs, *named.values()])
        given, node = (None, None) if x is None else (x.detach(), x.grad_fn)
        self.begun += 1
        owners = {owner: self.ends[owner] for owner in self.owners[id(module)]}
        direct = {
            owner for owner, ends in owners.items() if x is not None and any(_same(x, end.z) for end in ends.values())
        }
        streams = {owner: self._stream(x, ends) for owner, ends in owners.items()}
        call = LayerCall(
            name=name,
            module=module,
            x=given,
            place=self.begun,
            node=node,
            streams=streams,
            direct=direct,
            activation_in=_size(x),
        )
        self.open_layers.append(call)
        self.watch.events.append(Event(what="in", name=name, node=node, call=call))

    def _stream(self, x: Tensor | None, ends: dict[int, _End]) -> int:
        """Return the number of the stream that an input continues, or a new one, and close those that join it."""
        reached = [] if x is None else _ends_before(x, ends)
        for number in reached[1:]:
            del ends[number]
        return reached[0] if reached else self.begun

    def layer_out(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self.open_layers.pop()
        z = _first_tensor([output])
        self.watch.events.append(Event(what="out", name=name, node=None if z is None else z.grad_fn, call=call))
        x, call.x = call.x, None
        if z is None:
            return
        for owner, number in call.streams.items():
            ends = self.ends[owner]
            ends.pop(number, None)
            ends[number] = _End(x=x, z=z)
            if len(ends) > _MOST_ENDS:
                del ends[next(iter(ends))]
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
    return [
        Called(
            name=call.name,
            layer=call.module,
            stream=call.streams[stack.name],
            place=call.place,
            direct=stack.name in call.direct,
        )
        for call in calls
        if holds(stack, call.module)
    ]


def _ends_before(x: Tensor, ends: Mapping[int, _End]) -> list[int]:
    """Return the numbers of the streams that x depends on, the nearest first.

    Without a graph, return the latest stream if x may depend on it: x has the shape of its end and is not the input
    that the end was computed from.
    """
    same = [number for number, end in ends.items() if _same(x, end.z)]
    if x.grad_fn is None or all(end.z.grad_fn is None for end in ends.values()):
        latest = [(number, end) for number, end in [*ends.items()][-1:] if x.shape == end.z.shape]
        return same or [number for number, end in latest if end.x is None or not _same(x, end.x)]
    by_node = {end.z.grad_fn: number for number, end in ends.items() if end.z.grad_fn is not None}
    return list(dict.fromkeys([*same, *(by_node[node] for node in nodes_before(x.grad_fn, by_node, by_node))]))


def nodes_before(node: Any, wanted: Collection[Any], walls: Collection[Any]) -> Iterator[Any]:
    """Yield the nodes of an autograd graph that a node depends on, or is, among those wanted, the nearest first.

    Args:
        node: Where to begin.
        wanted: The nodes to look for.
        walls: Nodes that are not gone beyond.
    """
    # Nodes are numbered in order of creation: a node that is older than all wanted ones cannot lead to them.
    oldest = min(map(sequence_number, wanted), default=0)
    left, seen = deque([node]), {node}
    while left and wanted:
        node = left.popleft()
        if node in wanted:
            yield node
        if node in walls:
            continue
        for each, _ in node.next_functions:
            if each is not None and each not in seen and sequence_number(each) >= oldest:
                seen.add(each)
                left.append(each)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.dtype == other.dtype


def _first_tensor(values: Any) -> Tensor | None:
    """Return the first floating-point tensor in nested tuples, lists and mappings, but not a number such as a loss."""
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
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
