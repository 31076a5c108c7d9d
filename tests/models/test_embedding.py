"""Word embeddings."""

import math

import pytest
import torch
from torch import nn

from normscope.models.layers import Embedding


def test_equals_torch_embedding_scaled_and_shifted() -> None:
    ours, peer = Embedding(11, 6, padding=0).double(), nn.Embedding(11, 6, padding_idx=0).double()
    with torch.no_grad():
        peer.weight[1:] += 1
        ours.weight.copy_(peer.weight)
    tokens, positions, g = torch.randint(11, (3, 5)), torch.randn(5, 6).double(), torch.randn(3, 5, 6).double()
    tokens[0, 0] = 0
    mine, theirs = ours(tokens, positions), peer(tokens) * math.sqrt(6) + positions
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(ours(tokens), peer(tokens) * math.sqrt(6))
    mine.backward(g)
    theirs.backward(g)
    torch.testing.assert_close(ours.weight.grad, peer.weight.grad)
    assert not ours.weight.grad[0].any()


def test_first_weights() -> None:
    embedding = Embedding(2000, 64, padding=0)
    assert not embedding.weight[0].any()
    # 127,936 draws estimate a standard deviation to 0.2 % (one standard error).
    assert embedding.weight[1:].std().item() == pytest.approx(1 / 8, rel=0.02)
    assert Embedding(5, 64).weight[0].abs().min() > 0
