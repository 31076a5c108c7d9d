"""A norm of the last axis where the features are on axis 1."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.norms import BatchNorm, ChannelsFirst


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 3, 5), (2, 6, 3, 5, 2)])
def test_is_torchs_batch_norm_of_every_rank(shape: tuple[int, ...]) -> None:
    module = ChannelsFirst(BatchNorm(6, dtype=torch.float64))
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(module(x), F.batch_norm(x, None, None, training=True), rtol=0, atol=1e-12)


def test_shows_the_norms_numbers() -> None:
    norm = nn.LayerNorm(6, eps=0.25)
    module = ChannelsFirst(norm)
    assert module.weight is norm.weight
    assert module.eps == 0.25
    assert list(module.state_dict()) == ["norm.weight", "norm.bias"]
    with pytest.raises(AttributeError, match="gamma"):
        _ = module.gamma


def test_wants_two_axes() -> None:
    with pytest.raises(ValueError, match=r"expects \[N, C, \.\.\.\], got \[6\]"):
        ChannelsFirst(nn.LayerNorm(6))(torch.randn(6))


@pytest.mark.parametrize("norm", [BatchNorm(6), nn.RMSNorm(6), nn.Identity()])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 3, 5), (2, 6, 3, 5, 2)])
def test_lies_in_memory_as_torchs_norm_lays_it(norm: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    given = [x, x.transpose(0, 1).contiguous().transpose(0, 1), torch.randn(*shape[:1], *shape[2:], 6).movedim(-1, 1)]
    for one in given:
        want = F.batch_norm(one, None, None, training=True)
        assert ChannelsFirst(norm)(one).stride() == want.stride(), one.stride()


def test_vmap() -> None:
    x = torch.randn(3, 4, 6, 5)
    module = ChannelsFirst(nn.RMSNorm(6))
    got = torch.func.vmap(module, in_dims=1)(x.transpose(0, 1))
    torch.testing.assert_close(got, torch.stack([module(one) for one in x]))
