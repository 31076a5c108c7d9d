"""One step of every cell, written out: the specification that every backend is tested against.

A step takes ``part``, what :func:`input_part` returned for it, ``[B, G]``; the state before it; and ``read``, the h
that the weights multiply, which is that of the state but for dropout. Given a table ``seen``, it adds the values of its
gates and other nonlinearities there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.recurrent.batch_norm import StepBatchNorm
from normscope.recurrent.places import Mode, Places

State = tuple[Tensor, ...]
"""``(h,)`` of an RNN or GRU, ``(h, c)`` of an LSTM; each ``[B, H]``, or ``[B, P]`` for the ``h`` of a projection."""


class Weights(NamedTuple):
    """Parameters of one layer and direction, as torch names them."""

    ih: Tensor
    """``[G, I]`` with G = H (RNN), 4 H (LSTM: i, f, g, o) or 3 H (GRU: r, z, n)."""
    hh: Tensor
    """``[G, H]``, or ``[G, P]`` with a projection."""
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None
    """``[P, H]``: the projection of ``h`` (LSTM)."""


NormGroups = Sequence[tuple[int, Callable[[Tensor], Tensor]]]
"""Norms of consecutive parts of a vector with their widths; empty if nothing is normalized."""


@dataclass(frozen=True, kw_only=True)
class StepNorms:
    """The norms of one layer and direction."""

    ih: NormGroups = ()
    """Of ``W_x x``; of the sum of the products where they are summed."""
    hh: NormGroups = ()
    """Of ``W_h h``."""
    cell: NormGroups = ()
    """Of ``c``."""

    @property
    def know_time(self) -> bool:
        """Whether the statistics are those of a time step."""
        return any(isinstance(norm, StepBatchNorm) for groups in self._places().values() for _, norm in groups)

    def at(self, step: int) -> "StepNorms":
        """Return the norms of a time step."""
        return StepNorms(
            **{
                name: [
                    (size, partial(norm, step=step) if isinstance(norm, StepBatchNorm) else norm)
                    for size, norm in groups
                ]
                for name, groups in self._places().items()
            }
        )

    def _places(self) -> dict[str, NormGroups]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def normalize(x: Tensor, groups: NormGroups) -> Tensor:
    """Normalize consecutive parts of the last axis of ``x``, each by its norm."""
    if len(groups) < 2:
        return groups[0][1](x) if groups else x
    parts = x.split([width for width, _ in groups], -1)
    return torch.cat([norm(part) for (_, norm), part in zip(groups, parts, strict=True)], -1)


def input_part(
    mode: Mode,
    x: Tensor,
    weights: Weights,
    norms: StepNorms,
    places: Places,
    linear: Callable[[Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    """Compute what does not depend on the state, for all steps at once: ``[..., I]`` to ``[..., G]``."""
    part = linear(x, weights.ih)
    if places.products == "summed":
        return part
    # A GRU multiplies one of its biases by the reset gate; the other cells only use the sum.
    bias = weights.bias_ih if mode == "GRU" else _sum(weights.bias_ih, weights.bias_hh)
    return _biased(part, bias, norms.ih, places)


def rnn_step(
    part: Tensor,
    state: State,
    read: Tensor,
    *,
    weights: Weights,
    norms: StepNorms,
    places: Places,
    activation: Callable[[Tensor], Tensor],
    seen: dict[str, Tensor] | None = None,
) -> State:
    r"""Compute :math:`h_t = f(\mathrm{LN}(W_h h_{t-1} + W_x x_t) + b)` (Ba et al., eq. 4)."""
    h = activation(_gate_inputs(part, read, weights, norms, places))
    if seen is not None:
        seen["h"] = h
    return (h,)


def lstm_step(
    part: Tensor,
    state: State,
    read: Tensor,
    *,
    weights: Weights,
    norms: StepNorms,
    places: Places,
    seen: dict[str, Tensor] | None = None,
) -> State:
    r"""Compute one step of an LSTM.

    .. math::
        (i; f; g; o) &= \mathrm{LN}(W_h h_{t-1}) + \mathrm{LN}(W_x x_t) + b \\
        c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \\
        h_t &= \sigma(o) \odot \tanh(\mathrm{LN}(c_t))

    References:
        Ba et al. (2016), arXiv:1607.06450, eqs. 20-22. Departs from it in: the order of the gates, which is torch's.
    """
    i, f, g, o = _gate_inputs(part, read, weights, norms, places).chunk(4, -1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * state[1] + i * g
    out = normalize(c, norms.cell)
    if places.cell == "carried":
        c = out
    out = torch.tanh(out)
    if seen is not None:
        seen.update(i=i, f=f, g=g, o=o, out=out)
    # A cell state in float32 beside half-precision gates.
    h = (o * out).to(part.dtype)
    return (h if weights.hr is None else F.linear(h, weights.hr)), c


def gru_step(
    part: Tensor,
    state: State,
    read: Tensor,
    *,
    weights: Weights,
    norms: StepNorms,
    places: Places,
    seen: dict[str, Tensor] | None = None,
) -> State:
    r"""Compute one step of a GRU.

    .. math::
        (r; z) &= \sigma(\mathrm{LN}(W_h h_{t-1}) + \mathrm{LN}(W_x x_t) + b) \\
        n &= \tanh(\mathrm{LN}(W x_t) + b_x + r \odot (\mathrm{LN}(U h_{t-1}) + b_h)) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    References:
        Ba et al. (2016), arXiv:1607.06450, eqs. 26-28. Departs from it in: torch's z, which is one minus the paper's,
        and biases, which the paper does not have.
    """
    (h,) = state
    size = h.shape[-1]
    widths = (2 * size, size)
    input_gates, input_candidate = part.split(widths, -1)
    if places.reset == "after":
        hidden = _biased(F.linear(read, weights.hh), weights.bias_hh, norms.hh, places)
        gates, candidate = hidden.split(widths, -1)
        r, z = torch.sigmoid(input_gates + gates).chunk(2, -1)
        n = torch.tanh(input_candidate + r * candidate)
    else:
        gates_weight, candidate_weight = weights.hh.split(widths)
        bias = (None, None) if weights.bias_hh is None else weights.bias_hh.split(widths)
        gates = _biased(F.linear(read, gates_weight), bias[0], norms.hh[:-1], places)
        r, z = torch.sigmoid(input_gates + gates).chunk(2, -1)
        candidate = _biased(F.linear(r * read, candidate_weight), bias[1], norms.hh[-1:], places)
        n = torch.tanh(input_candidate + candidate)
    if seen is not None:
        seen.update(r=r, z=z, n=n)
    return ((1 - z) * n + z * h,)


def _gate_inputs(part: Tensor, h: Tensor, weights: Weights, norms: StepNorms, places: Places) -> Tensor:
    """Compute the inputs of the gates of an LSTM, or of the nonlinearity of an RNN."""
    product = F.linear(h, weights.hh)
    if places.products != "summed":
        return part + normalize(product, norms.hh)
    return _biased(part + product, _sum(weights.bias_ih, weights.bias_hh), norms.ih, places)


def _biased(product: Tensor, bias: Tensor | None, groups: NormGroups, places: Places) -> Tensor:
    """Normalize, and add the bias before, after, or both."""
    if bias is None:
        return normalize(product, groups)
    product = normalize(product if places.bias == "after" else product + bias, groups)
    return product if places.bias == "before" else product + bias


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
