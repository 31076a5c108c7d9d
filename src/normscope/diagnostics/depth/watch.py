"""What a forward and a backward pass tell about layers: sizes, and which norm reads and gives out which tensor."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.layer_stacks import Called, Stack, choose_stacks, find_candidates
from normscope.inspection.norms_in import NormIn, find_norms


@dataclass(frozen=True, kw_only=True)
class DoubleNorm:
    """A norm whose input is another one's output."""

    first: str
    second: str


@dataclass(kw_only=True)
class DepthWatch:
    """What was seen; :func:`~normscope.diagnostics.depth.profile.read_depth` makes profiles of it."""

    stacks: list[Stack]
    """Before :meth:`settle` all that may be one."""
    known: bool = False
    """Whether the stacks are chosen."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """``("norm", name)``, ``("in", layer)`` and ``("out", layer)`` in their order."""
    doubles: list[DoubleNorm] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    """What the calls of the last stack put out, if it was to be kept."""

    def last_calls(self) -> list[dict[str, Any]]:
        """The calls of the last stack's layers."""
        return [call for call in self.calls if self.stacks and holds(self.stacks[-1], call["module"])]

    def settle(self) -> None:
        """Choose the stacks by what was called behind what, and forget the rest; once."""
        if not self.known:
            chains = {stack.name: _chain(stack, self.calls) for stack in self.stacks}
            self.stacks, self.known = choose_stacks(self.stacks, chains), True
        self.calls = [call for call in self.calls if any(holds(stack, call["module"]) for stack in self.stacks)]
        names = {call["name"] for call in self.calls}
        self.events = [event for event in self.events if event[0] == "norm" or event[1] in names]
        self.outputs = [call["output"] for call in self.last_calls() if call["output"] is not None]


@contextmanager
def watch_depth(
    model: nn.Module,
    *,
    found: Sequence[NormIn] | None = None,
    keep: bool = False,
    stacks: Sequence[Stack] | None = None,
) -> Iterator[DepthWatch]:
    """Measure, in the forward and backward pass inside, what every layer of every stack gives out.

    Args:
        model: Any module.
        found: Its norms, where they are known.
        keep: Whether to keep what the layers of the last stack put out.
        stacks: Its stacks, where they are known; else they are told from the pass, which then needs gradients on.

    Yields:
        What is filled inside; to be read after the backward pass.
    """
    listed = find_norms(model)[0] if found is None else found
    candidates = find_candidates(model, listed) if stacks is None else stacks
    watch = DepthWatch(stacks=list(candidates), known=stacks is not None)
    # Held for the length of the pass: an address is only a name while its tensor lives.
    outputs: list[tuple[str, Tensor]] = []
    open_layers: list[dict[str, Any]] = []
    layers = {id(layer): (name, layer) for stack in reversed(candidates) for name, layer in stack.layers}
    # The candidates that a layer is in, and the last call in each.
    owners = {key: [stack.name for stack in candidates if holds(stack, layer)] for key, (_, layer) in layers.items()}
    latest: dict[str, tuple[Tensor | None, Tensor]] = {}
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
            links = {
                owner: x is not None and owner in latest and _follows(x, *latest[owner]) for owner in owners[id(module)]
            }
            open_layers.append(started | {"links": links, "activation_in": _size(x), "post": False, "gradient": None})

        def layer_out(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            call = open_layers.pop()
            watch.events.append(("out", name))
            z = _first_tensor([output])
            x, call["x"] = call["x"], None
            if z is None:
                return
            latest.update(dict.fromkeys(owners[id(module)], (x, z)))
            call["resemblance"] = _resemblance(x, z)
            call["post"] = call["norms"] > 0 and bool(outputs) and _same(outputs[-1][1], z)
            call["activation"], call["common"] = _size(z), common_share(z)
            call["output"] = z.detach().clone() if keep else None
            watch.calls.append(call)
            if z.requires_grad:
                z.register_hook(lambda gradient: call.__setitem__("gradient", _size(gradient)))

        for norm in listed:
            _hook(norm.module, norm.name, norm_in, norm_out, hooks)
        for name, layer in layers.values():
            _hook(layer, name, layer_in, layer_out, hooks)
        yield watch
    watch.settle()


def in_backward() -> bool:
    """Return whether a backward pass is running: what it calls is computed again."""
    return torch._C._current_graph_task_id() != -1


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


def _chain(stack: Stack, calls: Sequence[Mapping[str, Any]]) -> list[Called]:
    return [
        Called(layer=call["module"], linked=call["links"][stack.name]) for call in calls if holds(stack, call["module"])
    ]


def _follows(x: Tensor, before: Tensor | None, z: Tensor) -> bool:
    """Return whether x depends on z; without a graph, whether it may: of its shape, and not what its maker read."""
    if x.grad_fn is None or z.grad_fn is None:
        return x.shape == z.shape and not (before is not None and _same(x, before))
    wanted, seen, left = z.grad_fn, {x.grad_fn}, [x.grad_fn]
    while left:
        node = left.pop()
        if node is wanted:
            return True
        # Numbered as they were made: what is older than z's cannot lead to it.
        new = {
            each
            for each, _ in node.next_functions
            if each is not None and each not in seen and each._sequence_nr() >= wanted._sequence_nr()
        }
        seen |= new
        left += new
    return False


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
