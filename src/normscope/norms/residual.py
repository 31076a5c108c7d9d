"""A norm by its definition, of an input or of its sum with a residual."""

from collections.abc import Callable

from torch import Tensor, nn

from normscope.norms.checks import check_input


def defined(
    module: nn.Module, definition: Callable[[Tensor], Tensor], x: Tensor, residual: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute a norm by differentiable operations.

    Args:
        module: The norm, for the words of an error, with its ``normalized_shape``.
        definition: What it computes.
        x: ``[..., D]``.
        residual: Added to ``x`` before; None for none.

    Returns:
        The norm of ``x``; with a residual the norm of the sum, and the sum.

    Raises:
        TypeError: If ``x`` is not of a floating dtype.
        ValueError: If the trailing axes of ``x`` differ, or the residual is of another shape or dtype.
    """
    check_input(module, x, module.normalized_shape)  # pyright: ignore[reportArgumentType]
    if residual is None:
        return definition(x)
    if (residual.shape, residual.dtype) != (x.shape, x.dtype):
        wanted, got = ((list(one.shape), one.dtype) for one in (x, residual))
        raise ValueError(f"{module} expects a residual like its input, {wanted}, got {got}")
    total = x + residual
    return definition(total), total
