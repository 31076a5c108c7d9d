"""Curvature of a loss: largest eigenvalues and trace of the Gauss-Newton or Fisher matrix of a model."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from normscope.arguments import check_arguments
from normscope.inspection.preserve_state import untouched

Loss = Literal["cross_entropy", "mse"]
Kind = Literal["ggn", "fisher"]


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """Spectrum of the matrix of one model on one batch."""

    kind: Kind
    loss: Loss
    parameters: int
    """P."""
    cases: int
    """N, the number of positions that the loss is averaged over."""
    outputs: int
    """K, the number of entries of an output."""
    eigenvalues: tuple[float, ...]
    """The largest eigenvalues, in descending order."""
    residuals: tuple[float, ...]
    """|G v - lambda v| divided by the largest eigenvalue, for each eigenvalue."""
    trace: float
    """Estimate from random probes."""
    trace_error: float
    """Standard error of the trace."""
    products: int
    """Number of matrix-vector products."""

    @property
    def reading(self) -> str:
        """Results, their usual causes and what to try, as plain text."""
        top = self.eigenvalues[0]
        if top <= 0:
            return f"The {self.kind} matrix is zero: no parameter affects the output, or every softmax is saturated."
        directions, flat = self.trace / top, min(self.parameters, self.cases * self.outputs)
        return (
            f"The sharpest of {self.parameters:,} directions has curvature {top:.3g} ({self.kind} of the mean "
            f"{self.loss}, {self.cases:,} cases): plain gradient descent is stable along it below a learning rate of "
            f"{2 / top:.2g}. The trace is {self.trace:.3g} ± {self.trace_error:.2g}, that of {directions:.3g} such "
            f"directions; a flat spectrum would have {flat:,}. A few directions far above the rest usually come from "
            "inputs or activations with a nonzero mean or different scales, from a large last layer, or from depth. "
            "Try centered inputs, and warm-up or a lower learning rate, and measure again. A norm does not by itself "
            "flatten the spectrum: at initialization a model with layer norms can be sharper than one without, because "
            "they keep the signal large."
        )

    def compare(self, other: "Curvature", *, names: tuple[str, str]) -> str:
        """Describe the difference from another spectrum in a sentence.

        Args:
            other: Spectrum of another model, preferably on the same batch.
            names: Names of this model and the other, such as ``("with norms", "without")``.

        Returns:
            One sentence.

        Raises:
            ValueError: If kind or loss differ.
        """
        if (self.kind, self.loss) != (other.kind, other.loss):
            raise ValueError(f"cannot compare {self.kind} of {self.loss} and {other.kind} of {other.loss}")
        top, tops = self.eigenvalues[0], other.eigenvalues[0]
        ratio = top / tops if tops > 0 else math.inf
        sharper = f"{ratio:.3g} times as sharp as" if math.isfinite(ratio) else "sharper than the flat"
        gap = abs(self.trace - other.trace) / math.hypot(self.trace_error, other.trace_error, 1e-300)
        traces = "the traces differ" if gap > 3 else "the traces do not differ beyond three standard errors"
        return (
            f"{names[0]} is {sharper} {names[1]} (largest eigenvalue {top:.3g} against {tops:.3g}); {traces} "
            f"({self.trace:.3g} ± {self.trace_error:.2g} against {other.trace:.3g} ± {other.trace_error:.2g})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return numbers and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


@check_arguments
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
    r"""Compute the largest eigenvalues by Lanczos' method, and estimate the trace from random probes.

    .. math:: \operatorname{tr} G \approx \frac{1}{m} \sum_{k=1}^m z_k^\top G z_k, \quad z_k \in \{-1, 1\}^P

    Each probe costs one matrix-vector product, and Lanczos' method a few tens; memory is a few tens of vectors of P
    numbers (ARPACK keeps max(2 top + 1, 20) of them in float64).

    Args:
        model: As in `GaussNewton`, without active dropout.
        inputs: One batch, as in `GaussNewton`; targets are not needed.
        loss: ``cross_entropy`` or ``mse``.
        generator: Draws the first Lanczos vector and the probes, on the CPU.
        kind: ``ggn`` or ``fisher``.
        top: Number of eigenvalues, fewer than the parameters.
        probes: Number of random vectors, at least two.
        tolerance: Relative accuracy of the eigenvalues.
        only: Names of the parameters to restrict the matrix to.

    Returns:
        Eigenvalues with their residuals, the trace with its standard error.

    Raises:
        ValueError: If ``top`` or ``probes`` is out of range, or as in `GaussNewton`.
        TypeError: If the model does not return one tensor.
        RuntimeError: If Lanczos' method does not converge.

    References:
        Lehoucq, Sorensen, Yang (1998). ARPACK users' guide, through SciPy; Hutchinson (1990). A stochastic estimator of
        the trace of the influence matrix. Communications in Statistics 19(2).

    Example:
        >>> import torch
        >>> from normscope.analysis import curvature
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> spectrum = curvature(model, x, loss="mse", generator=generator, top=1)
        >>> round(spectrum.eigenvalues[0], 3)  # 2 / N times the largest eigenvalue of the sum of x x^T
        4.0
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
    values, vectors = _largest_eigenpairs(product, start, top, tolerance)
    largest = max(float(values[0]), np.finfo(np.float64).tiny)
    residuals = [np.linalg.norm(product(v) - value * v) / largest for value, v in zip(values, vectors, strict=True)]
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
        eigenvalues=tuple(float(value) for value in values),
        residuals=tuple(float(residual) for residual in residuals),
        trace=float(np.mean(samples)),
        trace_error=float(np.std(samples, ddof=1) / math.sqrt(probes)),
        products=products,
    )


def _largest_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, top: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues ``[top]`` in descending order, and their vectors ``[top, P]``, by ARPACK.

    Raises:
        RuntimeError: If Lanczos' method does not converge.
    """
    # Importing it takes longer than the rest of the package.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = len(start)
    # ARPACK fails if the product with the first vector is zero; then so is the matrix.
    if not np.any(product(start)):
        return np.zeros(top), np.zeros((top, size))
    operator = LinearOperator((size, size), matvec=product, dtype=np.dtype(np.float64))  # pyright: ignore[reportCallIssue]
    try:
        values, vectors = eigsh(operator, k=top, which="LA", v0=start, tol=tolerance)  # pyright: ignore[reportArgumentType]
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"Lanczos' method found {len(error.eigenvalues)} of {top} eigenvalues; ask for fewer, or a tolerance above "
            f"{tolerance:g}"
        ) from error
    order = np.argsort(values)[::-1]
    return values[order], vectors.T[order]


class GaussNewton:
    r"""The matrix :math:`G = J^\top H J` of a mean loss, as a linear operator on vectors of all parameters.

    J is the derivative of the outputs with respect to the parameters, and H the second derivative of the loss with
    respect to the outputs: :math:`(\mathrm{diag}(p) - p p^\top) / N` for softmax cross-entropy with N cases, and
    :math:`2 / (N K)` times the identity for the mean squared error with K outputs per case. Neither depends on targets.
    The Fisher matrix is G for the softmax, and K / 2 times G for a Gaussian of unit variance. A product costs one
    forward-mode and one reverse-mode pass, and the memory of the activations and a few vectors of P parameters.

    The model is called in its present mode, on copies of its buffers, so that the running moments of batch norm do not
    change. Derivatives that a norm detaches, such as DetachNorm and AdaNorm, are detached here, too: G is then the
    matrix of the gradients used in training, not of the function.

    Args:
        model: Maps ``inputs`` to outputs ``[N, ..., K]``; every position except on the last axis is a case.
        inputs: A tensor, or the tensors that the model is called with.
        loss: ``cross_entropy`` of the outputs as logits, or ``mse``, both averaged as in torch.
        kind: ``ggn`` or ``fisher``.
        only: Names of the parameters to restrict the matrix to; None for all trainable parameters.

    Raises:
        ValueError: If ``loss`` or ``kind`` is unknown, a parameter in ``only`` does not exist, no parameter is
            trainable, the outputs are not finite or have fewer than two axes, or two calls on the same input differ
            (dropout).
        TypeError: If the model does not return one tensor.

    References:
        Schraudolph (2002). Fast curvature matrix-vector products for second-order gradient descent. Neural Computation
        14(7); Martens (2020). New insights and perspectives on the natural gradient method. arXiv:1412.1193.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor | Sequence[Tensor],
        *,
        loss: Loss,
        kind: Kind = "ggn",
        only: Sequence[str] | None = None,
    ) -> None:
        if loss not in ("cross_entropy", "mse") or kind not in ("ggn", "fisher"):
            raise ValueError(
                f"loss must be 'cross_entropy' or 'mse' and kind 'ggn' or 'fisher', got {loss!r}, {kind!r}"
            )
        self.model = model
        self.loss: Loss = loss
        self.inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        wanted = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        if only is not None:
            missing = [name for name in only if name not in wanted]
            if missing:
                raise ValueError(f"no trainable parameter is named {missing}; trainable: {[*wanted]}")
            wanted = {name: wanted[name] for name in only}
        if not wanted:
            raise ValueError(f"{type(model).__name__} must have trainable parameters, got none")
        self.parameters = wanted
        self.size = sum(p.numel() for p in wanted.values())
        with torch.no_grad(), _differentiable(), untouched(model):
            outputs, again = self._outputs(wanted), self._outputs(wanted)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"{type(model).__name__} must return one tensor, got {type(outputs).__name__}")
        if outputs.dim() < 2 or not outputs.isfinite().all():
            raise ValueError(f"outputs must be finite and [N, ..., K], got {list(outputs.shape)}")
        if not torch.equal(outputs, again):
            raise ValueError(f"two calls of {type(model).__name__} on one input differ: turn off dropout")
        self.cases = math.prod(outputs.shape[:-1])
        self.units = outputs.shape[-1]
        self._probabilities = outputs.softmax(-1) if loss == "cross_entropy" else None
        self._factor = self.units / 2 if kind == "fisher" and loss == "mse" else 1.0

    def product(self, vector: Tensor) -> Tensor:
        """Multiply the matrix by ``vector``.

        Args:
            vector: ``[P]``, of any floating-point dtype; in the order of ``parameters``, concatenated.

        Returns:
            ``[P]`` float64.

        Raises:
            ValueError: If ``vector`` does not have P entries.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"the vector must be [{self.size}], got {list(vector.shape)}")
        parts = vector.split([p.numel() for p in self.parameters.values()])
        tangents = {
            name: part.reshape(p.shape).to(p) for part, (name, p) in zip(parts, self.parameters.items(), strict=True)
        }
        with _differentiable(), untouched(self.model):
            change = jvp(self._outputs, (self.parameters,), (tangents,))[1]
            (back,) = vjp(self._outputs, self.parameters)[1](self._curved(change))
        return torch.cat([back[name].detach().reshape(-1).double().cpu() for name in self.parameters])

    def _outputs(self, parameters: dict[str, Tensor]) -> Tensor:
        """Call the model with other parameters, and with copies of its buffers."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return functional_call(self.model, {**buffers, **parameters}, self.inputs)

    def _curved(self, change: Tensor) -> Tensor:
        """Multiply a change of the outputs by the second derivative of the loss."""
        if self._probabilities is None:
            return change * (2 * self._factor / (self.cases * self.units))
        p = self._probabilities
        return p * (change - (p * change).sum(-1, keepdim=True)) / self.cases


@contextmanager
def _differentiable() -> Iterator[None]:
    """Select attention that supports forward-mode derivatives, which the fused implementations do not."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch compiles its forward-mode rules by TorchScript at their first use.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        yield
