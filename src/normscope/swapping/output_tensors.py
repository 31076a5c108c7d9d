"""The tensors that a model gives, wherever they stand in what it returns."""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

_CLOSED = (nn.Module, ModuleType, type, str, bytes, bytearray, range)
"""What is not looked into."""


def tensors_in(output: Any) -> dict[str, Tensor]:
    """List the tensors of a floating or complex dtype in what a model returned.

    Looked into are mappings, sequences and the attributes of any other object: dataclasses, output classes, caches,
    distributions. Modules and sets are not.

    Args:
        output: Anything.

    Returns:
        From places, such as ``logits`` or ``past.0.keys``, to tensors; each tensor once. The place of the output itself
        is the empty one.
    """
    found: dict[str, Tensor] = {}
    # Objects are held, for an identity is free for others once its object is gone.
    seen: dict[int, Any] = {}
    waiting: list[tuple[str, Any]] = [("", output)]
    while waiting:
        place, one = waiting.pop()
        if id(one) in seen or isinstance(one, _CLOSED):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            if one.is_floating_point() or one.is_complex():
                found[place] = one
            continue
        parts = [(f"{place}.{key}" if place else str(key), value) for key, value in _parts(one)]
        waiting.extend(reversed(parts))
    return found


def _parts(one: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(one, Mapping):
        yield from one.items()
    elif isinstance(one, Sequence):
        yield from enumerate(one)
    else:
        yield from getattr(one, "__dict__", {}).items()
        for kind in type(one).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(one, name):
                    yield name, getattr(one, name)
