"""Where a model's depth is: modules that stand one behind another, found without knowing the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from normscope.inspection.norms_in import NormIn

_CONTAINERS = (nn.ModuleList, nn.Sequential)
_TABLES = (nn.Embedding, nn.EmbeddingBag)

LINKED = 0.5
"""More than this share of a stack's calls must read what the call before gave out.

In a gated perceptron's three maps it is one of two, in attention's four one of three, of heads or experts none; in a
stack all, and in one of two layers that a loss calls twice two of three.
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers of one container, in its order."""

    name: str
    """Of the container; empty for the model itself."""
    layers: tuple[tuple[str, nn.Module], ...]
    """Their names in the model, and they themselves; one that stands there several times, once."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """One call of a layer of something that may be a stack."""

    layer: nn.Module
    linked: bool
    """Whether its input is, or depends on, what the call before gave out."""


def find_candidates(model: nn.Module, found: Iterable[NormIn]) -> list[Stack]:
    """List what may be a stack of layers, in the order of the model; a pass through it tells which are.

    The children of a container (``ModuleList``, ``Sequential``) that have parameters and are neither norms nor tables
    of embeddings; of any other module the longest run of neighbours of one class. Two or more of them, or one that
    stands there twice, or alone in a ``ModuleList``.

    Args:
        model: Any module.
        found: Its norms, which are no layers.
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
    """Choose the stacks among what may be some, none of them inside another's layer or around it.

    A stack was called twice or more, and in a chain (:data:`LINKED`). One in whose layers there are other stacks is
    preferred to them if its layers are made of parts and repeat, one class or several in turn, and the others' are not
    made of parts; or if more of its layers repeat. Else it is a pipeline, and the depth is in its parts. Beside a stack
    whose layers are made of parts, a row of simple ones that is no longer (the head's) is none.

    Args:
        candidates: Of :func:`find_candidates`.
        calls: By the name of the candidate, in their order.

    Returns:
        In the order of the model.
    """
    chains = {stack.name: calls.get(stack.name, ()) for stack in candidates}
    open_ones = [stack for stack in candidates if _chained(chains[stack.name])]
    chosen: list[Stack] = []
    for stack in open_ones:
        if any(_inside(stack.name, other) for other in chosen):
            continue
        inner = [other for other in open_ones if _inside(other.name, stack)]
        if all(_outweighs(chains[stack.name], chains[other.name]) for other in inner):
            chosen.append(stack)
    runs = {stack.name: _run(chains[stack.name]) for stack in chosen}
    depth = max((length for length, parts in runs.values() if parts), default=0)
    return [stack for stack in chosen if runs[stack.name][1] or runs[stack.name][0] > depth]


def _layers(name: str, module: nn.Module, norms: set[int]) -> list[tuple[str, nn.Module]]:
    prefix = f"{name}." if name else ""
    children = [
        (f"{prefix}{key}", child)
        for key, child in module._modules.items()
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
    """Whether the depth is in the outer one: the layers of the inner one are then parts of its layers."""
    length, parts = _run(outer)
    inner_length, inner_parts = _run(inner)
    return (length >= 2 and parts and not inner_parts) or length >= inner_length


def _run(calls: Sequence[Called]) -> tuple[int, bool]:
    """Return the length of the longest row of calls whose classes repeat, and whether its layers are made of parts.

    One class after another of its kind is a row, and so are two that take turns, twice or more.
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
    """Whether a container's name is that of a layer of a stack or of something in it."""
    return any(name == layer or name.startswith(f"{layer}.") for layer, _ in stack.layers)
