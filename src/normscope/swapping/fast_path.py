"""torch's fused transformer layer, which reads the norms' numbers instead of calling the norms."""

from collections.abc import Callable

from torch import nn


def leave_fast_path(model: nn.Module, changed: set[int]) -> tuple[list[str], Callable[[], None]]:
    """Keep encoder layers whose norms were swapped from computing layer norms of their own in evaluation.

    In evaluation without gradients ``nn.TransformerEncoderLayer`` calls one fused operator with ``norm1.weight``,
    ``norm1.bias`` and ``norm1.eps``: a norm that was put there would never run, or miss an attribute. What is set to
    prevent it is ``activation_relu_or_gelu = 0`` of the layer and ``use_nested_tensor = False`` of its encoder, both of
    which serve that path only.

    Args:
        model: Any module.
        changed: The identities of the norms that are new.

    Returns:
        Words about what was set, and a function that sets it back.
    """
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.TransformerEncoderLayer) and {id(layer.norm1), id(layer.norm2)} & changed
    ]
    inside = {id(layer) for _, layer in layers}
    encoders = [
        encoder
        for encoder in model.modules()
        if isinstance(encoder, nn.TransformerEncoder) and any(id(layer) in inside for layer in encoder.layers)
    ]
    before: list[tuple[nn.Module, str, object]] = []
    for _, layer in layers:
        before.append((layer, "activation_relu_or_gelu", layer.activation_relu_or_gelu))
        layer.activation_relu_or_gelu = 0
    for encoder in encoders:
        if hasattr(encoder, "use_nested_tensor"):
            before.append((encoder, "use_nested_tensor", encoder.use_nested_tensor))
            encoder.use_nested_tensor = False

    def back() -> None:
        for module, name, value in before:
            setattr(module, name, value)

    told = [f"the fused path of {len(layers)} nn.TransformerEncoderLayer, which reads norm1.weight itself, is off"]
    return (told if any(value for _, _, value in before) else []), back
