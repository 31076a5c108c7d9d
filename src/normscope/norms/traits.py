"""The facts about a norm that other packages need, declared once beside its class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, overload

from torch import Tensor

from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, DIVISOR, LENGTH, PHI, RELEASED, ROOT

Statistics = Literal["features", "batch", "channels"]
EpsPlace = Literal["variance", "deviation", "length"]

_EPS_PLACES: dict[int, EpsPlace] = {ROOT: "variance", RELEASED: "deviation", LENGTH: "length"}


@dataclass(frozen=True, kw_only=True)
class NormTraits:
    """What a norm computes, as far as inspection, surgery and diagnostics need it.

    A class declares ``traits`` as a class variable, or as a property where constructor arguments change them; read them
    on an instance. tests/contracts/test_traits.py compares each field with what the module measurably does.

    Example:
        >>> from normscope import AdaNorm, RMSNorm
        >>> RMSNorm(4).traits.centers
        False
        >>> AdaNorm(4).traits.has_factor
        True
    """

    centers: bool
    """Whether the mean is subtracted: a constant added to a group of numbers does not change the output."""
    scales: bool
    """Whether the numbers are divided by their root mean square (after centering) or length."""
    statistics: Statistics | None
    """What shares a mean and a size: the ``features`` of a position, a feature over the ``batch``, or ``channels`` (a
    channel, or a group of them, over the positions of a sample). None for element-wise functions."""
    eps_place: EpsPlace | None
    """What eps is added to, or ``length``: the smallest length that is divided by. None if there is no eps."""
    has_weight: bool
    """Whether there is a learned weight, unless the constructor is asked to leave it out."""
    has_bias: bool
    """Whether there is a learned bias, unless the constructor is asked to leave it out."""
    weight_is_length: bool = False
    """Whether the weight is one number: the length of an output row, and not a factor per feature."""
    without_weight: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Constructor arguments that leave the weight out; empty if there is no such choice."""
    without_bias: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Constructor arguments that leave only the bias out; empty if there is no such choice."""
    unbiased: bool = False
    """Whether the divisor of the variance is n - 1."""
    detaches_mean: bool = False
    """Whether the mean is a constant in the backward pass."""
    detaches_size: bool = False
    """Whether the divisor is a constant in the backward pass."""
    holds_size: bool = False
    """Whether the part of the gradient that multiplies all rows of a call by the same number is removed."""
    factor_moves: bool = False
    """Whether the rows are multiplied by AdaNorm's factor with its derivative."""
    is_activation: bool = False
    """Whether the output has gone through a nonlinearity, which replaces the one that follows the norm."""
    formula: int | None = None
    """Flags of the kernel formula (``normscope.kernels.formula``) that computes it, if there is one."""

    @classmethod
    def of_formula(cls, flags: int, **other: Any) -> Self:
        """Build the traits of a member of the kernel family, whose statistics are over features.

        Args:
            flags: ``CENTER``, ``DETACH_MEAN``, ``DETACH_STD``, ``PHI`` and one divisor, joined by ``|``.
            **other: The remaining fields: ``has_weight``, ``has_bias`` and those with a default.
        """
        divisor = flags & DIVISOR
        return cls(
            centers=bool(flags & CENTER),
            scales=bool(divisor),
            statistics="features",
            eps_place=_EPS_PLACES.get(divisor),
            unbiased=divisor == RELEASED,
            detaches_mean=bool(flags & DETACH_MEAN),
            detaches_size=bool(flags & DETACH_STD),
            formula=flags,
            **other,
        )

    @property
    def has_factor(self) -> bool:
        """Whether the normalized rows are multiplied by a function of themselves, as in AdaNorm."""
        return self.factor_moves or bool((self.formula or 0) & PHI)


class ResidualCall(Protocol):
    """The types of a call: a tensor, or with a residual the norm of the sum and the sum."""

    @overload
    def __call__(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def __call__(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
