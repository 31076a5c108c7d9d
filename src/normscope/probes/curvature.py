"""How sharp a loss is around a model: top eigenvalues and trace of its Gauss-Newton or Fisher matrix."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from normscope.probes.gauss_newton import GaussNewton, Kind, Loss


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The spectrum of one model on one batch."""

    kind: Kind
    loss: Loss
    parameters: int
    """P."""
    cases: int
    """N, the positions that the loss is a mean over."""
    outputs: int
    """K, the entries of an output."""
    eigenvalues: tuple[float, ...]
    """The largest ones, falling."""
    residuals: tuple[float, ...]
    """Length of G v - lambda v for each, by the largest eigenvalue."""
    trace: float
    """By random probes."""
    trace_error: float
    """Standard error of the trace."""
    products: int
    """Products of the matrix with a vector that were made."""

    @property
    def reading(self) -> str:
        """What was found, what it usually comes from and what to try, in sentences."""
        top = self.eigenvalues[0]
        if top <= 0:
            return f"The {self.kind} matrix is zero: no parameter moves an output, or every softmax is saturated."
        many, flat = self.trace / top, min(self.parameters, self.cases * self.outputs)
        return (
            f"The sharpest of {self.parameters:,} directions has curvature {top:.3g} ({self.kind} of the mean "
            f"{self.loss}, {self.cases:,} cases): plain gradient descent is stable along it below a learning rate of "
            f"{2 / top:.2g}. The trace is {self.trace:.3g} ± {self.trace_error:.2g}, as much as {many:.3g} directions "
            f"of that sharpness; a flat spectrum would have {flat:,}. A few directions far above the rest usually come "
            "from inputs or activations with a mean or a scale of their own, from a large last layer, or from depth. "
            "Try centered inputs, and a warm-up or a lower rate, and measure again. A norm does not by itself make the "
            "spectrum flatter: at the start layer norms can be sharper than none, for they bring the signal to size."
        )

    def beside(self, other: "Curvature", *, names: tuple[str, str]) -> str:
        """Say how this spectrum differs from another one, in a sentence.

        Args:
            other: Of the other model, best on the same batch.
            names: What this one and the other are called, such as ``("with norms", "without")``.

        Returns:
            One sentence.

        Raises:
            ValueError: If kind or loss differ.
        """
        if (self.kind, self.loss) != (other.kind, other.loss):
            raise ValueError(f"only like can be compared: {self.kind} of {self.loss} and {other.kind} of {other.loss}")
        top, tops = self.eigenvalues[0], other.eigenvalues[0]
        ratio = top / tops if tops > 0 else math.inf
        sharper = f"{ratio:.3g} times as sharp as" if math.isfinite(ratio) else "sharper than the flat"
        gap = abs(self.trace - other.trace) / math.hypot(self.trace_error, other.trace_error, 1e-300)
        told = "the traces differ" if gap > 3 else "the traces do not differ beyond three standard errors"
        return (
            f"{names[0]} is {sharper} {names[1]} (largest eigenvalue {top:.3g} against {tops:.3g}); {told} "
            f"({self.trace:.3g} ± {self.trace_error:.2g} against {other.trace:.3g} ± {other.trace_error:.2g})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return numbers and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


def curvature(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    *,
    loss: Loss,
    generator: torch.Generator,
    kind: Kind = "ggn",
    top: int = 3,
    probes: int = 16,
    tolerance: float = 1e-4,
    only: Sequence[str] | None = None,
) -> Curvature:
    r"""Find the largest eigenvalues by Lanczos' method and the trace by random probes.

    .. math:: \operatorname{tr} G \approx \frac{1}{m} \sum_{k=1}^m z_k^\top G z_k, \quad z_k \in \{-1, 1\}^P

    Each of the ``probes`` costs a product, Lanczos' method some tens of them; memory is some tens of vectors of P
    numbers (ARPACK keeps max(2 top + 1, 20) of them in float64).

    Args:
        model: As in `GaussNewton`, dropout off.
        inputs: One batch, as in `GaussNewton`; no targets are needed.
        loss: ``cross_entropy`` or ``mse``.
        generator: Draws the first Lanczos vector and the probes, on the CPU.
        kind: ``ggn`` or ``fisher``.
        top: How many eigenvalues, fewer than the parameters.
        probes: How many random vectors, at least two.
        tolerance: Relative accuracy of the eigenvalues.
        only: Names of the parameters of a block.

    Returns:
        Eigenvalues with their residuals, the trace with its standard error.

    Raises:
        ValueError: If ``top`` or ``probes`` are out of bounds, or as in `GaussNewton`.
        TypeError: If the model gives anything but one tensor.
        RuntimeError: If Lanczos' method does not converge.

    References:
        Lehoucq, Sorensen, Yang (1998). ARPACK users' guide, through SciPy; Hutchinson (1990). A stochastic estimator of
        the trace of the influence matrix. Communications in Statistics 19(2).
    """
    matrix = GaussNewton(model, inputs, loss=loss, kind=kind, only=only)
    if not 1 <= top < matrix.size:
        raise ValueError(f"top must be from 1 to {matrix.size - 1}, one below the parameters, got {top}")
    if probes < 2:
        raise ValueError(f"probes must be at least 2, for a standard error, got {probes}")
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return matrix.product(torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64).reshape(-1))).numpy()

    start = torch.randn(matrix.size, dtype=torch.float64, generator=generator).numpy()
    values, vectors = np.zeros(top), np.zeros((matrix.size, top))
    # ARPACK breaks down where a product of the first vector is zero: then the matrix is.
    if np.any(product(start)):
        operator = LinearOperator((matrix.size, matrix.size), matvec=product, dtype=np.dtype(np.float64))  # pyright: ignore[reportCallIssue]
        try:
            values, vectors = eigsh(operator, k=top, which="LA", v0=start, tol=tolerance)  # pyright: ignore[reportArgumentType]
        except ArpackNoConvergence as error:
            raise RuntimeError(
                f"Lanczos' method found {len(error.eigenvalues)} of {top} eigenvalues; ask for fewer, or a tolerance "
                f"above {tolerance:g}"
            ) from error
    order = np.argsort(values)[::-1]
    largest = max(float(values.max()), np.finfo(np.float64).tiny)
    residuals = [float(np.linalg.norm(product(vectors[:, i]) - values[i] * vectors[:, i])) / largest for i in order]
    samples = []
    for _ in range(probes):
        probe = torch.randint(0, 2, (matrix.size,), generator=generator).double().mul(2).sub(1).numpy()
        samples.append(float(probe @ product(probe)))
    return Curvature(
        kind=kind,
        loss=loss,
        parameters=matrix.size,
        cases=matrix.cases,
        outputs=matrix.units,
        eigenvalues=tuple(float(values[i]) for i in order),
        residuals=tuple(residuals),
        trace=float(np.mean(samples)),
        trace_error=float(np.std(samples, ddof=1) / math.sqrt(probes)),
        products=products,
    )
