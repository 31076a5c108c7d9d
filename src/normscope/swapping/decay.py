"""Which parameters belong to norms, and groups of them for an optimizer's weight decay."""

from typing import Any

from torch import nn

from normscope.swapping.find import find_norms


def norm_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """List every parameter of every norm in a model: gains, biases, slopes, thresholds.

    Norms are found as :func:`~normscope.swapping.swap.swap` finds them, those that it could not replace included; what
    only has the name of a norm, or a norm's parameters within a fused module, is listed by its own names.

    Args:
        model: Any module.

    Returns:
        From names to parameters, in the order of the model; a parameter that is shared is there once.
    """
    found, unreached = find_norms(model)
    inside = [*(norm.names[0] for norm in found), *(one.name for one in unreached if not one.why.startswith("fused"))]
    fused = {one.name for one in unreached if one.why.startswith("fused")}
    listed: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        owner, _, key = name.rpartition(".")
        stands_inside = any(owner == norm or owner.startswith(f"{norm}.") or norm == "" for norm in inside)
        if stands_inside or (owner in fused and ("norm_" in key or key.startswith("ln_"))):
            listed[name] = parameter
    return listed


def norm_parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norms: bool = False, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Split a model's parameters into those that decay and those that do not, for any optimizer of torch's.

    Biases are parameters of one axis, or of none, whose name ends with ``bias``. Frozen parameters are left out.

    Args:
        model: Any module.
        weight_decay: Of the first group.
        decay_norms: Whether the parameters of norms decay, too: the other half of an ablation.
        decay_biases: Whether biases decay, too.

    Returns:
        Two groups, the second with ``weight_decay`` zero, each with ``params`` and, for people to read, ``names``; a
        group without parameters is left out.

    Raises:
        ValueError: If ``weight_decay`` is negative, or nothing is trained.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    norms = {id(p) for p in norm_parameters(model).values()}
    decaying: dict[str, nn.Parameter] = {}
    resting: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in norms:
            decays = decay_norms
        else:
            decays = decay_biases or not (parameter.dim() <= 1 and name.rpartition(".")[2].endswith("bias"))
        (decaying if decays else resting)[name] = parameter
    groups = [
        {"params": list(one.values()), "names": list(one), "weight_decay": decay}
        for one, decay in ((decaying, weight_decay), (resting, 0.0))
        if one
    ]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter that is trained")
    return groups
