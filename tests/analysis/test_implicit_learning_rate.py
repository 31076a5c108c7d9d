"""Gradient steps and their angles against autograd, and the exponents of their scaling."""

import json

import pytest
import torch
from torch.func import grad
from torch.nn import functional as F

from normscope.analysis import ImplicitLearningRate, implicit_learning_rate

CASES, INPUTS, OUTPUTS = 7, 4, 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, W, B = drawn(CASES, INPUTS), drawn(OUTPUTS, INPUTS, seed=1), drawn(OUTPUTS, seed=2)
G = 1.5 + 0.3 * drawn(OUTPUTS, seed=3)


def test_the_angle_falls_with_the_square_of_the_length_under_a_norm_only() -> None:
    y = torch.eye(OUTPUTS, dtype=torch.float64)[torch.arange(CASES) % OUTPUTS]
    found = implicit_learning_rate(X, y, W, B, G, family="categorical")
    assert isinstance(found, ImplicitLearningRate)
    slopes = {row.method: (row.angle_slope, row.curvature_slope) for row in found.rows}
    for method in ("layer", "batch", "weight"):
        assert slopes[method] == pytest.approx((-2.0, -2.0), abs=1e-3)
    # Plain: the gradient stays of its order, the angle falls as the length grows, once.
    assert -1.5 < slopes["none"][0] < -0.5
    assert "doubled weights need four times the learning rate" in found.reading
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["method"] for row in read["rows"]] == ["none", "layer", "batch", "weight"]


@pytest.mark.parametrize("method", ["none", "layer", "batch", "weight"])
def test_the_step_is_the_one_autograd_takes(method: str) -> None:
    y = torch.rand(CASES, OUTPUTS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gain = torch.ones_like(G) if method == "none" else G

    def loss(weight: torch.Tensor) -> torch.Tensor:
        a = X @ weight.T
        s = {
            "none": lambda: a,
            "layer": lambda: F.layer_norm(a, (OUTPUTS,), gain, eps=0.0),
            "batch": lambda: F.batch_norm(a, None, None, gain, training=True, eps=1e-30),
            "weight": lambda: X @ (F.normalize(weight, dim=1) * gain[:, None]).T,
        }[method]() + B
        return F.binary_cross_entropy_with_logits(s, y, reduction="sum") / CASES

    stepped = W - 0.1 * grad(loss)(W)
    cosine = float((W * stepped).sum() / W.norm() / stepped.norm())
    found = implicit_learning_rate(X, y, W, B, G, family="bernoulli", learning_rate=0.1, factors=(1.0, 2.0))
    [row] = [row for row in found.rows if row.method == method]
    assert row.angles[0] == pytest.approx(torch.tensor(cosine, dtype=torch.float64).acos().item(), rel=1e-6)


def test_a_smaller_dispersion_is_a_larger_step() -> None:
    settings = {"x": X, "y": drawn(CASES, OUTPUTS, seed=6), "weight": W, "bias": B, "gain": G, "family": "gaussian"}
    half = implicit_learning_rate(**settings, dispersion=0.5, learning_rate=0.01)
    twice = implicit_learning_rate(**settings, learning_rate=0.02)
    for one, other in zip(half.rows, twice.rows, strict=True):
        assert one.angles == pytest.approx(other.angles)
        assert one.curvatures == pytest.approx([2 * value for value in other.curvatures])


def test_steps_are_checked() -> None:
    with pytest.raises(ValueError, match=r"y must be \[7, 3\], got \[7\]"):
        implicit_learning_rate(X, X[:, 0], W, B, G, family="gaussian")
    with pytest.raises(ValueError, match="positive and increasing"):
        implicit_learning_rate(X, X[:, :3], W, B, G, family="gaussian", factors=(2.0, 1.0))
