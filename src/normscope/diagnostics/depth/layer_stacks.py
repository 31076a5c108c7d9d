"""Stacks of layers, the depth of a model, found without knowledge of its architecture."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from normscope.inspection.norm_in_model import NormInModel, known_base
from normscope.torch_internals import children_of

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_TABLES = (nn.Embedding, nn.EmbeddingBag)

LINKED = 0.5
"""Share of a stack's calls that must read the output of an earlier one; more than this is needed.

It is one of two for the three linear maps of a gated perceptron, one of three for the four maps of attention, and zero
for heads or experts. In a stack it is all calls, or two of three if a loss calls a stack of two layers twice.
"""

_LONGEST_PERIOD = 32
"""Largest number of classes that count as alternating."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers that run one after another."""

    name: str
    """Name of the module that holds them; empty for the model itself."""
    layers: tuple[tuple[str, nn.Module], ...]
    """Names in the model and modules; a repeated module is listed once."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """One call of a layer of a candidate stack."""

    name: str
    layer: nn.Module
    stream: int
    """Number of its stream: it reads, or depends on, the output of the call before in that stream."""
    place: int
    """Number among all calls of the pass."""
    direct: bool
    """Whether its input is that output itself."""


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """Calls of layers of one candidate that run one after another."""

    holder: str
    calls: tuple[Called, ...]
    length: int
    """Number of calls of layers of the repeating classes."""
    composite: bool
    """Whether layers of these classes have children."""

    @property
    def layers(self) -> dict[int, Called]:
        return {id(call.layer): call for call in reversed(self.calls)}


def find_candidates(model: nn.Module, found: Iterable[NormInModel]) -> list[Stack]:
    """List the candidates for stacks of layers, in the order of the model; a forward pass decides between them.

    A candidate has the children of a module that have parameters and are neither norms nor embedding tables. Lists,
    dictionaries and sequences of blocks count as their items, so that the order and the grouping in which blocks are
    registered do not matter. Of a module that is not such a container, a child without children of its own belongs to
    the candidate only if another one is of its class.

    Args:
        model: Any module.
        found: Its norms, which are not layers.

    Returns:
        One entry per candidate.
    """
    norms = {id(norm.module) for norm in found}
    candidates = {}
    for name, module in model.named_modules():
        layers = _layers(name, module, norms)
        if not isinstance(module, _CONTAINERS):
            kinds = [_kind(layer) for _, layer in layers]
            layers = [(key, layer) for key, layer in layers if _is_composite(layer) or kinds.count(_kind(layer)) > 1]
        once = {id(layer): (key, layer) for key, layer in reversed(layers)}
        if layers:
            # The module that holds nothing else gives its name.
            candidates[frozenset(once)] = Stack(name=name, layers=tuple(reversed(once.values())))
    return list(candidates.values())


def choose_stacks(candidates: Sequence[Stack], calls: Mapping[str, Sequence[Called]]) -> list[Stack]:
    """Select non-nested layer stacks from the candidates.

    A stack is called at least twice, as a chain (:data:`LINKED`). Streams that do not read each other, such as those of
    an encoder and of a decoder, are stacks of their own unless they run through the same layers; so are layers of one
    class and of another one after them, unless those read the output of the former directly. What runs before the first
    and after the last of the repeating layers, such as a stem and a head, does not belong to the stack, nor does a
    simple layer between composite ones.

    A stack whose layers contain other stacks is preferred to them if its layers are composite and those of the inner
    stacks are not, or if more of its layers repeat. Otherwise it is a pipeline whose parts hold the depth. If there is
    a stack of composite layers, a run of simple layers that is not longer, such as that of the head, is not a stack.

    Args:
        candidates: Result of :func:`find_candidates`.
        calls: Calls of the layers of each candidate by its name, in order.

    Returns:
        The stacks, in the order in which they end.
    """
    chains: list[_Chain] = []
    left_out: set[int] = set()
    for stack in candidates:
        called = {id(call.layer) for call in calls.get(stack.name, ())}
        # The module around knows more: a list of the stem and the head is no stack.
        parts = [] if called <= left_out else _chains(stack, calls[stack.name])
        chains += parts
        left_out |= called.difference(*(part.layers for part in parts)) if parts else set()
    # Of candidates with the same layers the longest stays, and of equally long ones the innermost.
    once: list[_Chain] = []
    for _, chain in sorted(enumerate(chains), key=lambda pair: (-len(pair[1].calls), -pair[0])):
        if all(chain.layers.keys().isdisjoint(other.layers) for other in once):
            once.append(chain)
    chosen: list[_Chain] = []
    for chain in [chain for chain in chains if any(chain is other for other in once)]:
        if any(_is_inside(chain, other) for other in chosen):
            continue
        if all(_outweighs(chain, other) for other in once if _is_inside(other, chain)):
            chosen.append(chain)
    depth = max((chain.length for chain in chosen if chain.composite), default=0)
    chosen = [chain for chain in chosen if chain.composite or chain.length > depth]
    return [
        Stack(name=chain.holder, layers=tuple((call.name, call.layer) for call in reversed(chain.layers.values())))
        for chain in sorted(chosen, key=lambda chain: chain.calls[-1].place)
    ]


def _layers(name: str, module: nn.Module, norms: set[int]) -> list[tuple[str, nn.Module]]:
    prefix = f"{name}." if name else ""
    layers = []
    for key, child in children_of(module).items():
        if child is None or not any(True for _ in child.parameters()):
            continue
        # A norm that cannot be measured is no layer either.
        if id(child) in norms or known_base(child) is not None or isinstance(child, _TABLES):
            continue
        inner = _layers(f"{prefix}{key}", child, norms) if isinstance(child, _CONTAINERS) else []
        layers += inner if _is_grouping(child, inner, norms) else [(f"{prefix}{key}", child)]
    return layers


def _is_grouping(module: nn.Module, layers: Sequence[tuple[str, nn.Module]], norms: set[int]) -> bool:
    """Return whether a container only groups blocks: a list, a dictionary, or a sequence of blocks that is no block."""
    forward = type(module).forward
    if not layers or forward is nn.Module.forward:
        return bool(layers)
    kinds = [_kind(layer) for _, layer in layers if _is_composite(layer)]
    alone = len(kinds) == len(layers) and not any(id(child) in norms for child in children_of(module).values())
    return forward is nn.Sequential.forward and (alone or len(set(kinds)) < len(kinds))


def _kind(layer: nn.Module) -> Any:
    """Return what equal layers have in common: their class, for a sequence the kinds of its parts with matrices."""
    if type(layer).forward is not nn.Sequential.forward:
        return type(layer)
    return type(layer), frozenset(
        _kind(part) for part in layer.children() if any(p.dim() > 1 for p in part.parameters())
    )


def _is_composite(layer: nn.Module) -> bool:
    return any(True for _ in layer.children())


def _chains(stack: Stack, calls: Sequence[Called]) -> list[_Chain]:
    """Separate the streams of a candidate and their parts; leave out what runs before and after repeating layers."""
    streams: dict[int, list[Called]] = {}
    for call in calls:
        streams.setdefault(call.stream, []).append(call)
    if len(calls) < 2 or len(calls) - len(streams) <= LINKED * (len(calls) - 1):
        return []
    groups: list[list[Called]] = []
    for stream in streams.values():
        layers = {id(call.layer) for call in stream}
        # Streams through the same layers are one stack.
        same = [not layers.isdisjoint(id(call.layer) for call in group) for group in groups]
        joined = [stream, *(group for group, shares in zip(groups, same, strict=True) if shares)]
        groups = [group for group, shares in zip(groups, same, strict=True) if not shares]
        groups.append(sorted((call for group in joined for call in group), key=lambda call: call.place))
    return [chain for group in groups for chain in _parts(stack, group)]


def _parts(stack: Stack, calls: Sequence[Called]) -> Iterator[_Chain]:
    """Yield the parts of one stream in which classes repeat: from the first to the last call of a class or of several.

    Classes repeat side by side or in alternation; simple ones count only if no composite ones do. Parts are joined if
    one reads the output of the other directly.
    """
    layers = [call.layer for call in calls]
    kinds = [_kind(layer) for layer in layers]
    run = _run(layers)
    composite = any(map(_is_composite, run))
    repeat = {_kind(layer) for layer in run if _is_composite(layer) == composite}
    for place, (one, other) in enumerate(pairwise(kinds)):
        if one == other and _is_composite(layers[place]) == composite:
            repeat.add(one)
    spans: list[tuple[int, int]] = []
    for first, last in sorted((kinds.index(kind), len(kinds) - kinds[::-1].index(kind)) for kind in repeat):
        end = spans[-1][1] if spans else 0
        if spans and (first < end or (first == end and calls[first].direct)):
            spans[-1] = (spans[-1][0], max(last, end))
        else:
            spans.append((first, last))
    for first, last in spans:
        # Simple layers between composite ones (a skip connection, a change of width) are no layers of the stack.
        places = [place for place in range(first, last) if kinds[place] in repeat or _is_composite(layers[place])]
        length = sum(kinds[place] in repeat for place in places)
        inner = tuple(calls[place] for place in places)
        yield _Chain(holder=stack.name, calls=inner, length=length, composite=composite)


def _outweighs(outer: _Chain, inner: _Chain) -> bool:
    """Return whether the outer candidate holds the depth; the inner layers are then parts of the outer layers."""
    starts = [call.place for call in outer.calls]
    # A layer that runs several times is as deep as it is in one of its calls.
    inside = max(Counter(bisect(starts, call.place) for call in inner.calls).values())
    return (outer.composite and not inner.composite) or outer.length >= min(inner.length, inside)


def _run(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the longest run of layers whose classes repeat, preferably of composite ones; empty if none repeats.

    A run is one class repeated, or several classes that alternate at least twice.
    """
    best: list[nn.Module] = []
    kinds = [_kind(layer) for layer in layers]
    for period in range(1, min(len(layers) // 2, _LONGEST_PERIOD) + 1):
        start = 0
        for place in range(period, len(layers) + 1):
            if place < len(layers) and kinds[place] == kinds[place - period]:
                continue
            run = list(layers[start:place])
            if len(run) >= 2 * period and (not best or _weight(run) > _weight(best)):
                best = run
            start = place - period + 1
    return best


def _weight(run: Sequence[nn.Module]) -> tuple[bool, bool, int]:
    composite = [_is_composite(layer) for layer in run]
    return all(composite), any(composite), len(run)


def _is_inside(inner: _Chain, outer: _Chain) -> bool:
    """Return whether all layers of a chain are inside those of another one."""
    parts = {id(part) for call in outer.layers.values() for part in call.layer.modules()} - set(outer.layers)
    return parts.issuperset(inner.layers)
