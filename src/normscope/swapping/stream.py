"""What writes into the stream that a norm reads: found in the graph of a backward pass."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from normscope.torch_internals import convolution_groups

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
}
"""Operations that keep the mean over the features at zero, where it is zero in all that they are given.

Dropout in training is none of them, for it drops features one by one; in evaluation, where graphs are walked, it does
nothing and is not in them. Stochastic depth, which drops whole rows, is a product with one number a row.
"""
_SCALED = {"MulBackward0", "DivBackward0"}
"""The same, where the factor is one number."""
_TRANSPOSED = {"TBackward0", "TransposeBackward0", "NumpyTBackward0", "PermuteBackward0"}
"""What turns a weight of ``[features, in]`` around, by whichever of its names."""
_REASONS = {
    "NativeLayerNormBackward0": "the output of another layer norm, whose gain and bias bring a mean back (Post-LN)",
    "MulBackward0": "a product of two tensors that are learned, such as a gate or a layer scale",
    "BmmBackward0": "a product of activations",
    "GeluBackward0": "a non-linearity",
    "ReluBackward0": "a non-linearity",
    "SiluBackward0": "a non-linearity",
    "TanhBackward0": "a non-linearity",
    "MeanBackward1": "an average over other axes than features",
    "NativeDropoutBackward0": "a dropout that is on in evaluation",
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the input of a norm is a sum of."""

    writers: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """From a tensor's identity to it and its axis of features: centered along it, it writes centered rows."""
    edges: dict[int, int] = field(default_factory=dict)
    """How many times each writes."""
    doubts: list[str] = field(default_factory=list)
    """What else there is, in words."""


def sources(x: Tensor, width: int, into: Sources, seen: set[Any]) -> None:
    """Walk from a norm's input to all that was added up in it.

    Args:
        x: The input in evaluation, with its graph, in which every parameter has a gradient.
        width: The number of features.
        into: Gets what is found.
        seen: Nodes that were walked before; gets those of this walk.
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
    """Count how many times every leaf is read in the graphs behind some tensors, by its identity."""
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
    """Take the second factor of a product, ``[in, features]``, perhaps a weight that was transposed."""
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
