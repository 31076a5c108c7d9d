"""Order embeddings: errors and losses by hand and by independent formulas, and each embedding by itself."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normscope.models import OrderEmbedding, order_embedding
from normscope.models.order_embedding import contrastive_loss, order_violations
from normscope.norms import NORMS
from normscope.training import initialize

DOUBLE = torch.float64


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def model(similarity: str = "order", norm: str = "layer_norm", **sizes: int) -> OrderEmbedding:
    sizes = {"vocabulary": 20, "word_width": 5, "image_width": 7, "width": 6} | sizes
    built = OrderEmbedding(**sizes, similarity=similarity, norm=NORMS[norm])
    initialize(built, 0)
    return built.double()


def test_violations_by_hand() -> None:
    sentences = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.5, 0.0]], dtype=DOUBLE)
    images = torch.tensor([[0.5, 3.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0]], dtype=DOUBLE)
    # 0.5^2 + 1^2; 1^2 + 2^2; below in every coordinate. Then 0; 0.5^2; 0.
    wanted = torch.tensor([[1.25, 5.0, 0.0], [0.0, 0.25, 0.0]], dtype=DOUBLE)
    assert torch.equal(order_violations(sentences, images), wanted)


def test_the_loss_by_hand() -> None:
    errors = torch.tensor([[0.10, 0.12], [0.30, 0.20]], dtype=DOUBLE)
    # Sentence 0 against image 1: 0.05 - 0.12 + 0.10; image 1 against sentence 0: 0.05 - 0.12 + 0.20; others below 0.
    assert contrastive_loss(errors, 0.05).item() == pytest.approx(0.03 + 0.13)
    # Sentence 1 against image 0: 0.2 - 0.3 + 0.2; image 0 against sentence 1: 0.2 - 0.3 + 0.1.
    assert contrastive_loss(errors, 0.2).item() == pytest.approx(0.18 + 0.28 + 0.10 + 0.0)
    # The own pair is no contrastive one, however large the margin.
    assert contrastive_loss(errors[:1, :1], 9.0).item() == 0


@pytest.mark.parametrize("at_once", [1, 40, 2**19])
def test_violations_and_loss_are_those_of_the_definition(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_embedding, "_NUMBERS_AT_ONCE", at_once)
    sentences, images = drawn(0, 9, 6), drawn(1, 9, 6)
    s, i = sentences.numpy(), images.numpy()
    wanted = np.array([[sum(max(0.0, a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in i] for x in s])
    errors = order_violations(sentences, images)
    np.testing.assert_allclose(errors.numpy(), wanted, rtol=1e-14)
    assert order_violations(sentences[:2], images).shape == (2, 9)
    loss = 0.0
    for own in range(9):
        for other in set(range(9)) - {own}:
            loss += max(0.0, 3 - wanted[own, other] + wanted[own, own])
            loss += max(0.0, 3 - wanted[other, own] + wanted[own, own])
    assert contrastive_loss(errors, 3.0).item() == pytest.approx(loss, rel=1e-13)
    pair = sentences.requires_grad_(), images.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, i: contrastive_loss(order_violations(s, i), 3.0), pair)


@pytest.mark.parametrize("similarity", ["order", "cosine"])
def test_embeddings_are_those_of_each_sentence_and_image_alone(similarity: str) -> None:
    built = model(similarity, "none")
    lengths = [3, 1, 5, 2]
    tokens = torch.randint(20, (4, 5), generator=torch.Generator().manual_seed(2))
    gru = nn.GRU(5, 6, batch_first=True).double()
    gru.load_state_dict(built.encoder.state_dict())
    alone = torch.stack(
        [gru(built.words.weight[row[None, :length]])[0][0, -1] for row, length in zip(tokens, lengths, strict=True)]
    )
    features = drawn(3, 3, 7)
    mapped = features @ built.images.weight.T + built.images.bias
    s, i = (x / x.square().sum(1, keepdim=True).sqrt() for x in (alone, mapped))
    if similarity == "order":
        s, i = s.abs(), i.abs()
    torch.testing.assert_close(built.sentences(tokens, torch.tensor(lengths)), s, rtol=1e-12, atol=0)
    torch.testing.assert_close(built.embedded(features), i, rtol=1e-12, atol=0)
    wanted = (s[:, None] - i).clamp(min=0).pow(2).sum(2) if similarity == "order" else -(s @ i.T)
    torch.testing.assert_close(built(tokens, torch.tensor(lengths), features), wanted, rtol=1e-12, atol=1e-15)
    assert bool((built.embedded(features) >= 0).all()) is (similarity == "order")


def test_norms_stand_in_the_gru_and_padding_changes_nothing() -> None:
    built = model()
    assert {name.split(".")[0] for name, module in built.named_modules() if type(module) is NORMS["layer_norm"]} == {
        "encoder"
    }
    tokens = torch.randint(20, (2, 4), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([2, 4])
    padded = torch.cat([tokens, torch.full((2, 3), 9)], 1)
    padded[0, 2:] = 17
    assert torch.equal(built.sentences(tokens, lengths), built.sentences(padded, lengths))


def test_initial_weights_are_those_of_the_public_code() -> None:
    built = model(width=32, word_width=24, image_width=40, vocabulary=500)
    for uniform in (built.words.weight, built.encoder.weight_ih_l0):
        assert 0.09 < uniform.abs().max() <= 0.1
        assert uniform.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    for gate in built.encoder.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32, dtype=DOUBLE), rtol=0, atol=1e-6)
    bound = math.sqrt(6 / 72)
    assert 0.95 * bound < built.images.weight.abs().max() <= bound
    assert all(not bias.any() for bias in (built.images.bias, built.encoder.bias_ih_l0, built.encoder.bias_hh_l0))
    norm = built.get_submodule("encoder.norms.l0.hh.0")
    assert bool((norm.weight == 1).all())


def test_embeddings_of_half_precision_are_compared_in_single() -> None:
    built = model().bfloat16()
    assert built.embedded(torch.ones(2, 7, dtype=torch.bfloat16)).dtype == torch.float32
