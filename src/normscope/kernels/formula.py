r"""The family of norms that the kernels compute, as four numbers.

A row x of H entries, to which a residual may be added first, gives

.. math::
    c = x - \mu, \quad y = \frac{c}{d}, \quad v = y \text{ or, under PHI, } C (1 - k y)\, y, \quad z = g \odot v + b

with :math:`\mu` its mean under ``CENTER`` and zero else, and d from the mean square
:math:`q = \tfrac{1}{H} \sum_i c_i^2` as the divisor says: ``ROOT`` :math:`\sqrt{q + \epsilon}`, ``RELEASED``
:math:`\sqrt{q H / (H - 1)} + \epsilon`, ``LENGTH`` :math:`\max(\sqrt{q H}, \epsilon)`, none of them 1.

The factor :math:`C (1 - k y)` is always a constant in the backward pass; the mean is one under ``DETACH_MEAN``, d under
``DETACH_STD``. With :math:`u = g \odot dz` (times the factor under ``PHI``), the gradient is

.. math::
    dx = \frac{u - \bar u}{d} - \kappa \, c \sum_i u_i c_i, \quad
    \kappa = -\frac{2}{H} \frac{\partial (1/d)}{\partial q}

where a detached mean leaves out :math:`\bar u` and a detached deviation the second term.
"""

from typing import NamedTuple

CENTER = 1
DETACH_MEAN = 2
DETACH_STD = 4
PHI = 8
ROOT = 16
RELEASED = 32
LENGTH = 48
DIVISOR = 48
"""The bits that say which divisor: one of ``ROOT``, ``RELEASED``, ``LENGTH``, or none."""


class Formula(NamedTuple):
    """Which member of the family, and its numbers."""

    flags: int
    """``CENTER``, ``DETACH_MEAN``, ``DETACH_STD``, ``PHI`` and one divisor, joined by ``|``."""
    eps: float
    scale: float = 1.0
    """C, under ``PHI``."""
    k: float = 0.0
    """k, under ``PHI``."""

    @property
    def divisor(self) -> int:
        """One of ``ROOT``, ``RELEASED``, ``LENGTH``, or 0 for none."""
        return self.flags & DIVISOR

    @property
    def moves_with_mean(self) -> bool:
        """Whether the mean has a derivative."""
        return bool(self.flags & CENTER) and not self.flags & DETACH_MEAN

    @property
    def moves_with_divisor(self) -> bool:
        """Whether the divisor has a derivative."""
        return bool(self.divisor) and not self.flags & DETACH_STD

    def keeps_input(self, gain: bool) -> bool:
        """Tell whether the backward pass reads the input: DetachNorm's does not.

        Args:
            gain: Whether there is a gain whose gradient is wanted.
        """
        return self.moves_with_divisor or bool(self.flags & PHI) or gain
