"""The parameters of norms, and parameter groups for an optimizer's weight decay."""

import math
from numbers import Real
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from normscope.arguments import check_arguments
from normscope.inspection.behaviour import width_of
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import torch_base
from normscope.torch_internals import children_of, parameters_of


@check_arguments
def norm_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """List every parameter of every norm in a model: weights, biases, slopes, thresholds.

    Norms are found as :func:`~normscope.surgery.swap.swap` finds them, including those that it cannot replace. A module
    that may be a norm, by the name of its class (also with children, such as an activation or an inner norm) or by an
    eps, contributes its direct parameters if all of them are vectors; a single number counts only with such a name. A
    fused module contributes the parameters that are named after a norm.

    Args:
        model: Any module.

    Returns:
        From names to parameters, in the order of the model. A shared parameter is listed once, under its first name,
        which may be outside of the norm.

    Raises:
        TypeError: If ``model`` is not a module.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> list(normscope.norm_parameters(model))
        ['1.weight', '1.bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    norms, unreachable = find_norms(model, for_replacement=True)
    inside = {id(p) for norm in norms for p in norm.module.parameters()}
    for module in [model.get_submodule(one.name) for one in unreachable]:
        fused = {id(p) for key, p in parameters_of(module).items() if _of_fused_norm(key)}
        if torch_base(module) is not None:
            inside |= {id(p) for p in module.parameters()}
        else:
            inside |= fused or _direct_vectors(module)
    for module in model.modules():
        if _is_called_norm(module):
            inside |= _direct_vectors(module)
    return {name: p for name, p in model.named_parameters() if id(p) in inside}


@check_arguments
def norm_parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norms: bool = False, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Split a model's parameters into a group with weight decay and one without, for any optimizer of torch's.

    Biases are vectors whose name ends with ``bias`` or contains a word that starts with it: ``bias``, ``in_proj_bias``,
    ``bias_ih_l0``, ``bias_k``. Frozen parameters are left out.

    Args:
        model: Any module.
        weight_decay: Weight decay of the first group.
        decay_norms: Whether the parameters of norms decay as well, for an ablation.
        decay_biases: Whether biases decay as well.

    Returns:
        Two groups, the second with ``weight_decay`` zero, each with ``params`` and, for inspection, ``names``. A group
        without parameters is left out.

    Raises:
        TypeError: If ``model`` is not a module, or ``weight_decay`` not a number.
        ValueError: If ``weight_decay`` is negative or not finite, all parameters are frozen, or one has no shape yet.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> groups = normscope.norm_parameter_groups(model, weight_decay=0.1)
        >>> [(group["weight_decay"], group["names"]) for group in groups]
        [(0.1, ['0.weight', '2.weight']), (0.0, ['0.bias', '1.weight', '1.bias', '2.bias'])]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
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
        {"params": list(group.values()), "names": list(group), "weight_decay": decay}
        for group, decay in ((decaying, weight_decay), (resting, 0.0))
        if group
    ]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter that is trained")
    return groups


def _is_called_norm(module: nn.Module) -> bool:
    """Return whether a class has the name of a norm: as the last word, or anywhere if it contains no matrix."""
    name = type(module).__name__.lower()
    if "norm" not in name or type(module).__module__.startswith("torch.nn.utils."):
        return False
    return name.rstrip("0123456789d").endswith("norm") or all(_is_not_matrix(p) for p in module.parameters())


def _direct_vectors(module: nn.Module) -> set[int]:
    """Return the identities of a module's direct parameters if all are vectors; with a matrix it is not a norm."""
    behind = children_of(module).get("parametrizations")
    direct = [*module.parameters(recurse=False), *([] if behind is None else behind.parameters())]
    return {id(p) for p in direct} if all(_is_not_matrix(p) for p in direct) else set()


def _of_fused_norm(key: str) -> bool:
    return "norm_" in key or key.startswith("ln_")


def _is_vector(parameter: nn.Parameter) -> bool:
    """Return whether a parameter has at most one axis longer than one."""
    return parameter.dim() == 0 or width_of(parameter.shape) > 0


def _is_not_matrix(parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a vector and not a matrix of one row; a lazy parameter counts as a vector."""
    return isinstance(parameter, UninitializedParameter) or (_is_vector(parameter) and parameter.dim() != 2)


def _is_bias(name: str, parameter: nn.Parameter) -> bool:
    parts = name.split(".")
    key = parts[parts.index("parametrizations") + 1] if "parametrizations" in parts[:-1] else parts[-1]
    named = key.endswith("bias") or any(word.startswith("bias") for word in key.split("_"))
    return named and _is_vector(parameter)
