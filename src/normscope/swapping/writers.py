"""The parameters that write into the stream of a model, by their names, apart from what they are tied to."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normscope.swapping.kinds import Norm
from normscope.swapping.same_function import Call, outputs
from normscope.swapping.stream import Sources, sources, uses


def find_writers(twin: nn.Module, chosen: Sequence[Norm], call: Call) -> tuple[Sources, set[int]]:
    """Walk from the input of every layer norm; also tell which writers are read for something else."""
    parts, seen = Sources(), set()

    def walk(width: Any, x: Tensor) -> None:
        sources(x, width, parts, seen)

    handles = [
        twin.get_submodule(norm.name).register_forward_pre_hook(
            lambda module, given, named, width=norm.shape[-1]: walk(width, [*given, *named.values()][0]),
            with_kwargs=True,
        )
        for norm in chosen
    ]
    try:
        with torch.enable_grad():
            given = outputs(twin, call)
    finally:
        for handle in handles:
            handle.remove()
    counts = uses(given)
    return parts, {one for one, edges in parts.edges.items() if counts.get(one, 0) > edges}


def named(twin: nn.Module, writers: Mapping[int, tuple[Tensor, int]]) -> dict[str, tuple[Tensor, int]]:
    """Give writers by their names in the model; of tied ones by the embedding's, which is the one that writes."""
    every = (*twin.named_parameters(remove_duplicate=False), *twin.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, tensor in every:
        owner, _ = owner_of(twin, name)
        if id(tensor) not in first or isinstance(owner, nn.Embedding):
            first[id(tensor)] = name
    return {first[one]: entry for one, entry in writers.items() if one in first}


def untie(twin: nn.Module, writers: dict[str, tuple[Tensor, int]], shared: set[int]) -> list[str]:
    """Give writers that are read for something else, too, a parameter of their own; return their names."""
    untied = []
    for name, (tensor, axis) in list(writers.items()):
        owner, key = owner_of(twin, name)
        owners = {id(module) for module in twin.modules() if any(p is tensor for p in module._parameters.values())}
        if id(tensor) in shared and len(owners) > 1:
            own = nn.Parameter(tensor.detach().clone())
            owner._parameters[key] = own
            writers[name] = own, axis
            untied.append(name)
    return untied


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Give the module that has a parameter, a buffer or a child, and its name there."""
    parent, _, key = name.rpartition(".")
    return model.get_submodule(parent), key
