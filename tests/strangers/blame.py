"""Say what is wrong with tensors, and whether a norm of ours made it so."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strangers.inputs import floats_in
from strangers.snapshot import digest


class CheckFailed(AssertionError):
    """Something came out otherwise than it must."""


class NotOurs(CheckFailed):
    """Something came out otherwise, and not by a part of ours."""


def same(expected: Sequence[Tensor], got: Sequence[Tensor], what: str) -> None:
    """Check that two lists of tensors are bit-identical.

    Raises:
        CheckFailed: If they are not.
    """
    if [digest(each) for each in expected] != [digest(each) for each in got]:
        shapes = [tuple(each.shape) for each in expected], [tuple(each.shape) for each in got]
        apart = f"shapes {shapes[0]} and {shapes[1]}" if shapes[0] != shapes[1] else f"apart by {_apart(expected, got)}"
        raise CheckFailed(f"{what} are not the same: {apart}")


def _apart(expected: Sequence[Tensor], got: Sequence[Tensor]) -> str:
    sizes = [float((a.double() - b.double()).abs().max()) for a, b in zip(expected, got, strict=True)]
    return f"{max(sizes):.1e}"


def near(expected: Sequence[Tensor], got: Sequence[Tensor], what: str, tolerance: float) -> None:
    """Check that two lists of tensors are equal to a part of the largest number of each tensor.

    Raises:
        CheckFailed: If they are not.
    """
    for one, other in zip(expected, got, strict=True):
        apart, size = float((one.double() - other.double()).abs().max()), float(one.double().abs().max())
        if not apart <= tolerance * size + 1e-6:
            raise CheckFailed(f"{what} are {apart:.1e} apart, the largest is {size:.1e}")


def finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in floats_in(value))


def alive(value: Any) -> bool:
    return any(bool(tensor.count_nonzero()) for tensor in floats_in(value))


def blamed(
    model: nn.Module, run: Callable[[], Any], what: str, good: Callable[[Any], bool] = finite, name: str = "finite"
) -> CheckFailed:
    """Return the error of a model whose values are not good: ours if a norm of ours made them so from good ones.

    Without the old norms a random network may well shrink its signal to zero, or let it grow, until it divides by it.
    """
    wrong: list[str] = []

    def forward(module: nn.Module, given: Any, output: Any) -> None:
        if good(given) and not good(output):
            wrong.append(f"a {type(module).__name__} makes a {name} input not {name}")

    def backward(module: nn.Module, given: Any, above: Any) -> None:
        if good(above) and not good(given):
            wrong.append(f"a {type(module).__name__} makes a {name} gradient not {name}")

    norms = [module for module in model.modules() if type(module).__module__.startswith("normscope.")]
    hooks = [norm.register_forward_hook(forward) for norm in norms]
    if torch.is_grad_enabled():
        hooks += [norm.register_full_backward_hook(backward) for norm in norms]
    run()
    for hook in hooks:
        hook.remove()
    if wrong:
        return CheckFailed(f"{what}: {wrong[0]}")
    return NotOurs(f"{what}, and every norm of ours gives {name} values for {name} ones")
