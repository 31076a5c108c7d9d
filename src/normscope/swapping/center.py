"""From LayerNorm to RMSNorm with the same function: center what writes into the residual stream."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normscope.swapping.biased_rms_norm import BiasedRMSNorm
from normscope.swapping.center_report import CenterReport
from normscope.swapping.centered_norms import converted, make_exact, put_rms
from normscope.swapping.choose import Where, choose
from normscope.swapping.find import find_norms
from normscope.swapping.kinds import Norm
from normscope.swapping.place import put
from normscope.swapping.refuse import check_open
from normscope.swapping.replacement import Built
from normscope.swapping.same_function import difference, evaluating, outputs, random_call, widened
from normscope.swapping.writers import find_writers, named, owner_of, untie

TOLERANCE = 1e-9
"""Of the proof, relative, in float64: a million roundings."""


def to_rms_norm(
    model: nn.Module,
    *args: Any,
    where: Where | None = None,
    generator: torch.Generator | None = None,
    **inputs: Any,
) -> CenterReport:
    r"""Make RMS norms of a Pre-LN model's layer norms, in place, and prove that its function is the same.

    The layer norms of a Pre-LN model read a sum, to which embeddings and output projections write. Centered rows stay
    centered under sums, and of centered rows the mean square is the variance:

    .. math:: x = \sum_k W_k h_k, \quad W_k \leftarrow (I - \tfrac{1}{D} 1 1^T) W_k \quad \Rightarrow \quad
        \mathrm{LayerNorm}(x) = g \odot \frac{x}{\sqrt{\tfrac{1}{D} \sum_i x_i^2 + \epsilon}} + b

    What writes is found in the graph of a backward pass, in a copy of the model in float64; whether it was all of it is
    not believed, but measured: on the inputs given and on random ones of their shapes (whole numbers are drawn from
    those that were given, or below ``config.vocab_size``), in evaluation, with layer norms that do not round to float32
    within. Only then the model is changed. It takes a copy of the model in float64 for that time, and one of what is
    centered until the report is forgotten.

    A bias of zero goes; another stays, in a :class:`~normscope.swapping.biased_rms_norm.BiasedRMSNorm`. An embedding
    that is tied to the output layer is untied, for the output layer must not be centered; the model grows by that. Make
    an optimizer afterwards.

    Args:
        model: Any module; all layer norms that ``where`` leaves must read a stream that can be centered.
        *args: What the model is called with. Without any, the ``dummy_inputs`` of a Hugging Face model.
        where: Which layer norms: a pattern of names, or a function of name and module; None for all.
        generator: Draws the random inputs; None for a fixed one.
        **inputs: What the model is called with.

    Returns:
        What was changed, and the proof.

    Raises:
        TypeError: If there are no inputs and the model has no ``dummy_inputs``.
        ValueError: If the function would be another one: the message says which layer norms read what; or as for
            ``swap``. Nothing is changed then.

    References:
        Jiang et al. (2023). Pre-RMSNorm and Pre-CRMSNorm transformers. arXiv:2305.14858.
        Departs from it in: the bias is kept with the norm and not folded into what reads it.
    """
    check_open(model)
    found, unreached = find_norms(model)
    chosen, _ = choose(model, found, unreached, "layer_norm", where)
    if strange := [norm.name for norm in chosen if norm.eps_place != "variance" or norm.unbiased]:
        raise ValueError(f"{strange[0]} has eps outside the root or the divisor n - 1, which no RMS norm here has")
    if not args and not inputs:
        if not hasattr(model, "dummy_inputs"):
            raise TypeError("to_rms_norm wants what the model is called with: to_rms_norm(model, batch)")
        dummy: Any = model.dummy_inputs
        device = next((p.device for p in model.parameters()), None)
        inputs = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in dummy.items()}
    calls = [(args, inputs), random_call(model, (args, inputs), generator or torch.Generator().manual_seed(0))]
    twin, wide = widened(model, calls)
    make_exact(twin, chosen)
    with torch.no_grad():
        before = [outputs(twin, call) for call in wide]
    parts, shared = find_writers(twin, chosen, wide[0])
    writers = named(twin, parts.writers)
    untied = untie(twin, writers, shared)
    kept = [name for name, (tensor, _) in writers.items() if id(tensor) in shared]
    parts.doubts.extend(f"{name} is read for something else by the same module" for name in kept)
    with torch.no_grad():
        for tensor, axis in writers.values():
            tensor.sub_(tensor.mean(axis, keepdim=True))
        moments = put_rms(twin, chosen)
        after = [outputs(twin, call) for call in wide]
    worst = max(difference(one, two) for one, two in zip(before, after, strict=True))
    if not worst <= TOLERANCE:
        raise ValueError(_why_not(chosen, moments, parts.doubts, worst))
    return _apply(model, chosen, writers, untied, calls, worst, sum(t.numel() for call in before for t in call))


def _apply(
    model: nn.Module,
    chosen: Sequence[Norm],
    writers: Mapping[str, tuple[Tensor, int]],
    untied: Sequence[str],
    calls: Sequence[Any],
    worst: float,
    count: int,
) -> CenterReport:
    """Change the model itself as its copy was changed."""
    with torch.no_grad(), evaluating(model):
        first = [outputs(model, call) for call in calls]
    ties: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name in untied:
        owner, key = owner_of(model, name)
        tied = owner._parameters[key]
        assert tied is not None
        ties.append((owner, key, tied))
        owner._parameters[key] = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)
    saved = []
    with torch.no_grad():
        for name, (values, _) in writers.items():
            owner, key = owner_of(model, name)
            tensor = owner._parameters.get(key, owner._buffers.get(key))
            assert tensor is not None
            saved.append((tensor, tensor.detach().clone()))
            tensor.copy_(values)
    built = [_built(norm) for norm in chosen]
    norms_back, _ = put(model, built)

    def undo() -> None:
        norms_back()
        with torch.no_grad():
            for tensor, values in saved:
                tensor.copy_(values)
        for owner, key, tied in ties:
            owner._parameters[key] = tied

    with torch.no_grad(), evaluating(model):
        second = [outputs(model, call) for call in calls]
    return CenterReport(
        model=type(model).__name__,
        norms=tuple(norm.name for norm in chosen),
        biased=tuple(one.norm.name for one in built if isinstance(one.module, BiasedRMSNorm)),
        centered=tuple(writers),
        untied=tuple(untied),
        difference=worst,
        own_difference=max(difference(one, two) for one, two in zip(first, second, strict=True)),
        outputs=count,
        _undo=undo,
    )


def _built(norm: Norm) -> Built:
    module = converted(norm, norm.module)
    module.train(norm.module.training)
    return Built(norm=norm, module=module, kept=(), lost=(), difference=0.0)


def _why_not(chosen: Sequence[Norm], moments: Mapping[str, list[float]], doubts: Sequence[str], worst: float) -> str:
    off = [norm.name for norm in chosen if any(not one <= TOLERANCE for one in moments[norm.name])]
    silent = [norm.name for norm in chosen if not moments[norm.name]]
    start = f"the layer norms cannot become RMS norms exactly: outputs would differ by {worst:.1e} of the largest"
    if off:
        why = "; ".join(dict.fromkeys(doubts)) or "something that no weight of the model alone decides"
        few = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
        return f"{start}. What these read has a mean that no weights can be centered to remove: {few}. In it: {why}"
    also = f" ({'; '.join(dict.fromkeys(doubts))})" if doubts else ""
    if silent:
        return f"{start}. These did not run: {', '.join(silent)}"
    return f"{start}. All layer norms read centered rows then, but something else reads its mean, too{also}"
