"""torch's fused transformer layer, which reads the norms' numbers instead of calling the norms."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import nn

_OFF: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
"""Of every module that was switched off: what its switch was before, and how many swaps still need it off."""


def leave_fast_path(model: nn.Module, changed: set[int]) -> tuple[list[str], Callable[[], None]]:
    """Keep encoder layers whose norms were swapped from computing layer norms of their own in evaluation.

    In evaluation without gradients ``nn.TransformerEncoderLayer`` calls one fused operator with ``norm1.weight``,
    ``norm1.bias`` and ``norm1.eps``: a norm that was put there would never run, or miss an attribute. What is set to
    prevent it is ``activation_relu_or_gelu = 0`` of the layer and ``use_nested_tensor = False`` of its encoder, both of
    which serve that path only. They stay so until all swaps that set them are undone, in whatever order.

    Args:
        model: Any module.
        changed: The identities of the norms that are new.

    Returns:
        Words about what was set, and a function that sets it back.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer) and {id(layer.norm1), id(layer.norm2)} & changed
    ]
    inside = {id(layer) for layer in layers}
    encoders = [
        encoder
        for encoder in model.modules()
        if isinstance(encoder, nn.TransformerEncoder)
        and hasattr(encoder, "use_nested_tensor")
        and any(id(layer) in inside for layer in encoder.layers)
    ]
    switches = [
        *((layer, "activation_relu_or_gelu", 0) for layer in layers),
        *((encoder, "use_nested_tensor", False) for encoder in encoders),
    ]
    told = []
    if any(getattr(module, name) for module, name, _ in switches):
        told.append(
            f"the fused path of {len(layers)} nn.TransformerEncoderLayer, which reads norm1.weight itself, is off"
        )
    if layers and isinstance(model, nn.TransformerEncoderLayer | nn.ModuleList):
        told.append(
            "an nn.TransformerEncoder that holds this from outside was not seen: set its use_nested_tensor = False, or "
            "swap in the encoder"
        )
    for module, name, off in switches:
        _OFF.setdefault(module, [getattr(module, name), 0])[1] += 1
        setattr(module, name, off)

    def back() -> None:
        for module, name, _ in switches:
            before, swaps = _OFF.pop(module)
            if swaps > 1:
                _OFF[module] = [before, swaps - 1]
            else:
                setattr(module, name, before)

    return told, back
