"""The parameters that write into the stream of a model, by their names, apart from what they are tied to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.swapping.kinds import Norm
from normscope.swapping.same_function import Call, outputs
from normscope.swapping.stream import Sources, sources, uses
from normscope.torch_internals import buffers_of, parameters_of


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the graphs of some calls tell of a stream."""

    sources: Sources
    """What writes into it."""
    shared: set[int]
    """Identities of writers that are read for something else, too."""
    reached: set[int]
    """Identities of all tensors that an output depends on."""
    dropouts: int
    """How many dropouts stand on the stream; in training they bring a mean back."""


def find_writers(twin: nn.Module, chosen: Sequence[Norm], calls: Sequence[Call]) -> Found:
    """Walk from the input of every layer norm to what writes, in every call.

    Args:
        twin: A copy of the model in evaluation, in which everything has a gradient.
        chosen: The layer norms.
        calls: What it is called with.
    """
    parts, seen, counts = Sources(), set(), {}
    dropouts = 0

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
        for call in calls:
            seen.clear()
            with torch.enable_grad(), _Dropouts() as watch:
                given = outputs(twin, call)
            for one, edges in uses(given.values()).items():
                counts[one] = counts.get(one, 0) + edges
            dropouts = max(dropouts, sum(node in seen for node in watch.nodes))
    finally:
        for handle in handles:
            handle.remove()
    shared = {one for one, edges in parts.edges.items() if counts.get(one, 0) > edges}
    return Found(sources=parts, shared=shared, reached=set(counts), dropouts=dropouts)


class _Dropouts(TorchFunctionMode):
    """Remember where in the graph a dropout stands, which does nothing in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in {nn.functional.dropout, torch.dropout} and isinstance(result, Tensor):
            p = (kwargs or {}).get("p", args[1] if len(args) > 1 else 0.5)
            if p > 0 and result.grad_fn is not None:
                self.nodes.append(result.grad_fn)
        return result


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
    """Give writers that are read for something else, too, a parameter of their own; return their names.

    An embedding that is tied to something else than embeddings is untied even where that was not seen to run.
    """
    untied = []
    for name, (tensor, axis) in list(writers.items()):
        owner, key = owner_of(twin, name)
        owners = [module for module in twin.modules() if any(p is tensor for p in parameters_of(module).values())]
        mixed = len({isinstance(module, nn.Embedding) for module in owners}) > 1
        if mixed or (id(tensor) in shared and len(owners) > 1):
            own = nn.Parameter(tensor.detach().clone())
            parameters_of(owner)[key] = own
            writers[name] = own, axis
            untied.append(name)
    return untied


def settle(twin: nn.Module, model: nn.Module, writers: Mapping[str, tuple[Tensor, int]]) -> None:
    """Center writers of a copy that are centered but for the roundings of the model's own dtype.

    They are of an earlier conversion; what the roundings do is no part of what another one does.

    Args:
        twin: A copy of the model in float64.
        model: The model.
        writers: By name, in the copy.
    """
    for name, (tensor, axis) in writers.items():
        owner, key = owner_of(model, name)
        own = parameters_of(owner).get(key, buffers_of(owner).get(key))
        assert own is not None
        mean = tensor.mean(axis, keepdim=True)
        # The mean of n roundings; four times, for the largest of many.
        rounding = 4 * torch.finfo(own.dtype).eps * tensor.square().mean(axis, keepdim=True).sqrt()
        if bool((mean.abs() <= rounding / tensor.shape[axis] ** 0.5).all()):
            tensor.sub_(mean)


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Give the module that has a parameter, a buffer or a child, and its name there."""
    parent, _, key = name.rpartition(".")
    return model.get_submodule(parent), key
