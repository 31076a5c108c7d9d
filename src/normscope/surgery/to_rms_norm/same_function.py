"""Is it the same function? A model run before and after, on the same inputs."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

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


NUDGE = 1e-3
"""Relative: by how much what the norms give is moved, to see how outputs follow."""
_SMALLEST = 1e-6
"""An output that follows less than this part of what the others do is compared with that part: it may be rounding."""


def scales(before: Mapping[str, Tensor], nudged: Mapping[str, Tensor]) -> dict[str, float]:
    """Give every output a size: how far it moves when all that the norms give is moved by all of itself.

    It is the median over the numbers that moved at all, so that constants in them, such as the lowest number under a
    mask, have no part in it.

    Args:
        before: The outputs.
        nudged: The same, with what the norms give moved by :data:`NUDGE`.

    Returns:
        From places to sizes; all are 0 where nothing moved.
    """
    sizes = {}
    for place, one in before.items():
        gap = _gap(one, nudged[place])
        moved = gap[gap.isfinite() & (gap > 0)]
        sizes[place] = float(moved.median()) / NUDGE if moved.numel() else 0.0
    felt = sorted(size for size in sizes.values() if size)
    least = _SMALLEST * felt[len(felt) // 2] if felt else 0.0
    return {place: max(size, least) for place, size in sizes.items()}


def apart(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Give the largest difference of any number, over the larger of itself and its output's size.

    Args:
        before: The outputs.
        after: The same, of a changed model.
        sizes: Of the outputs, see :func:`scales`.

    Returns:
        Infinity where one is not a number. Equal infinities do not differ.

    Raises:
        ValueError: If the outputs are others, or of other shapes.
    """
    return max((float(ratios.amax()) for ratios in _ratios(before, after, sizes)), default=0.0)


def usually_apart(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Give the same for the median number of each output, and the largest of these."""
    return max((float(ratios.median()) for ratios in _ratios(before, after, sizes)), default=0.0)


def _ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> Iterator[Tensor]:
    shapes = [{place: list(one.shape) for place, one in outputs.items()} for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the model gives {shapes[1]} where it gave {shapes[0]}")
    for place, one in before.items():
        if not one.numel():
            continue
        gap = _gap(one, after[place])
        size = _wide(one).abs().nan_to_num(posinf=0.0).clamp(min=sizes[place])
        yield torch.where(gap > 0, gap / size, gap.new_zeros(())).nan_to_num(nan=math.inf, posinf=math.inf)


def _gap(one: Tensor, two: Tensor) -> Tensor:
    one, two = _wide(one), _wide(two)
    # Masks may be infinite in both.
    gap = torch.where(one == two, 0.0, (one - two).abs())
    return gap.nan_to_num(nan=math.inf, posinf=math.inf)


def _wide(one: Tensor) -> Tensor:
    return one.detach().to(torch.complex128 if one.is_complex() else torch.float64)


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model is called with, by place and by name."""


def check_copies(model: nn.Module) -> None:
    """Refuse what a copy of the model would not compute with.

    Raises:
        ValueError: If a forward stands on an instance, or a tensor on the meta device.
    """
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else f"the {type(module).__name__} itself"
        if "forward" in vars(module):
            raise ValueError(
                f"the forward of {where} was put on the instance (by another library?), and a copy may run the "
                f"original: undo that first"
            )
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.is_meta:
                raise ValueError(
                    f"{key} of {where} is on the meta device and has no numbers to center: load the weights first"
                )


def widened(model: nn.Module, calls: Sequence[Call]) -> tuple[nn.Module, list[Call]]:
    """Copy a model and what it is called with in float64, in evaluation, everything with a gradient."""
    twin = copy.deepcopy(model).double().eval()
    tensors = [*twin.parameters()]
    # A constant that is added to the stream is to be seen in the graph; torch's running moments may not be.
    tensors += [buffer for name, buffer in twin.named_buffers() if "running_" not in name]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.requires_grad_(True)
    return twin, [tree_map(lambda one: one.double() if is_float(one) else one, call) for call in calls]


def outputs(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """Run a model and list all tensors of a floating dtype that it gives, see :func:`tensors_in`.

    Raises:
        ValueError: If it gives none.
    """
    args, inputs = call
    given = model(*args, **inputs)
    if not (found := tensors_in(given)):
        raise ValueError(
            f"{type(model).__name__} must return what can be compared, tensors of a floating dtype, and gave "
            f"{_described(given)}: to_rms_norm wants a model that returns its scores"
        )
    return found


def random_call(model: nn.Module, call: Call, generator: torch.Generator) -> Call:
    """Draw inputs of the same shapes.

    Args:
        model: Its ``config.vocab_size``, if it has one, bounds words: ``input_ids``, or the first input.
        call: What it is called with. Flags and words stay.
        generator: Draws.

    Returns:
        Normal numbers for floating ones, words for words, any of the given ones for other whole numbers.
    """
    args, inputs = call
    limit = getattr(getattr(model, "config", None), "vocab_size", None)

    def draw(one: Any, words: int | None = None) -> Any:
        if is_float(one):
            return torch.randn(one.shape, generator=generator, dtype=one.dtype).to(one.device)
        if isinstance(one, Tensor) and one.dtype in {torch.int64, torch.int32} and one.numel():
            if isinstance(words, int):
                fresh = torch.randint(0, words, one.shape, generator=generator)
            else:
                fresh = one.flatten().cpu()[torch.randint(0, one.numel(), (one.numel(),), generator=generator)]
            return fresh.reshape(one.shape).to(one.device, one.dtype)
        return one

    drawn = tuple(tree_map(lambda one: draw(one, limit), args[:1])) + tuple(tree_map(draw, args[1:]))
    named = {
        name: tree_map(lambda one, name=name: draw(one, limit if name.endswith("input_ids") else None), value)
        for name, value in inputs.items()
    }
    return drawn, named


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate inside, and go back to every module's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Make float64 what a model gets that makes tensors of its own, such as limits of the dtype it works in."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def is_float(one: Any) -> bool:
    """Return whether something is a tensor of a floating dtype."""
    return isinstance(one, Tensor) and one.is_floating_point()


def _described(given: Any) -> str:
    return f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
