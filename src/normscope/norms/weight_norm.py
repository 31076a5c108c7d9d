"""Weight normalization: the weights of a layer as a direction and a length. A parametrization, not a layer."""

from collections import Counter

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from normscope.arguments import check_arguments
from normscope.kernels.scaling import in_range
from normscope.norms.moments import length, widen

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def weight_norm(v: Tensor, g: Tensor) -> Tensor:
    r"""Return weights whose rows have the directions of ``v`` and the lengths ``g``.

    .. math:: w_i = g_i \frac{v_i}{\lVert v_i \rVert_2}

    Args:
        v: ``[units, ...]``, one row or filter per unit, of nonzero length; a floating dtype.
        g: One length per unit, ``[units]`` or ``[units, 1, ...]``.

    Returns:
        The shape and dtype of ``v``.

    References:
        Salimans, Kingma (2016). Weight normalization. arXiv:1602.07868, eq. (2).
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope.norms import weight_norm
        >>> weight_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0]))
        tensor([[1.2000, 1.6000]])
    """
    over = tuple(range(1, v.dim()))
    wide, _, _ = in_range(widen(v), over)
    size = length(wide, over)
    return (widen(g).reshape(size.shape) * wide / size).to(v.dtype)


@check_arguments
def apply_weight_norm(model: nn.Module) -> int:
    """Parametrize every linear and convolutional weight of ``model``, in place.

    The function of the model does not change, up to rounding. The weights become new parameters, so build the optimizer
    afterwards. Bilinear and recurrent layers are not changed.

    Args:
        model: Contains ``nn.Linear`` or ``nn.Conv*`` layers, or is one. It is not changed if an error is raised.

    Returns:
        Number of parametrized weights, at least one.

    Raises:
        ValueError: If there is no such weight, or one is parametrized already, is shared with another layer (the
            sharing would be lost), or has a unit of length zero (its direction is undefined).

    References:
        Salimans, Kingma (2016). Weight normalization. arXiv:1602.07868, eq. (2).
        Departs from it in: there is no data-dependent initialization; lengths start at those of the weights.

    Example:
        >>> import torch
        >>> from normscope import apply_weight_norm
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> apply_weight_norm(model)
        2
        >>> [name for name, _ in model[0].named_parameters()]
        ['bias', 'parametrizations.weight.original0', 'parametrizations.weight.original1']
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _WEIGHTED)}
    if not layers:
        raise ValueError(f"weight normalization expects a model with linear or convolutional layers, got {model}")
    uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name, layer in layers.items():
        where = f"weight normalization of {name or type(layer).__name__}"
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"{where} expects a plain weight, got one that is parametrized already")
        if uses[id(layer.weight)] > 1:
            raise ValueError(f"{where} expects an unshared weight, got one that {uses[id(layer.weight)]} layers share")
        units = layer.weight.detach().movedim(_unit_axis(layer), 0).flatten(1)
        if (units == 0).all(1).any():
            raise ValueError(f"{where} expects units of positive length, got a unit whose weights are all zero")
    for layer in layers.values():
        parametrizations.weight_norm(layer, dim=_unit_axis(layer))
    return len(layers)


def _unit_axis(layer: nn.Module) -> int:
    """Return the axis of a layer's weight that indexes its output units."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0
