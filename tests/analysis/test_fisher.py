"""Closed forms of Fisher matrices against the definition, eq. (9), by automatic differentiation of the likelihood."""

import itertools

import pytest
import torch
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F

from normscope.analysis.fisher import normalized_fisher, standard_fisher

CASES, INPUTS, OUTPUTS = 7, 4, 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, W, B = drawn(CASES, INPUTS), drawn(OUTPUTS, INPUTS, seed=1), drawn(OUTPUTS, seed=2)
G = 1.5 + 0.3 * drawn(OUTPUTS, seed=3)


def outputs(theta: torch.Tensor, case: int, method: str) -> torch.Tensor:
    """Natural parameters of one case, with theta in the order of the paper, by torch's norms where possible."""
    table = theta.reshape(OUTPUTS, -1)
    w, b = table[:, :INPUTS], table[:, INPUTS]
    if method == "none":
        return w @ X[case] + b
    # Contiguous: torch 2.13's batch norm has wrong gradients on the CPU for a gain with a stride.
    g = table[:, INPUTS + 1].contiguous()
    if method == "layer":
        return F.layer_norm(w @ X[case], (OUTPUTS,), g, b, eps=0.0)
    if method == "batch":
        return F.batch_norm(X @ w.T, None, None, g, b, training=True, eps=1e-30)[case]
    return F.linear(X[case], F.normalize(w, dim=1) * g[:, None], b)


def by_definition(method: str, family: str, dispersion: float = 1.0) -> torch.Tensor:
    """E over x and y ~ P(y | x) of the outer product of the score, over all y, or by exact moments for Gaussians."""
    columns = [W, B[:, None]] if method == "none" else [W, B[:, None], G[:, None]]
    theta = torch.cat(columns, dim=1).reshape(-1)
    total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for case in range(CASES):
        if family == "gaussian":
            jacobian = jacrev(outputs)(theta, case, method)
            total += jacobian.T @ jacobian / dispersion
            continue
        if family == "categorical":
            all_y = torch.eye(OUTPUTS, dtype=torch.float64)
        else:
            all_y = torch.tensor(list(itertools.product([0.0, 1.0], repeat=OUTPUTS)), dtype=torch.float64)

        def log_likelihood(theta: torch.Tensor, y: torch.Tensor, case: int = case) -> torch.Tensor:
            s = outputs(theta, case, method)
            if family == "categorical":
                return (s.log_softmax(-1) * y).sum()
            return (F.logsigmoid(s) * y + F.logsigmoid(-s) * (1 - y)).sum()

        scores = vmap(grad(log_likelihood), (None, 0))(theta, all_y)
        probabilities = torch.stack([log_likelihood(theta, y) for y in all_y]).exp()
        assert float(probabilities.sum()) == pytest.approx(1.0)
        total += scores.T @ (probabilities[:, None] * scores)
    return total / CASES


FAMILIES = [("gaussian", 1.0), ("gaussian", 0.3), ("bernoulli", 1.0), ("categorical", 1.0)]


@pytest.mark.parametrize(("family", "dispersion"), FAMILIES)
def test_equation_12(family, dispersion: float) -> None:
    told = standard_fisher(X, W, B, family=family, dispersion=dispersion)
    torch.testing.assert_close(told, by_definition("none", family, dispersion), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["batch", "weight"])
@pytest.mark.parametrize(("family", "dispersion"), FAMILIES)
def test_equation_13_as_printed(method, family, dispersion: float) -> None:
    settings = {"method": method, "family": family, "dispersion": dispersion}
    told = normalized_fisher(X, W, B, G, printed=True, **settings)
    torch.testing.assert_close(told, by_definition(method, family, dispersion), rtol=0, atol=1e-10)
    torch.testing.assert_close(told, normalized_fisher(X, W, B, G, **settings), rtol=0, atol=0)


@pytest.mark.parametrize(("family", "dispersion"), FAMILIES)
def test_layer_normalization_needs_the_derivatives_across_outputs(family, dispersion: float) -> None:
    settings = {"method": "layer", "family": family, "dispersion": dispersion}
    want = by_definition("layer", family, dispersion)
    torch.testing.assert_close(normalized_fisher(X, W, B, G, **settings), want, rtol=0, atol=1e-10)
    printed = normalized_fisher(X, W, B, G, printed=True, **settings)
    assert (printed - want).abs().max() > 0.01
    # Biases and gains do not move the moments: there the printed equation holds.
    keep = [i for i in range(len(want)) if i % (INPUTS + 2) >= INPUTS]
    torch.testing.assert_close(printed[keep][:, keep], want[keep][:, keep], rtol=0, atol=1e-10)


def test_gains_of_layer_normalization_have_the_metric_of_equation_33() -> None:
    told = normalized_fisher(X, W, B, G, method="layer", family="bernoulli")
    a = X @ W.T
    y = (a - a.mean(1, keepdim=True)) / a.std(1, correction=0, keepdim=True)
    p = torch.sigmoid(G * y + B)
    gains = torch.arange(OUTPUTS) * (INPUTS + 2) + INPUTS + 1
    want = torch.diag((p * (1 - p) * y * y).mean(0))
    torch.testing.assert_close(told[gains][:, gains], want)


def test_doubled_weights_halve_the_mixed_blocks_and_quarter_the_weights_own() -> None:
    for method in ("layer", "batch", "weight"):
        one = normalized_fisher(X, W, B, G, method=method, family="categorical").reshape(
            OUTPUTS, INPUTS + 2, OUTPUTS, INPUTS + 2
        )
        two = normalized_fisher(X, 2 * W, B, G, method=method, family="categorical").reshape(one.shape)
        w, rest = slice(0, INPUTS), slice(INPUTS, None)
        torch.testing.assert_close(two[:, w, :, w], one[:, w, :, w] / 4)
        torch.testing.assert_close(two[:, w, :, rest], one[:, w, :, rest] / 2)
        torch.testing.assert_close(two[:, rest, :, rest], one[:, rest, :, rest])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": X[:, :2]}, r"must be \[N, D\], \[H, D\] and \[H\], got \[\[7, 2\], \[3, 4\]"),
        ({"gain": G[:1]}, "must be"),
        ({"family": "poisson"}, "got 'poisson'"),
        ({"dispersion": 0.0}, "dispersion must be positive"),
        ({"dispersion": 2.0}, "1 for a family 'categorical' that has none, got 2.0"),
        ({"method": "group"}, "method must be one of .* got 'group'"),
        ({"weight": 0 * W}, "must not be zero"),
    ],
)
def test_invalid_models_are_refused(changed: dict, words: str) -> None:
    settings = {"x": X, "weight": W, "bias": B, "gain": G, "method": "weight", "family": "categorical", **changed}
    with pytest.raises(ValueError, match=words):
        normalized_fisher(**settings)
