"""Comparison of a model before and after a change, on the same inputs."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.preserve_state import untouched
from normscope.torch_internals import buffers_of, parameters_of

_CLOSED = (nn.Module, ModuleType, type, str, bytes, bytearray, range)
"""Types whose contents are not searched."""


def tensors_in(output: Any) -> dict[str, Tensor]:
    """List the tensors of a floating or complex dtype in the output of a model.

    Mappings, sequences and the attributes of any other object are searched: dataclasses, output classes, caches,
    distributions. Modules and sets are not.

    Args:
        output: Any object.

    Returns:
        From paths, such as ``logits`` or ``past.0.keys``, to tensors; each tensor once. The path of the output itself
        is empty.
    """
    found: dict[str, Tensor] = {}
    # Keep references: an ``id`` may be reused once its object is freed.
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
"""Relative change of the outputs of the norms, to measure how the model's outputs follow."""
_SMALLEST = 1e-6
"""Lower bound of a size, relative to the median of the others: below it a change may be rounding."""


def scales(before: Mapping[str, Tensor], nudged: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the size of every output: its change, extrapolated to a change of the norms' outputs by 100 percent.

    It is the median over the values that changed, which excludes constants, such as the lowest number under a mask.

    Args:
        before: The outputs.
        nudged: The same, with the outputs of the norms changed by :data:`NUDGE`.

    Returns:
        From paths to sizes; all are 0 if nothing changed.
    """
    sizes = {}
    for place, one in before.items():
        gap = _gap(one, nudged[place])
        moved = gap[gap.isfinite() & (gap > 0)]
        sizes[place] = float(moved.median()) / NUDGE if moved.numel() else 0.0
    positive = sorted(size for size in sizes.values() if size)
    least = _SMALLEST * positive[len(positive) // 2] if positive else 0.0
    return {place: max(size, least) for place, size in sizes.items()}


def largest_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Compute the largest difference of any value, over the larger of the value and the size of its output.

    Args:
        before: The outputs.
        after: The outputs of the changed model.
        sizes: The sizes of the outputs, see :func:`scales`.

    Returns:
        Infinity if a difference is NaN. Equal infinities do not differ.

    Raises:
        ValueError: If the paths or shapes of the outputs differ.
    """
    return max((float(ratios.amax()) for ratios in _ratios(before, after, sizes)), default=0.0)


def median_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Compute the same for the median value of each output, and return the largest."""
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
    # Values under a mask may be infinite in both.
    gap = torch.where(one == two, 0.0, (one - two).abs())
    return gap.nan_to_num(nan=math.inf, posinf=math.inf)


def _wide(one: Tensor) -> Tensor:
    return one.detach().to(torch.complex128 if one.is_complex() else torch.float64)


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model."""


def check_copies(model: nn.Module) -> None:
    """Refuse a model whose copies may compute something else.

    Raises:
        ValueError: If an instance has its own ``forward``, or a tensor is on the meta device.
    """
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else f"the {type(module).__name__} itself"
        if "forward" in vars(module):
            raise ValueError(
                f"the forward of {where} was put on the instance (by another library?), and a copy may run the "
                f"original: undo that first"
            )
        for key, tensor in (*parameters_of(module).items(), *buffers_of(module).items()):
            if tensor is not None and tensor.is_meta:
                raise ValueError(
                    f"{key} of {where} is on the meta device and has no numbers to center: load the weights first"
                )


def widened(model: nn.Module, calls: Sequence[Call]) -> tuple[nn.Module, list[Call]]:
    """Copy a model and its arguments in float64, in evaluation, with gradients for all parameters and buffers."""
    twin = copy.deepcopy(model).double().eval()
    tensors = [*twin.parameters()]
    # A buffer added to the stream must appear in the graph; torch's running moments cannot require gradients.
    tensors += [buffer for name, buffer in twin.named_buffers() if "running_" not in name]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.requires_grad_(True)
    return twin, [copied(call, torch.float64) for call in calls]


def outputs(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """Run a model and list all floating-point tensors that it returns, see :func:`tensors_in`.

    Raises:
        ValueError: If it returns none.
    """
    args, inputs = call
    given = model(*args, **inputs)
    if not (found := tensors_in(given)):
        raise ValueError(
            f"{type(model).__name__} must return tensors of a floating dtype, which can be compared, and gave "
            f"{_described(given)}: to_rms_norm expects a model that returns its scores"
        )
    return found


def replay(
    model: nn.Module,
    calls: Sequence[Call],
    *,
    modes: Mapping[str, bool] | None = None,
    seed: int = 0,
    copies: bool = False,
) -> list[dict[str, Tensor]]:
    """Run a model on every call without gradients, from the same random state, and leave the model as it was.

    Args:
        model: Any module.
        calls: Its arguments, which the model may write to: it is given copies.
        modes: From names of its modules to whether they are in training mode, in which unnamed ones are; None for
            evaluation.
        seed: Seed of torch's random state before every call.
        copies: Whether the model works on copies of its parameters, which leaves them as they were even if it writes to
            them.

    Returns:
        What :func:`outputs` returns for every call.
    """
    given = []
    for call in calls:
        with torch.no_grad(), untouched(model, seed=seed, copies=copies):
            model.train(modes is not None)
            for name, module in model.named_modules() if modes else ():
                module.training = modes.get(name, True) if modes else module.training
            given.append(outputs(model, copied(call)))
    return given


def copied(call: Call, dtype: torch.dtype | None = None) -> Call:
    """Copy the arguments of a call, also inside of objects that a model fills, such as a cache.

    Args:
        call: Arguments of a model.
        dtype: Of the floating-point tensors in the copy; None for their own.
    """
    given = tensors_in(call).values()
    wide = [dtype if dtype and one.is_floating_point() else one.dtype for one in given]
    copies = {id(one): one.detach().to(each, copy=True) for one, each in zip(given, wide, strict=True)}
    # Those in the memo are not copied again: deepcopy refuses tensors with a graph.
    return copy.deepcopy(call, copies)


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Use float64 as the default dtype inside the block, for tensors that a model creates itself."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def is_float(one: Any) -> bool:
    """Return whether an object is a floating-point tensor."""
    return isinstance(one, Tensor) and one.is_floating_point()


def _described(given: Any) -> str:
    return f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
