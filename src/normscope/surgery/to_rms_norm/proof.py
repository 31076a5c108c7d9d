"""The check, on a float64 copy, that a model with centered writers and RMS norms computes the same function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import NormInModel
from normscope.surgery.to_rms_norm.norms import make_exact, nudged, put_rms
from normscope.surgery.to_rms_norm.same_function import (
    Call,
    float64_by_default,
    largest_difference,
    outputs,
    scales,
    widened,
)
from normscope.surgery.to_rms_norm.writers import find_writers, named, settle, untie

TOLERANCE = 1e-9
"""Relative, in float64: a million roundings."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The changes of a model that keep its function, and the outputs that were compared."""

    writers: Mapping[str, Tensor]
    """From the names of parameters (and buffers) to their centered values, in float64."""
    untied: Sequence[str]
    """Those of them that must be untied."""
    unreached: Sequence[str]
    """Parameters as wide as the stream on which no output depended."""
    dropouts: int
    """Number of dropouts on the stream."""
    before: Sequence[Mapping[str, Tensor]]
    """The outputs in float64, for every call."""
    sizes: Sequence[Mapping[str, float]]
    """Sizes that differences of the outputs are relative to, for every call."""
    difference: float
    """The largest difference of an output."""


def prove(model: nn.Module, chosen: Sequence[NormInModel], calls: Sequence[Call]) -> Proof:
    """Convert a copy of a model; check that all norms read rows with a mean of zero and that no output changes.

    Args:
        model: A model; it is not changed.
        chosen: Its layer norms.
        calls: Arguments with which the model has run.

    Raises:
        ValueError: If it does not run in float64, the outputs do not depend on the layer norms, or the function would
            differ.
    """
    try:
        twin, wide = widened(model, calls)
        make_exact(twin, chosen)
        with float64_by_default():
            return _prove(model, twin, chosen, wide)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the proof needs a copy of {type(model).__name__} that runs in float64, and there was a "
            f"{type(error).__name__}: {error}"
        ) from error


def _prove(model: nn.Module, twin: nn.Module, chosen: Sequence[NormInModel], wide: Sequence[Call]) -> Proof:
    found = find_writers(twin, chosen, wide)
    widths = {norm.shape[-1] for norm in chosen}
    unreached = [n for n, p in twin.named_parameters() if id(p) not in found.reached and widths & {*p.shape}]
    writers = named(twin, found.sources.writers)
    with torch.no_grad():
        settle(twin, model, writers)
        before = [outputs(twin, call) for call in wide]
        with nudged(twin, chosen):
            sizes = [scales(one, outputs(twin, call)) for one, call in zip(before, wide, strict=True)]
    untied = untie(twin, writers, found.shared)
    kept = [name for name, (tensor, _) in writers.items() if id(tensor) in found.shared]
    doubts = [*found.sources.doubts, *(f"{name} is read for something else by the same module" for name in kept)]
    with torch.no_grad():
        for tensor, axis in writers.values():
            tensor.sub_(tensor.mean(axis, keepdim=True))
        moments = put_rms(twin, chosen)
        after = [outputs(twin, call) for call in wide]
    worst = max(largest_difference(one, two, size) for one, two, size in zip(before, after, sizes, strict=True))
    _check(moments, doubts, worst)
    if not any(any(size.values()) for size in sizes):
        raise ValueError(
            "nothing is proved: no output depends on what the layer norms give (a last layer of zeros, as at the start "
            "of some trainings?). Train some steps first, or give it other weights"
        )
    return Proof(
        writers={name: tensor.detach() for name, (tensor, _) in writers.items()},
        untied=untied,
        unreached=unreached,
        dropouts=found.dropouts,
        before=before,
        sizes=sizes,
        difference=worst,
    )


def _check(moments: Mapping[str, list[float]], doubts: Sequence[str], worst: float) -> None:
    """Refuse a conversion that changes the function.

    Raises:
        ValueError: If it does; the message says why.
    """
    if silent := [name for name, seen in moments.items() if not seen]:
        raise ValueError(
            f"of layer norms that do not run nothing can be proved. These did not run: {_few(silent)}. Call "
            f"to_rms_norm with inputs that reach them, or leave them out by where="
        )
    start = "the layer norms cannot become RMS norms exactly: "
    worse = f"outputs would differ by {worst:.1e} of their size. "
    why = "; ".join(dict.fromkeys(doubts))
    if off := [name for name, seen in moments.items() if not max(seen) <= TOLERANCE]:
        why = why or "something that no weight of the model alone decides"
        raise ValueError(
            f"{start}{worse}What these read has a mean that no weights can be centered to remove: {_few(off)}. "
            f"In it: {why}"
        )
    if not worst <= TOLERANCE:
        also = f" ({why})" if why else ""
        raise ValueError(
            f"{start}{worse}All layer norms read centered rows then, but something else reads its mean, too{also}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
