"""The parameters that write into the stream a norm reads, found in the autograd graph."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import NormInModel
from normscope.surgery.to_rms_norm.same_function import Call, copied, outputs
from normscope.torch_internals import buffers_of, convolution_groups, parameters_of

CONVERSIONS = "_normscope_conversions"
"""Attribute of a tensor: the conversions that centered it and were not undone, in order."""
_LINEAR = {
    "AddBackward0",
    "SubBackward0",
    "NegBackward0",
    "CatBackward0",
    "StackBackward0",
    "ViewBackward0",
    "UnsafeViewBackward0",
    "ReshapeAliasBackward0",
    "AliasBackward0",
    "CloneBackward0",
    "ToCopyBackward0",
    "ExpandBackward0",
    "RepeatBackward0",
    "SliceBackward0",
    "SelectBackward0",
    "IndexBackward0",
    "IndexSelectBackward0",
    "UnsqueezeBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "TransposeBackward0",
    "PermuteBackward0",
    "GatherBackward0",
    "MaskedScatterBackward0",
    "SplitBackward0",
    "SplitWithSizesBackward0",
    "UnbindBackward0",
    "RollBackward0",
    "FlipBackward0",
    "WhereBackward0",
    "MaskedFillBackward0",
    "MeanBackward1",
    "SumBackward1",
}
"""Operations whose output has a mean of zero over the features if all their inputs do.

Graphs are walked in evaluation. Factors that are not learned, masks, indices and sums are taken for those of whole
rows, as of stochastic depth and pooling; the numerical check finds those that mix or choose features, as a dropout.
"""
_SCALED = {"MulBackward0", "DivBackward0"}
"""The same, if the factor is one number."""
_TRANSPOSED = {"TBackward0", "TransposeBackward0", "NumpyTBackward0", "PermuteBackward0"}
"""Operations that transpose a weight of ``[features, in]``."""
_REASONS = {
    "NativeLayerNormBackward0": "the output of another layer norm, whose weight and bias add a mean (Post-LN)",
    "MulBackward0": "a product of two tensors that are learned, such as a gate or a layer scale",
    "BmmBackward0": "a product of activations",
    "GeluBackward0": "a nonlinearity",
    "ReluBackward0": "a nonlinearity",
    "SiluBackward0": "a nonlinearity",
    "TanhBackward0": "a nonlinearity",
    "NativeDropoutBackward0": "a dropout that is on in evaluation",
    "NativeBatchNormBackward0": "the output of a batch norm, which scales every feature by another number",
    "CudnnBatchNormBackward0": "the output of a batch norm, which scales every feature by another number",
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The terms of the sum that a norm reads."""

    writers: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """From a tensor's identity to the tensor and its axis of features, along which it is to be centered."""
    edges: dict[int, int] = field(default_factory=dict)
    """Number of times each writes."""
    doubts: list[str] = field(default_factory=list)
    """Descriptions of the other terms."""


def sources(x: Tensor, width: int, into: Sources, seen: set[Any]) -> None:
    """Walk from a norm's input to the terms of its sum.

    Args:
        x: The input in evaluation, with its graph, in which every parameter has a gradient.
        width: The number of features.
        into: Collects the terms.
        seen: Nodes that were visited before; those of this walk are added.
    """
    if x.grad_fn is None:
        into.doubts.append("the model's own input, or a constant")
        return
    waiting: list[Any] = [x.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        name = node.name()
        inputs = [one for one, _ in node.next_functions]
        if name in _LINEAR or (name in _SCALED and sum(one is not None for one in inputs) == 1):
            if name in {"AddBackward0", "SubBackward0"} and None in inputs:
                into.doubts.append("the model's own input, or a constant, is added")
            for one in inputs:
                if one is not None and one.name().endswith("AccumulateGrad"):
                    _write(into, one, -1, width)
                elif one is not None:
                    waiting.append(one)
        elif name in {"AddmmBackward0", "MmBackward0"}:
            if name == "AddmmBackward0" and inputs[0] is not None:
                _write(into, inputs[0], -1, width)
            _matrix(into, inputs[-1], width)
        elif name == "EmbeddingBackward0":
            _write(into, inputs[0], -1, width)
        elif name == "ConvolutionBackward0":
            if convolution_groups(node) != 1:
                into.doubts.append("a grouped convolution, whose channels read different inputs")
                continue
            _write(into, inputs[1], 0, width)
            if inputs[2] is not None:
                _write(into, inputs[2], 0, width)
        else:
            into.doubts.append(_REASONS.get(name, f"the output of {name.removesuffix('0').removesuffix('Backward')}"))


def uses(outputs: Iterable[Tensor]) -> dict[int, int]:
    """Count how many times every leaf is read in the graphs of some tensors, by its identity."""
    counts: dict[int, int] = {}
    waiting: list[Any] = [one.grad_fn for one in outputs if one.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for one, _ in node.next_functions:
            if one is None:
                continue
            if one.name().endswith("AccumulateGrad"):
                counts[id(one.variable)] = counts.get(id(one.variable), 0) + 1
            elif one not in seen:
                seen.add(one)
                waiting.append(one)
    return counts


def _matrix(into: Sources, node: Any, width: int) -> None:
    """Record the second factor of a product, ``[in, features]``, which may be a transposed weight."""
    if node is not None and node.name().endswith("AccumulateGrad"):
        _write(into, node, 1, width)
    elif node is not None and node.name() in _TRANSPOSED:
        _write(into, node.next_functions[0][0], 0, width)
    else:
        into.doubts.append("a matrix that is not a parameter itself (parametrized, merged or quantized)")


def _write(into: Sources, node: Any, axis: int, width: int) -> None:
    leaf = getattr(node, "variable", None)
    if leaf is None:
        into.doubts.append("a weight that is not a parameter itself (parametrized, merged or quantized)")
    elif leaf.shape[axis] != width:
        into.doubts.append(f"a parameter of shape {list(leaf.shape)} without the {width} features")
    else:
        into.writers[id(leaf)] = leaf, axis
        into.edges[id(leaf)] = into.edges.get(id(leaf), 0) + 1


@dataclass(frozen=True, kw_only=True)
class FoundWriters:
    """The writers of a stream, from the graphs of some calls."""

    sources: Sources
    """The terms of the stream."""
    shared: set[int]
    """Identities of writers that have another use as well."""
    reached: set[int]
    """Identities of all tensors that an output depends on."""


def find_writers(twin: nn.Module, chosen: Sequence[NormInModel], calls: Sequence[Call]) -> FoundWriters:
    """Walk from the input of every layer norm to its writers, in every call.

    Args:
        twin: A copy of the model in evaluation, in which all parameters have gradients.
        chosen: The layer norms.
        calls: Arguments of the model.
    """
    parts, seen, counts = Sources(), set(), {}

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
            with torch.enable_grad():
                given = outputs(twin, copied(call))
            for one, edges in uses(given.values()).items():
                counts[one] = counts.get(one, 0) + edges
    finally:
        for handle in handles:
            handle.remove()
    shared = {one for one, edges in parts.edges.items() if counts.get(one, 0) > edges}
    return FoundWriters(sources=parts, shared=shared, reached=set(counts))


def named(twin: nn.Module, writers: Mapping[int, tuple[Tensor, int]]) -> dict[str, tuple[Tensor, int]]:
    """Return writers by their names in the model; of tied ones by the name in the embedding, which writes."""
    every = (*twin.named_parameters(remove_duplicate=False), *twin.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, tensor in every:
        owner, _ = owner_of(twin, name)
        if id(tensor) not in first or isinstance(owner, nn.Embedding):
            first[id(tensor)] = name
    return {first[one]: entry for one, entry in writers.items() if one in first}


def untie(twin: nn.Module, writers: dict[str, tuple[Tensor, int]], shared: set[int]) -> list[str]:
    """Untie writers that have another use as well, by a copy; return their names.

    An embedding that is tied to a module other than an embedding is untied even if that module did not run.
    """
    untied = []
    for name, (tensor, axis) in list(writers.items()):
        owner, key = owner_of(twin, name)
        owners = [module for module in twin.modules() if any(p is tensor for p in parameters_of(module).values())]
        mixed = len({isinstance(module, nn.Embedding) for module in owners}) > 1
        if mixed or (id(tensor) in shared and len(owners) > 1):
            copy = nn.Parameter(tensor.detach().clone())
            parameters_of(owner)[key] = copy
            writers[name] = copy, axis
            untied.append(name)
    return untied


def settle(twin: nn.Module, model: nn.Module, writers: Mapping[str, tuple[Tensor, int]]) -> None:
    """Center writers of a copy that are centered up to rounding in the model, left over from an earlier conversion.

    The differences of their rounding are not attributed to this one, and other values of them are centered as well.

    Args:
        twin: A copy of the model in float64.
        model: The model.
        writers: By name, in the copy.
    """
    for name, (tensor, axis) in writers.items():
        owner, key = owner_of(model, name)
        original = parameters_of(owner).get(key, buffers_of(owner).get(key))
        assert original is not None
        wide = original.detach().to(tensor)
        # The mean of n roundings; four times that, for the largest of many.
        rounding = 4 * torch.finfo(original.dtype).eps * wide.square().mean(axis, keepdim=True).sqrt()
        centered = bool((wide.mean(axis, keepdim=True).abs() <= rounding / tensor.shape[axis] ** 0.5).all())
        # A bias that starts at zero was not centered.
        if centered and (CONVERSIONS in vars(original) or bool(wide.count_nonzero())):
            tensor.sub_(tensor.mean(axis, keepdim=True))


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has a parameter, a buffer or a child, and the key there."""
    parent, _, key = name.rpartition(".")
    return model.get_submodule(parent), key
