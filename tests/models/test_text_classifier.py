"""The text classifier."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models import TextClassifier
from normscope.placement import PLACEMENTS
from normscope.training.randomness import initialize

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 3, 5, 8, 0]])


def build(placement: str = "pre", *, dropout: float = 0.0, layers: int = 2) -> TextClassifier:
    return TextClassifier(
        vocabulary=9,
        width=8,
        heads=2,
        feed_forward=12,
        layers=layers,
        classes=3,
        dropout=dropout,
        max_length=6,
        stack=partial(PLACEMENTS[placement].stack, norm=nn.LayerNorm),
    )


def peer_of(placement: str, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True, norm_first=placement == "pre")
    final = nn.LayerNorm(8) if placement == "pre" else None
    return nn.TransformerEncoder(layer, 2, final, enable_nested_tensor=False).double()


def run_peer(model: TextClassifier, peer: nn.TransformerEncoder, tokens: Tensor, dropout: float) -> Tensor:
    x = functional.embedding(tokens, model.embedding.weight, 0) * 8**0.5 + model.positions[:5]
    x = peer(functional.dropout(x, dropout), src_key_padding_mask=tokens == 0)
    means = [row[: (words > 0).sum()].mean(0) for row, words in zip(x, tokens, strict=True)]
    return model.head(torch.stack(means))


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equals_torchs_encoder(copy_stack, assert_same_gradients, placement: str, dropout: float) -> None:
    model = build(placement, dropout=dropout).double()
    peer = peer_of(placement, dropout)
    pairs = copy_stack(model.encoder, peer)
    # torch keeps time before batch in memory, and draws its masks in that order: the same for a single row alone.
    tokens = TOKENS[2:] if dropout else TOKENS
    g = torch.randn(len(tokens), 3).double()
    torch.manual_seed(2)
    want = run_peer(model, peer, tokens, dropout)
    want.backward(g)
    model_gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(2)
    got = model(tokens)
    got.backward(g)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert_same_gradients(pairs)
    for name, gradient in model_gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-10, atol=1e-10)


def test_pads_change_nothing() -> None:
    model = build().double().eval()
    alone, padded = model(TOKENS[1:2, :2]), model(TOKENS[1:2])
    # The same sums of under a hundred float64 terms in another order.
    torch.testing.assert_close(alone, padded, rtol=1e-12, atol=1e-12)


def test_a_text_without_words_gets_the_bias() -> None:
    model = build()
    nn.init.normal_(model.head.bias)
    tokens = TOKENS.clone()
    tokens[1] = 0
    logits = model(tokens)
    logits.backward(torch.randn(3, 3))
    torch.testing.assert_close(logits[1], model.head.bias)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("placement", [name for name, entry in PLACEMENTS.items() if name != "preactivation"])
def test_every_placement_builds_it_and_a_seed_gives_the_same_bits(placement: str) -> None:
    models = [build(placement) for _ in range(2)]
    for model in models:
        initialize(model, 7)
    outputs = [model(TOKENS) for model in models]
    assert outputs[0].isfinite().all()
    assert torch.equal(*outputs)
    outputs[0].backward(torch.randn(3, 3))
    # These branches are multiplied by zero at first.
    if placement not in {"rezero", "skipinit", "fixup"}:
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in models[0].parameters())


def test_deepnorm_scales_values_outputs_and_feed_forward_alone() -> None:
    post, deep = build("post"), build("deepnorm")
    for model in (post, deep):
        initialize(model, 7)
    beta = (8 * 2) ** -0.25
    names = dict(post.named_parameters())
    for name, weight in deep.encoder.named_parameters():
        other = names[f"encoder.{name}"]
        if name.endswith("project.weight"):
            factors = torch.tensor([1, 1, beta]).repeat_interleave(8)[:, None]
        else:
            factors = beta if "branch" in name and name.endswith("weight") else 1
        torch.testing.assert_close(weight, other * factors)


def test_too_long_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="may have 6 words, got 7"):
        build()(torch.ones(1, 7, dtype=torch.int64))


def test_learns_and_trains_in_bfloat16(trains) -> None:
    model = build()
    labels = torch.tensor([0, 2, 1])
    trains(model, lambda: functional.cross_entropy(model(TOKENS), labels))


def test_compiles_whole() -> None:
    model = build(dropout=0.1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    outputs = []
    for module in (model, compiled):
        model.zero_grad()
        torch.manual_seed(3)
        loss = functional.cross_entropy(module(TOKENS), torch.tensor([0, 2, 1]))
        loss.backward()
        outputs.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other)
