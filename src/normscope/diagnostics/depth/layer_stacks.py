"""Stacks of layers, the depth of a model, found without knowledge of its architecture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from normscope.inspection.norm_in_model import NormInModel
from normscope.torch_internals import children_of

_CONTAINERS = (nn.ModuleList, nn.Sequential)
_TABLES = (nn.Embedding, nn.EmbeddingBag)

LINKED = 0.5
"""Share of a stack's calls that must read the output of the call before; more than this is needed.

It is one of two for the three linear maps of a gated perceptron, one of three for the four maps of attention, and zero
for heads or experts. In a stack it is all calls, or two of three if a loss calls a stack of two layers twice.
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers of one container, in its order."""

    name: str
    """Name of the container; empty for the model itself."""
    layers: tuple[tuple[str, nn.Module], ...]
    """Names in the model and modules; a repeated module is listed once."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """One call of a layer of a candidate stack."""

    layer: nn.Module
    linked: bool
    """Whether its input is, or depends on, the output of the call before."""


def find_candidates(model: nn.Module, found: Iterable[NormInModel]) -> list[Stack]:
    """List the candidates for stacks of layers, in the order of the model; a forward pass decides between them.

    A candidate has the children of a container (``ModuleList``, ``Sequential``) that have parameters and are neither
    norms nor embedding tables, or the longest run of consecutive children of one class of any other module. There are
    two or more of them, or one that is repeated, or a single child of a ``ModuleList``.

    Args:
        model: Any module.
        found: Its norms, which are not layers.

    Returns:
        One entry per candidate.
    """
    norms = {id(norm.module) for norm in found}
    candidates = []
    for name, module in model.named_modules():
        layers = _layers(name, module, norms)
        if len(layers) >= 2 or (layers and isinstance(module, nn.ModuleList)):
            once = {id(layer): (key, layer) for key, layer in reversed(layers)}
            candidates.append(Stack(name=name, layers=tuple(reversed(once.values()))))
    return candidates


def choose_stacks(candidates: Sequence[Stack], calls: Mapping[str, Sequence[Called]]) -> list[Stack]:
    """Select non-nested layer stacks from the candidates.

    A stack is called at least twice, as a chain (:data:`LINKED`). A stack whose layers contain other stacks is
    preferred to them if its layers are composite and repeat (one class, or several in alternation) and those of the
    inner stacks are not composite, or if more of its layers repeat. Otherwise it is a pipeline whose parts hold the
    depth. If there is a stack of composite layers, a run of simple layers that is not longer, such as that of the head,
    is not a stack.

    Args:
        candidates: Result of :func:`find_candidates`.
        calls: Calls of the layers of each candidate by its name, in order.

    Returns:
        The stacks, in the order of the model.
    """
    chains = {stack.name: calls.get(stack.name, ()) for stack in candidates}
    linked = [stack for stack in candidates if _chained(chains[stack.name])]
    chosen: list[Stack] = []
    for stack in linked:
        if any(_inside(stack.name, other) for other in chosen):
            continue
        inner = [other for other in linked if _inside(other.name, stack)]
        if all(_outweighs(chains[stack.name], chains[other.name]) for other in inner):
            chosen.append(stack)
    runs = {stack.name: _run(chains[stack.name]) for stack in chosen}
    depth = max((length for length, parts in runs.values() if parts), default=0)
    return [stack for stack in chosen if runs[stack.name][1] or runs[stack.name][0] > depth]


def _layers(name: str, module: nn.Module, norms: set[int]) -> list[tuple[str, nn.Module]]:
    prefix = f"{name}." if name else ""
    children = [
        (f"{prefix}{key}", child)
        for key, child in children_of(module).items()
        if child is not None
        and id(child) not in norms
        and not isinstance(child, _TABLES)
        and any(True for _ in child.parameters())
    ]
    if isinstance(module, _CONTAINERS):
        return children
    best: list[tuple[str, nn.Module]] = []
    run: list[tuple[str, nn.Module]] = []
    for each in children:
        run = [*run, each] if run and type(run[-1][1]) is type(each[1]) else [each]
        best = run if len(run) > len(best) else best
    return best


def _chained(calls: Sequence[Called]) -> bool:
    return len(calls) >= 2 and sum(call.linked for call in calls[1:]) > LINKED * (len(calls) - 1)


def _outweighs(outer: Sequence[Called], inner: Sequence[Called]) -> bool:
    """Return whether the outer candidate holds the depth; the inner layers are then parts of the outer layers."""
    length, parts = _run(outer)
    inner_length, inner_parts = _run(inner)
    return (length >= 2 and parts and not inner_parts) or length >= inner_length


def _run(calls: Sequence[Called]) -> tuple[int, bool]:
    """Return the length of the longest run of calls whose classes repeat, and whether its layers are composite.

    A run is one class repeated, or several classes that alternate at least twice.
    """
    layers = [call.layer for call in calls]
    best = layers[:1]
    for period in range(1, len(layers) // 2 + 1):
        start = 0
        for place in range(period, len(layers) + 1):
            if place < len(layers) and type(layers[place]) is type(layers[place - period]):
                continue
            if place - start >= max(2 * period, len(best) + 1):
                best = layers[start:place]
            start = place - period + 1
    return len(best), any(True for layer in best for _ in layer.children())


def _inside(name: str, stack: Stack) -> bool:
    """Return whether a container is a layer of a stack, or is inside one."""
    return any(name == layer or name.startswith(f"{layer}.") for layer, _ in stack.layers)
