"""Eigenvalues and traces against those of the full matrix."""

import json
from functools import partial

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from sklearn.datasets import load_digits
from torch import nn

from normscope import norms
from normscope.analysis.curvature import Curvature, GaussNewton, curvature


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*, norm: bool = True, width: int = 6, inputs: int = 4, outputs: int = 3) -> nn.Module:
    middle = norms.LayerNorm(width) if norm else norms.NoNorm(width)
    model = nn.Sequential(nn.Linear(inputs, width), middle, nn.ReLU(), nn.Linear(width, outputs)).double()
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(model.named_parameters()):
            if not name.startswith("1."):
                parameter.copy_(drawn(*parameter.shape, seed=seed) / parameter.shape[-1] ** 0.5)
    return model


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("norm", [True, False])
def test_spectrum_against_the_matrix_in_full(loss, norm: bool) -> None:
    model, x = network(norm=norm), drawn(9, 4)
    matrix = GaussNewton(model, x, loss=loss)
    full = torch.stack([matrix.product(column) for column in torch.eye(matrix.size, dtype=torch.float64)])
    want = np.linalg.eigvalsh(full.numpy())[::-1]
    found = curvature(model, x, loss=loss, generator=generator(), top=4, probes=400, tolerance=1e-10)
    assert found.eigenvalues == pytest.approx(want[:4], rel=1e-8)
    assert max(found.residuals) < 1e-8
    # Four standard errors of the estimate, and the error itself against Hutchinson's variance.
    assert abs(found.trace - want.sum()) < 4 * found.trace_error
    off = full - torch.diag(full.diagonal())
    assert found.trace_error == pytest.approx(float((2 * off.square().sum()).sqrt()) / 20, rel=0.3)


def test_norms_tame_inputs_of_an_odd_scale() -> None:
    pixels = torch.from_numpy(load_digits().data[:128]).double()
    found = {
        norm: curvature(
            network(norm=norm, width=16, inputs=64, outputs=10), pixels, loss="cross_entropy", generator=generator()
        )
        for norm in (True, False)
    }
    # Pixels reach 16 and have a mean: the plain network is far sharper.
    assert found[False].eigenvalues[0] > 5 * found[True].eigenvalues[0]
    words = found[False].compare(found[True], names=("without norms", "with"))
    assert "without norms is" in words
    assert "times as sharp as with (largest eigenvalue" in words
    assert "traces differ" in words


def test_gradient_descent_is_stable_below_two_by_the_eigenvalue_and_not_above() -> None:
    model, x = nn.Linear(5, 2, bias=False).double(), drawn(20, 5)
    top = curvature(model, x, loss="mse", generator=generator(), top=1, tolerance=1e-10).eigenvalues[0]
    for rate, stable in ((1.95 / top, True), (2.05 / top, False)):
        weight = drawn(2, 5).requires_grad_()
        for _ in range(400):
            loss = nn.functional.mse_loss(x @ weight.T, torch.zeros(20, 2, dtype=torch.float64))
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - rate * gradient).detach().requires_grad_()
        assert bool(weight.norm() < 1) == stable


def test_one_seed_gives_the_same_numbers() -> None:
    model, x = network(), drawn(9, 4)
    one, other = (curvature(model, x, loss="mse", generator=generator()) for _ in range(2))
    assert one == other


def test_a_zero_matrix_is_reported() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Threshold(1e9, 1.0)).double()
    found = curvature(model, drawn(5, 4), loss="mse", generator=generator())
    assert found.eigenvalues == (0.0, 0.0, 0.0)
    assert found.trace == 0
    assert "matrix is zero" in found.reading


def test_reading_and_json() -> None:
    found = curvature(network(), drawn(9, 4), loss="cross_entropy", generator=generator(), kind="fisher")
    assert f"below a learning rate of {2 / found.eigenvalues[0]:.2g}" in found.reading
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["reading"] == found.reading
    assert found.products > 16


def test_unlike_matrices_are_not_compared() -> None:
    made = {
        loss: Curvature(
            kind="ggn",
            loss=loss,
            parameters=2,
            cases=1,
            outputs=1,
            eigenvalues=(1.0,),
            residuals=(0.0,),
            trace=1.0,
            trace_error=0.1,
            products=1,
        )
        for loss in ("mse", "cross_entropy")
    }
    with pytest.raises(ValueError, match="ggn of mse and ggn of cross_entropy"):
        made["mse"].compare(made["cross_entropy"], names=("a", "b"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"top": 0}, "from 1 to 62"), ({"top": 63}, "from 1 to 62"), ({"probes": 1}, "at least 2, for a standard error")],
)
def test_bounds(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        curvature(network(), drawn(9, 4), loss="mse", generator=generator(), **changed)


def test_a_search_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(scipy.sparse.linalg.eigsh, maxiter=1, ncv=5)
    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", short)
    with pytest.raises(RuntimeError, match=r"Lanczos' method found \d of 3 eigenvalues"):
        curvature(network(), drawn(9, 4), loss="mse", generator=generator(), tolerance=1e-14)
