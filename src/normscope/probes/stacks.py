"""Where a model's depth is: modules that stand one behind another, found without knowing the model."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from normscope.probes.norms_in import NormIn

_CONTAINERS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers of one container, in its order."""

    name: str
    """Of the container; empty for the model itself."""
    layers: tuple[tuple[str, nn.Module], ...]
    """Their names in the model, and they themselves; one that stands there several times, once."""


def find_stacks(model: nn.Module, found: Iterable[NormIn]) -> list[Stack]:
    """Find the stacks of layers of a model: the longest first, none of them inside another's layer or around it.

    The children of a container (``ModuleList``, ``Sequential``) that have parameters and are no norms, two or more of
    them; of any other module the longest run of neighbours of one class.

    Args:
        model: Any module.
        found: Its norms, which are no layers.

    Returns:
        Stacks of at least two layers, or one that stands there twice, in the order of the model.
    """
    norms = {id(norm.module) for norm in found}
    candidates: list[tuple[int, Stack]] = []
    for name, module in model.named_modules():
        layers = _layers(name, module, norms)
        if len(layers) >= 2:
            once = {id(layer): (key, layer) for key, layer in reversed(layers)}
            candidates.append((len(layers), Stack(name=name, layers=tuple(reversed(once.values())))))
    order = {stack.name: place for place, (_, stack) in enumerate(candidates)}
    chosen: list[Stack] = []
    for _, stack in sorted(candidates, key=lambda pair: -pair[0]):
        if not any(_inside(stack.name, other) or _inside(other.name, stack) for other in chosen):
            chosen.append(stack)
    return sorted(chosen, key=lambda stack: order[stack.name])


def _layers(name: str, module: nn.Module, norms: set[int]) -> list[tuple[str, nn.Module]]:
    prefix = f"{name}." if name else ""
    children = [
        (f"{prefix}{key}", child)
        for key, child in module._modules.items()
        if child is not None and id(child) not in norms and any(True for _ in child.parameters())
    ]
    if isinstance(module, _CONTAINERS):
        return children
    best: list[tuple[str, nn.Module]] = []
    run: list[tuple[str, nn.Module]] = []
    for each in children:
        run = [*run, each] if run and type(run[-1][1]) is type(each[1]) else [each]
        best = run if len(run) > len(best) else best
    return best


def _inside(name: str, stack: Stack) -> bool:
    """Whether a container's name is that of a layer of a stack or of something in it."""
    return any(name == layer or name.startswith(f"{layer}.") for layer, _ in stack.layers)
