"""Which conversion centered a tensor last: conversions are undone last in, first out."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_ORDER = WeakTensorKeyDictionary()
"""From a tensor to the conversions that centered it and were not undone, in their order. It keeps no tensor alive."""


def enter(tensors: Sequence[Tensor]) -> object:
    """Note that a conversion centered some tensors.

    Returns:
        What stands for the conversion.
    """
    turn = object()
    for tensor in tensors:
        _ORDER[tensor] = [*(_ORDER.get(tensor) or ()), turn]
    return turn


def check_last(tensors: Sequence[Tensor], turn: object) -> None:
    """See that no other conversion stands on tensors of this one.

    Raises:
        RuntimeError: If a later one centered some of them, too, and was not undone.
    """
    if later := sum(_ORDER[tensor][-1] is not turn for tensor in tensors):
        raise RuntimeError(
            f"a later to_rms_norm stands on {later} of the {len(tensors)} tensors that this one centered: undo it first"
        )


def leave(tensors: Sequence[Tensor], turn: object) -> None:
    """Forget a conversion that was undone."""
    for tensor in tensors:
        _ORDER[tensor] = [one for one in _ORDER[tensor] if one is not turn]
