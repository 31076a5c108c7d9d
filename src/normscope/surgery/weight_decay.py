"""Which parameters belong to norms, and groups of them for an optimizer's weight decay."""

import math
from numbers import Real
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from normscope.inspection.behaviour import width_of
from normscope.inspection.equation import base_of
from normscope.inspection.find import find_norms


def norm_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """List every parameter of every norm in a model: gains, biases, slopes, thresholds.

    Norms are found as :func:`~normscope.surgery.swap.swap` finds them, those that it could not replace included. Of
    what only looks like one, by the name of its class (also with children, such as an activation or an inner norm) or
    by an eps, its own parameters are listed if all of them are vectors; two axes are a matrix, and single numbers count
    by the name only. Of a fused module those that are called a norm's are listed. What has neither such a name nor an
    eps is not known.

    Args:
        model: Any module.

    Returns:
        From names to parameters, in the order of the model; a parameter that is shared is there once, under its first
        name, which may be one outside of the norm.

    Raises:
        TypeError: If it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found, unreached = find_norms(model)
    inside = {id(p) for norm in found for p in norm.module.parameters()}
    for module in [model.get_submodule(one.name) for one in unreached]:
        fused = {id(p) for key, p in module._parameters.items() if _of_fused_norm(key)}
        if base_of(module) is not None:
            inside |= {id(p) for p in module.parameters()}
        else:
            inside |= fused or _own_vectors(module)
    for module in model.modules():
        if _is_called_norm(module):
            inside |= _own_vectors(module)
    return {name: p for name, p in model.named_parameters() if id(p) in inside}


def norm_parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norms: bool = False, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Split a model's parameters into those that decay and those that do not, for any optimizer of torch's.

    Biases are vectors with a name that ends with ``bias`` or has a word that starts so: ``bias``, ``in_proj_bias``,
    ``bias_ih_l0``, ``bias_k``. Frozen parameters are left out.

    Args:
        model: Any module.
        weight_decay: Of the first group.
        decay_norms: Whether the parameters of norms decay, too: the other half of an ablation.
        decay_biases: Whether biases decay, too.

    Returns:
        Two groups, the second with ``weight_decay`` zero, each with ``params`` and, for people to read, ``names``; a
        group without parameters is left out.

    Raises:
        TypeError: If ``model`` is no module, or ``weight_decay`` no number.
        ValueError: If ``weight_decay`` is negative or not finite, nothing is trained, or a parameter has no shape yet.
    """
    norms = {id(p) for p in norm_parameters(model).values()}
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, Real):
        raise TypeError(f"weight_decay must be a number, got {weight_decay!r}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    if math.isinf(weight_decay):
        raise ValueError(f"weight_decay must be finite, got {weight_decay}")
    if lazy := [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]:
        raise ValueError(f"{', '.join(lazy)} of {type(model).__name__} has no shape yet (lazy): run a batch first")
    decaying: dict[str, nn.Parameter] = {}
    resting: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = decay_norms if id(parameter) in norms else decay_biases or not _is_bias(name, parameter)
        (decaying if decays else resting)[name] = parameter
    groups = [
        {"params": list(one.values()), "names": list(one), "weight_decay": decay}
        for one, decay in ((decaying, weight_decay), (resting, 0.0))
        if one
    ]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter that is trained")
    return groups


def _is_called_norm(module: nn.Module) -> bool:
    """Return whether a class is called a norm: by its last word, or anywhere if nothing in it has a matrix."""
    name = type(module).__name__.lower()
    if "norm" not in name or type(module).__module__.startswith("torch.nn.utils."):
        return False
    return name.rstrip("0123456789d").endswith("norm") or all(_is_no_matrix(p) for p in module.parameters())


def _own_vectors(module: nn.Module) -> set[int]:
    """Give a module's own parameters if all of them are vectors: a matrix beside them makes it something else."""
    behind = module._modules.get("parametrizations")
    own = [*module.parameters(recurse=False), *([] if behind is None else behind.parameters())]
    return {id(p) for p in own} if all(_is_no_matrix(p) for p in own) else set()


def _of_fused_norm(key: str) -> bool:
    return "norm_" in key or key.startswith("ln_")


def _is_vector(parameter: nn.Parameter) -> bool:
    """Return whether a parameter has one axis, or none, besides axes of one."""
    return parameter.dim() == 0 or width_of(parameter.shape) > 0


def _is_no_matrix(parameter: nn.Parameter) -> bool:
    """Tell a vector from a matrix of one row or column, as a linear layer with one output has; no shape is none yet."""
    return isinstance(parameter, UninitializedParameter) or (_is_vector(parameter) and parameter.dim() != 2)


def _is_bias(name: str, parameter: nn.Parameter) -> bool:
    parts = name.split(".")
    key = parts[parts.index("parametrizations") + 1] if "parametrizations" in parts[:-1] else parts[-1]
    named = key.endswith("bias") or any(word.startswith("bias") for word in key.split("_"))
    return named and _is_vector(parameter)
