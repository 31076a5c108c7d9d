"""Products of a model's Gauss-Newton or Fisher matrix with a vector, without the matrix."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Literal["cross_entropy", "mse"]
Kind = Literal["ggn", "fisher"]


class GaussNewton:
    r"""The matrix :math:`G = J^\top H J` of a mean loss, as an operator on vectors of all its parameters.

    J is the derivative of the outputs by the parameters, H the second derivative of the loss by the outputs: over a
    softmax :math:`(\mathrm{diag}(p) - p p^\top) / N` for N cases, for squared errors :math:`2 / (N K)` times the
    identity, for K outputs a case. Neither needs targets. The Fisher matrix of a softmax is G itself; that of a
    Gaussian of unit variance is K / 2 times G. A product is one forward-mode and one reverse-mode pass; memory is a few
    vectors of P parameters and the activations.

    The model is called in its mode, on its buffers' copies, so batch norm's running moments stay. Derivatives that a
    norm blocks, as DetachNorm and AdaNorm do, are blocked here, too: then G is the matrix of the gradients that
    training sees, not of the function.

    Args:
        model: From ``inputs`` to outputs ``[N, ..., K]``; every position but the last axis is a case.
        inputs: A tensor, or the tensors that the model is called with.
        loss: ``cross_entropy`` of the outputs as logits or ``mse``, both as torch's means.
        kind: ``ggn`` or ``fisher``.
        only: Names of the parameters of a block; None for all that want a gradient.

    Raises:
        ValueError: If loss or kind are unknown, there is no such parameter, the outputs are not finite or have no last
            axis, or two calls on the same input differ (dropout).
        TypeError: If the model gives anything but one tensor.

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
                raise ValueError(f"there is no parameter that wants a gradient of the name {missing}, only {[*wanted]}")
            wanted = {name: wanted[name] for name in only}
        if not wanted:
            raise ValueError(f"{type(model).__name__} must have parameters that want a gradient, got none")
        self.parameters = wanted
        self.size = sum(p.numel() for p in wanted.values())
        with torch.no_grad(), _differentiable():
            outputs, again = self._outputs(wanted), self._outputs(wanted)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"{type(model).__name__} must give one tensor, got {type(outputs).__name__}")
        if outputs.dim() < 2 or not outputs.isfinite().all():
            raise ValueError(f"outputs must be finite and [N, ..., K], got {list(outputs.shape)}")
        if not torch.equal(outputs, again):
            raise ValueError(f"two calls of {type(model).__name__} on one input differ: switch its dropout off")
        self.cases = math.prod(outputs.shape[:-1])
        self.units = outputs.shape[-1]
        self._probabilities = outputs.softmax(-1) if loss == "cross_entropy" else None
        self._factor = self.units / 2 if kind == "fisher" and loss == "mse" else 1.0

    def product(self, vector: Tensor) -> Tensor:
        """Multiply the matrix by ``vector``.

        Args:
            vector: ``[P]``, of any floating dtype; parameters lie one after another in the order of ``parameters``.

        Returns:
            ``[P]`` float64.

        Raises:
            ValueError: If it has not P entries.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"the vector must be [{self.size}], got {list(vector.shape)}")
        parts = vector.split([p.numel() for p in self.parameters.values()])
        tangents = {
            name: part.reshape(p.shape).to(p) for part, (name, p) in zip(parts, self.parameters.items(), strict=True)
        }
        with _differentiable():
            change = jvp(self._outputs, (self.parameters,), (tangents,))[1]
            (back,) = vjp(self._outputs, self.parameters)[1](self._curved(change))
        return torch.cat([back[name].detach().reshape(-1).double().cpu() for name in self.parameters])

    def _outputs(self, parameters: dict[str, Tensor]) -> Tensor:
        """Call the model with other parameters; the rest, and copies of the buffers, are as they are."""
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
    """Choose attention that forward mode can pass; the fused kinds have no such derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # torch scripts its own forward-mode rules at their first use.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
