"""The outputs of a norm and of its replacement compared, on rows of the usual size and on small ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import NormInModel, numeric_eps, traits_of, unwrapped
from normscope.inspection.preserve_state import copy_of
from normscope.inspection.probing import isolated

TOLERANCE = 1e-5
"""Relative: the effect of an eps of the usual size that changes its place, on rows of the usual size."""
_SIZES = tuple(10 ** (-step / 4) for step in range(1, 33))
"""Sizes of small rows, in steps of a quarter of a decade down to 1e-8."""


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """The largest difference of two outputs over the largest output of the old norm, in several measures."""

    usual: float = math.nan
    """On random rows of a size of about one."""
    by_feature: float = math.nan
    """The same, each feature over its own largest output: a feature with a tiny weight counts as any other."""
    small: float = math.nan
    """On rows whose size meets the eps of one of the two norms, the larger ones that differ."""
    small_size: float = math.nan
    """Root mean square of these rows."""
    same_from: float = math.nan
    """The smallest size of rows from which on outputs are the same, 0 if there is none; NaN if that was not asked."""
    trouble: str = ""
    """Why nothing could be measured."""


def measure(old: nn.Module, new: nn.Module, norm: NormInModel, tolerance: float | None = None) -> OutputDifference:
    """Run copies of two modules on random rows and compare their outputs, in float64.

    A new module that does not run in float64 on a CPU runs in the dtype and on the device of the old one.

    Args:
        old: The old module.
        new: The new module.
        norm: The old norm, which has the shape of an input.
        tolerance: The difference up to which outputs are the same; None if ``same_from`` is not wanted.
    """
    x = torch.randn(norm.sample, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.3
    with isolated(), torch.no_grad():
        twin = _with_eps(copy_of(old), norm)
        before = twin.forward(x)
        replaced, after = _run(new, norm, x)
        if isinstance(after, str):
            words = f"{type(new).__name__} did not run in place of {norm.name} on {list(x.shape)}: {after}"
            width = torch.Size(norm.shape).numel()
            long = [p.numel() for p in new.parameters() if p.numel() > 1 and p.numel() == max(p.shape)]
            if long and width not in long:
                words += f". Its width is another: it has {long[0]} entries for {width}"
            return OutputDifference(trouble=words)
        if after.shape != before.shape:
            shapes = f"gives {list(after.shape)} for {norm.name} where {type(old).__name__} gave {list(before.shape)}"
            return OutputDifference(trouble=f"{type(new).__name__} {shapes}")
        if before.isnan().any():
            return OutputDifference(trouble=f"the output of {norm.name} is not a number")

        def at(size: float) -> float:
            return relative(twin.forward(size * x), replaced(size * x))

        usual = relative(before, after)
        sizes = sorted({size for size in (*_meeting(norm), *_meeting(new, norm.shape)) if size < 1}, reverse=True)
        met = {size: at(size) for size in sizes} or {1.0: usual}
        small_size = next((size for size in met if not met[size] <= TOLERANCE), next(iter(met)))
        same_from = math.nan
        if tolerance is not None and usual <= tolerance:
            different = next((place for place, size in enumerate(_SIZES) if not at(size) <= tolerance), None)
            same_from = 0.0 if different is None else (1.0, *_SIZES)[different]
        return OutputDifference(
            usual=usual,
            by_feature=max(map(relative, _by_feature(norm, before), _by_feature(norm, after))),
            small=met[small_size],
            small_size=small_size,
            same_from=same_from,
        )


def _run(new: nn.Module, norm: NormInModel, x: Tensor) -> tuple[Any, Any]:
    """Return the function that runs a copy of a module, and its output; or a text that says why it does not run."""
    place = next((p for p in norm.holder.parameters() if p.dtype.is_floating_point and not p.is_meta), None)
    where: Sequence[tuple[Any, Any]] = [(x.device, x.dtype)]
    if place is not None:
        where = [*where, (place.device, place.dtype)]
    trouble = ""
    for device, dtype in where:
        twin = _with_eps(copy_of(new), norm).to(device=device, dtype=dtype)

        def run(rows: Tensor, twin: nn.Module = twin, device: Any = device, dtype: Any = dtype) -> Tensor:
            output: Any = twin.forward(rows.to(device=device, dtype=dtype))
            if not isinstance(output, Tensor):
                raise TypeError(f"gives a {type(output).__name__}")
            return output.to(x)

        try:
            return run, run(x)
        except Exception as error:
            # A user's module may fail in any way.
            trouble = trouble or str(error).partition("\n")[0] or type(error).__name__
    return None, trouble


def _by_feature(norm: NormInModel, tensor: Tensor) -> Tensor:
    """Return the numbers of each feature, one row per feature."""
    return tensor.movedim(1, 0).flatten(1) if norm.channels_first else tensor.reshape(-1, tensor[0, 0].numel()).T


def _with_eps(twin: nn.Module, norm: NormInModel) -> nn.Module:
    """Give a copy in float64 the eps of the place: that of torch's RMSNorm may be the machine epsilon of its input."""
    dtype = next((p.dtype for p in norm.holder.parameters()), torch.float32)
    for module in twin.modules():
        if isinstance(module, nn.RMSNorm) and module.eps is None:
            module.eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    return twin


def relative(before: Tensor, after: Tensor) -> float:
    """Compute the largest difference over the largest entry before."""
    return float((after - before).abs().amax() / before.abs().amax().clamp(min=1e-300))


def _meeting(norm: NormInModel | nn.Module, shape: tuple[int, ...] = ()) -> list[float]:
    """Return the root mean square of rows at which eps counts as much as the row: the divisor is another, or twice."""
    if isinstance(norm, NormInModel):
        eps, place, shape = norm.eps_at(torch.float32), norm.traits.eps_place, norm.shape
    else:
        traits = traits_of(unwrapped(norm))
        eps, place = numeric_eps(unwrapped(norm)), None if traits is None else traits.eps_place
    if not eps or place is None:
        return []
    return [{"variance": eps**0.5, "deviation": eps, "length": eps / torch.Size(shape).numel() ** 0.5 / 2}[place]]
