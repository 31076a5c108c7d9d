"""Table 1 and section 5.2 of Ba et al. (2016): statements about equations, measured in float64."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from normscope.analysis import implicit_learning_rate, invariances, normalized_fisher, standard_fisher
from normscope.analysis.fisher import Family, Method, metric
from normscope.norms import NORMS, apply_weight_norm
from normscope.papers.judging.cell import Statement

COLUMNS = {
    "weight_matrix_rescaling": "weight matrix re-scaling",
    "weight_matrix_recentering": "weight matrix re-centering",
    "weight_vector_rescaling": "weight vector re-scaling",
    "data_rescaling": "dataset re-scaling",
    "data_recentering": "dataset re-centering",
    "case_rescaling": "single training case re-scaling",
}
"""Columns of Table 1."""

TABLE1: dict[str, tuple[bool, ...]] = {
    "batch norm": (True, False, True, True, True, False),
    "weight norm": (True, False, True, False, False, False),
    "layer norm": (True, True, False, True, False, True),
}
"""Table 1: whether the output is invariant."""

CASES, FEATURES, UNITS = 16, 6, 8
EXACT = 1e-8
"""Largest relative deviation of two computations in float64 of one quantity."""


def _network(method: str) -> tuple[nn.Module, str]:
    """Return a layer with a norm on its summed inputs, and the name of its weights."""
    torch.manual_seed(0)
    linear = nn.Linear(FEATURES, UNITS, bias=False)
    if method == "weight norm":
        model = nn.Sequential(linear)
        apply_weight_norm(model)
        return model, "0.parametrizations.weight.original1"
    return nn.Sequential(linear, NORMS[method.replace(" ", "_")](UNITS)), "0.weight"


def table1() -> tuple[Statement, ...]:
    """Measure the 18 entries of Table 1, and the sentence of section 5.1 that contradicts one of them.

    With eps, invariances under re-scaling hold but for its effect, which is that of the law of eps (``invariances``).
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(CASES, FEATURES, generator=generator, dtype=torch.float64)
    statements = []
    found = {}
    with torch.random.fork_rng(devices=[]):
        for method, printed in TABLE1.items():
            model, weight = _network(method)
            found[method] = invariances(model.train(), x, generator=generator, weight=weight)
            for (name, words), invariant in zip(COLUMNS.items(), printed, strict=True):
                row = found[method][name]
                statements.append(
                    Statement(
                        says=f"{method}, {words}",
                        published=_invariant(invariant),
                        ours=_invariant(row.invariant),
                        verdict=_agrees(row.invariant == invariant),
                        because=f"{row.holds}; the output changes by {row.deviation:.1e} of its length",
                    )
                )
    row = found["weight norm"]["data_rescaling"]
    statements.append(
        Statement(
            says="section 5.1: all three methods are invariant to re-scaling the dataset",
            published=_invariant(True),
            ours="weight norm is not",
            verdict=_agrees(row.invariant),
            because=f"weight norm changes by {row.deviation:.1e} of its length; Table 1 has it right",
        )
    )
    return tuple(statements)


def _invariant(holds: bool) -> str:
    return "invariant" if holds else "no"


def _agrees(same: bool) -> Literal["reproduced", "not reproduced"]:
    return "reproduced" if same else "not reproduced"


def section52() -> tuple[Statement, ...]:
    """Compare equations (12) and (13) with the definition (9), by automatic differentiation, and what they imply.

    As printed, equation (13) has no derivatives of an output with respect to the weights of another one. In layer
    normalization all outputs share their moments, and there are such derivatives.
    """
    return (*_fisher_statements(), *_growth_statements())


def _fisher_statements() -> Iterator[Statement]:
    x, weight, bias, gain = _model()
    for family in get_args(Family):
        exact = definition(x, weight, bias, None, "none", family)
        closed = standard_fisher(x, weight, bias, family=family)
        yield _compared("eq. (12), no normalization", family, closed, exact)
    methods: tuple[Method, ...] = ("batch", "weight", "layer")
    for method in methods:
        for family in get_args(Family):
            exact = definition(x, weight, bias, gain, method, family)
            printed = normalized_fisher(x, weight, bias, gain, method=method, family=family, printed=True)
            whole = normalized_fisher(x, weight, bias, gain, method=method, family=family)
            beside = f"with the derivatives across outputs {_deviation(whole, exact):.1e}" if method == "layer" else ""
            yield _compared(f"eq. (13), {method} normalization", family, printed, exact, beside)


def _compared(says: str, family: str, closed: Tensor, exact: Tensor, beside: str = "") -> Statement:
    deviation = _deviation(closed, exact)
    words = f"largest deviation {deviation:.1e} of the largest entry"
    return Statement(
        says=f"{says}, {family}",
        published="the Fisher matrix",
        ours="the same" if deviation <= EXACT else "another matrix",
        verdict=_agrees(deviation <= EXACT),
        because="; ".join(filter(None, (words, beside))),
    )


def _deviation(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def _growth_statements() -> Iterator[Statement]:
    """Yield what section 5.2.2 says of weights that grow to twice their length."""
    x, weight, bias, gain = _model()
    y = torch.randn(CASES, UNITS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = implicit_learning_rate(x, y, weight, bias, gain, family="gaussian").rows
    for row in rows:
        if row.method == "none":
            continue
        factor = 2**row.curvature_slope
        mixed = [
            normalized_fisher(x, scale * weight, bias, gain, method=row.method, family="gaussian")
            .reshape(UNITS, FEATURES + 2, UNITS, FEATURES + 2)[:, :FEATURES, :, FEATURES:]
            .norm()
            for scale in (1.0, 2.0)
        ]
        yield Statement(
            says=f"section 5.2.2: the curvature along w changes by 1/2 if its norm doubles, {row.method} norm",
            published="× 0.5",
            ours=f"× {factor:.3g}",
            verdict=_agrees(abs(factor - 0.5) < 0.05),
            because="the block of the weights has 1/σ twice; their blocks with bias and gain have it once: "
            f"× {float(mixed[1] / mixed[0]):.3g}",
        )
    # Equations (32) to (35): the metric along the gains, for data that are ten times as large.
    for method in get_args(Method):
        small, large = (_gain_metric(factor * x, weight, bias, gain, method) for factor in (1.0, 10.0))
        grows = method in ("none", "weight")
        factor = large / small
        yield Statement(
            says=f"eqs. (32) to (35): the metric along the gains if the data are ten times as large, {method}",
            published="grows" if grows else "does not change",
            ours=f"× {factor:.4g}",
            verdict=_agrees((factor > 50) if grows else abs(factor - 1) < EXACT),
            because="it has the raw summed inputs" if grows else "it has the normalized summed inputs alone",
        )


def _gain_metric(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, method: Method) -> float:
    """Return the trace of the Fisher matrix of the gains; without normalization that of eq. (35)."""
    if method == "none":
        a = (x @ weight.T) / torch.linalg.vector_norm(weight, dim=1)
        return float(torch.einsum("nii,ni,ni->", metric(x @ weight.T + bias, "gaussian", 1.0), a, a) / len(x))
    fisher = normalized_fisher(x, weight, bias, gain, method=method, family="gaussian")
    size = weight.shape[1] + 2
    return float(fisher.diagonal()[size - 1 :: size].sum())


def _model() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return drawn(CASES, FEATURES), drawn(UNITS, FEATURES), 0.1 * drawn(UNITS), 1 + 0.1 * drawn(UNITS)


def definition(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, method: Method, family: Family) -> Tensor:
    r"""Compute the Fisher matrix :math:`E_x[J^\top \mathrm{Cov}[y|x] J]` by automatic differentiation.

    J is the Jacobian of the natural parameters with respect to the weights, the bias and, if there is one, the gain of
    every output. For a generalized linear model of dispersion 1 this is equation (9).

    Args:
        x: ``[N, D]``.
        weight: ``[H, D]``.
        bias: ``[H]``.
        gain: ``[H]``; None for the plain model.
        method: Moments of the normalization.
        family: Distribution of the outputs.

    Returns:
        ``[H P, H P]``, ordered by output; each has its weights, its bias and its gain.
    """
    width = weight.shape[1]
    parts = [weight, bias[:, None]] + ([] if gain is None else [gain[:, None]])
    parameters = torch.cat(parts, dim=1)

    def outputs(given: Tensor) -> Tensor:
        w, b = given[:, :width], given[:, width]
        a = x @ w.T
        if gain is None:
            return a + b
        if method == "layer":
            mean, deviation = a.mean(1, keepdim=True), a.std(1, correction=0, keepdim=True)
        elif method == "batch":
            mean, deviation = a.mean(0), a.std(0, correction=0)
        else:
            mean, deviation = torch.zeros(()), torch.linalg.vector_norm(w, dim=1)
        return given[:, width + 1] * (a - mean) / deviation + b

    jacobian = torch.func.jacrev(outputs)(parameters).flatten(2)  # [N, H, H P]
    covariance = metric(outputs(parameters), family, 1.0)
    return torch.einsum("nki,nkl,nlj->ij", jacobian, covariance, jacobian) / len(x)
