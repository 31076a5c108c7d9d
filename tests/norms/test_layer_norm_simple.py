"""LayerNorm-simple is LayerNorm without parameters."""

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F

from normscope.norms import LayerNormSimple, layer_norm_simple


def test_is_torchs_layer_norm_without_parameters() -> None:
    x = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 3, 7, dtype=torch.float64)
    ours, theirs = LayerNormSimple(7, 0.3)(x), F.layer_norm(x, (7,), eps=0.3)
    # Float64 sums of seven terms of order one.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    (got,), (want,) = (torch.autograd.grad(y, x, upstream) for y in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_is_the_z_score() -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 9))
    np.testing.assert_allclose(layer_norm_simple(torch.tensor(x), 0.0), stats.zscore(x, axis=-1), rtol=0, atol=1e-14)


def test_has_nothing_to_learn() -> None:
    assert LayerNormSimple(7).state_dict() == {}


def test_its_gradient_is_orthogonal_to_ones_and_to_the_output() -> None:
    x = torch.randn(16, 7, dtype=torch.float64, requires_grad=True)
    y = layer_norm_simple(x, 0.0)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    # Without eps the output moves neither along ones nor along itself; sums of seven terms in float64.
    assert gradient.sum(-1).abs().max() < 1e-12
    assert (gradient * y).sum(-1).abs().max() < 1e-12
    assert gradient.abs().max() > 0.1
