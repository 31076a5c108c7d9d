"""FRN divides a channel of one map by its root mean square, then thresholds it."""

import numpy as np
import pytest
import torch

from normscope.norms import FRN, frn


def spread(module: FRN) -> FRN:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    return module


@pytest.mark.parametrize("space", [(6,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("learnable_eps", [False, True])
def test_is_its_equation_written_as_loops(space: tuple[int, ...], learnable_eps: bool) -> None:
    module = spread(FRN(5, 0.3, learnable_eps=learnable_eps, dtype=torch.float64))
    x = torch.randn(2, *space, 5, dtype=torch.float64)
    weight, bias, tau = (p.detach().numpy() for p in (module.weight, module.bias, module.threshold))
    eps = module.eps.detach().item() if learnable_eps else module.eps
    maps = x.reshape(2, -1, 5).numpy()
    want = np.empty_like(maps)
    for sample in range(2):
        for channel in range(5):
            values = maps[sample, :, channel]
            scaled = weight[channel] * values / np.sqrt((values**2).mean() + eps) + bias[channel]
            want[sample, :, channel] = np.where(scaled > tau[channel], scaled, tau[channel])
    # Float64 sums of twelve terms of order one.
    np.testing.assert_allclose(module(x).detach().reshape(2, -1, 5), want, rtol=0, atol=1e-13)


def test_a_map_by_hand() -> None:
    # The mean square of (1, 7) is 25; the mean is not subtracted; the threshold lifts the first to 0.5.
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    z = frn(torch.tensor([[[1.0], [7.0]]], dtype=torch.float64), one, zero, one / 2, 0.0)
    torch.testing.assert_close(z.flatten(), torch.tensor([0.5, 1.4], dtype=torch.float64), rtol=1e-15, atol=0)


def test_gradient_goes_to_the_threshold_where_it_is_below_and_to_the_bias_where_it_is_not() -> None:
    module = FRN(5, dtype=torch.float64)
    x, upstream = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    module(x).backward(upstream)
    below = torch.where(x < 0, upstream, 0).sum((0, 1))
    torch.testing.assert_close(module.threshold.grad, below, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(module.bias.grad, upstream.sum((0, 1)) - below, rtol=1e-13, atol=1e-13)


def test_a_learned_eps_is_used_without_its_sign_and_learns() -> None:
    module = FRN(5, 0.3, learnable_eps=True, dtype=torch.float64)
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    y = module(x)
    y.backward(torch.randn_like(y))
    assert module.eps.grad.abs() > 0
    with torch.no_grad():
        module.eps.neg_()
    torch.testing.assert_close(module(x), y, rtol=0, atol=0)


def test_a_sample_is_the_same_in_any_batch() -> None:
    module = spread(FRN(5, dtype=torch.float64))
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x)[:1], module(x[:1]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(5,), (8, 5)])
def test_refuses_maps_without_space(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"FRN\(.*expects \[batch, space, \.\.\., 5\], got \["):
        FRN(5)(torch.ones(shape))
