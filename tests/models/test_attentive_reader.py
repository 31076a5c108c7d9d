"""The attentive reader against the formulas of its source, and how its parameters begin."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.models import AttentiveReader, ReaderStart
from normscope.norms import BatchNorm, LayerNorm, NoNorm
from normscope.training.randomness import initialize

SIZES: dict[str, Any] = {"vocabulary": 11, "width": 6, "units": 6, "joint": 5, "steps": (7, 4)}
PASSAGE = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [10, 4, 6, 5, 0, 0, 0]])
QUERY = torch.tensor([[5, 2, 6, 7], [3, 2, 10, 0]])


def build(norm: Any = LayerNorm, **given: Any) -> Any:
    torch.manual_seed(3)
    model: Any = AttentiveReader(norm=norm, **{**SIZES, **given}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.embedding.weight[0] = 0
    return model


def by_hand(model: Any, passage: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the weights and the logits of one question, word by word."""
    passage, query = passage[passage != 0], query[query != 0]
    read = model.passage(model.embedding(passage)[None])[0][0]
    asked = model.query(model.embedding(query)[None])[0][0, -1]
    words = range(len(passage))
    (w_d, w_q, b_dq) = (model.attend_passage[0], model.attend_query[0], model.attend_both.weight)
    scores = []
    for t in words:
        both = torch.dot(b_dq @ read[t], b_dq @ asked)
        hidden = torch.tanh(w_d.weight @ read[t] + w_d.bias + w_q.weight @ asked + both)
        scores.append(torch.dot(model.attend.weight[0], hidden))
    weights = torch.stack(scores).exp()
    weights = weights / weights.sum()
    seen = sum(weight * read[t] for weight, t in zip(weights, words, strict=True))
    mean = sum(read[t] for t in words) / len(words)
    joint = model.join_read[0].weight @ seen + model.join_query[0].weight @ asked + model.join_query[0].bias
    joint = torch.tanh(joint + model.join_mean[0].weight @ mean)
    return weights, model.logits.weight @ joint + model.logits.bias


@pytest.mark.parametrize("norm", [LayerNorm, lambda width: NoNorm(width)])
def test_logits_are_those_of_the_formulas(norm: Any) -> None:
    model = build(norm).eval()
    found = model(PASSAGE, QUERY)
    wanted = torch.stack([by_hand(model, *pair)[1] for pair in zip(PASSAGE, QUERY, strict=True)])
    torch.testing.assert_close(found, wanted)
    candidates = torch.tensor([[9, 4, 3], [5, 6, 10]])
    torch.testing.assert_close(model(PASSAGE, QUERY, candidates), wanted.gather(1, candidates))


def test_gradients_of_candidates_are_those_of_the_whole_softmax() -> None:
    model, candidates = build(), torch.tensor([[9, 4, 3], [5, 6, 10]])
    upstream = torch.randn(2, 3, dtype=torch.float64)
    grads = []
    for logits in (model(PASSAGE, QUERY, candidates), model(PASSAGE, QUERY).gather(1, candidates)):
        grads.append(torch.autograd.grad(logits, list(model.parameters()), upstream))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    # Padding has no embedding to learn.
    assert not grads[0][0][0].any()
    assert grads[0][0][10].any()


def test_norms_everywhere_stand_behind_five_maps() -> None:
    model, plain = build(BatchNorm, everywhere=True), build(BatchNorm)
    names = ("attend_passage", "attend_query", "join_read", "join_query", "join_mean")
    assert [name for name, module in model.named_modules() if type(module) is BatchNorm] == [f"{n}.1" for n in names]
    assert not [name for name, module in plain.named_modules() if type(module) is BatchNorm]
    model.eval()
    read, inputs = torch.randn(3, 6, dtype=torch.float64), nn.Linear(6, 6).double()
    inputs.load_state_dict(model.attend_passage[0].state_dict())
    torch.testing.assert_close(model.attend_passage(read), model.attend_passage[1](inputs(read)))
    assert model.train()(PASSAGE, QUERY).shape == (2, 11)


def test_places_and_dropout_are_those_of_the_settings() -> None:
    model = build(places="kiros", dropout=0.5)
    assert model.passage.places.bias == model.query.places.bias == "both"
    model.train()
    torch.manual_seed(1)
    assert not torch.equal(model(PASSAGE, QUERY), model(PASSAGE, QUERY))
    model.eval()
    assert torch.equal(model(PASSAGE, QUERY), model(PASSAGE, QUERY))


def test_a_single_longest_row_is_cut_in_training_alone() -> None:
    model = build(BatchNorm)
    cut = PASSAGE.clone()
    cut[0, 4:] = 0
    query = QUERY.clone()
    query[:, 3] = 0
    assert torch.equal(model(PASSAGE, QUERY), model(cut, query))
    model.eval()
    assert not torch.equal(model(PASSAGE, QUERY), model(cut, query))
    alone = build(LayerNorm)
    torch.testing.assert_close(alone(PASSAGE[:1], QUERY[:1]), alone.eval()(PASSAGE[:1], QUERY[:1]))


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_gradients_of_short_rows_are_finite_without_biases(scale: float) -> None:
    # Were padding read, a layer norm of zeros would multiply the gradient by 1 / sqrt(eps) at every step of it.
    model = started(ReaderStart(scale=scale))
    passage = torch.zeros(3, 60, dtype=torch.int64)
    passage[:2], passage[2, 0] = 5, 6
    model(passage, QUERY[[0, 1, 1]]).square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def started(start: ReaderStart | None, norm: Any = LayerNorm) -> Any:
    model: Any = AttentiveReader(vocabulary=400, width=32, units=32, joint=40, norm=norm, steps=(7, 4), start=start)
    initialize(model, 5)
    return model


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_scaled_readers_begin_as_the_published_one(scale: float) -> None:
    model = started(ReaderStart(scale=scale))
    for layer in (model.passage, model.query):
        gates = [*layer.weight_ih_l0.detach().chunk(4), *layer.weight_hh_l0.detach().chunk(4)]
        for gate in gates:
            torch.testing.assert_close(gate @ gate.T, scale**2 * torch.eye(32), atol=1e-5, rtol=0)
        assert not any(torch.equal(gates[0], gate) for gate in gates[1:])
        assert not layer.bias_ih_l0.any()
        assert not layer.bias_hh_l0.any()
    for layer in (model.attend_passage[0], model.attend_both):
        torch.testing.assert_close(layer.weight @ layer.weight.T, scale**2 * torch.eye(32), atol=1e-5, rtol=0)
    bound = 0.19 * scale
    assert 0.99 * bound < model.embedding.weight.abs().max() <= bound
    assert not model.embedding.weight[0].any()
    # Glorot's bound of 32 + 40 units.
    assert 0.95 < model.join_query[0].weight.abs().max() / (6 / 72) ** 0.5 <= 1
    assert not model.join_query[0].bias.any()
    assert not torch.equal(model.passage.weight_ih_l0, model.query.weight_ih_l0)


def test_equal_gates_begin_equal() -> None:
    model = started(ReaderStart(scale=0.05, equal_gates=True))
    gates = [*model.passage.weight_ih_l0.chunk(4), *model.passage.weight_hh_l0.chunk(4)]
    assert all(torch.equal(gates[0], gate) for gate in gates)


def test_without_a_start_parameters_begin_as_torch_draws_them() -> None:
    model = started(None)
    assert model.passage.bias_ih_l0[32:64].tolist() == [1.0] * 32
    assert 0.098 < model.embedding.weight[1:].std() < 0.102
    assert 0.95 < model.passage.weight_hh_l0.abs().max() * 32**0.5 <= 1


def test_embeddings_and_output_start_from_vectors() -> None:
    vectors = torch.zeros(11, 6)
    vectors[4:9] = torch.nn.functional.normalize(torch.randn(5, 6), dim=1)
    model: Any = AttentiveReader(norm=LayerNorm, **{**SIZES, "joint": 6}, vectors=vectors)
    plain: Any = AttentiveReader(norm=LayerNorm, **{**SIZES, "joint": 6})
    for one in (model, plain):
        initialize(one, 5)
    for weights, others in (
        (model.embedding.weight, plain.embedding.weight),
        (model.logits.weight, plain.logits.weight),
    ):
        torch.testing.assert_close(weights[4:9].norm(dim=1), torch.full((5,), 0.15 * 6**0.5))
        torch.testing.assert_close(weights[4:9] / (0.15 * 6**0.5), vectors[4:9])
        assert torch.equal(weights[9:], others[9:])
    assert torch.equal(model.attend.weight, plain.attend.weight)
    scaled = AttentiveReader(norm=LayerNorm, **SIZES, vectors=vectors, start=ReaderStart(scale=0.05))
    assert scaled.embedding.weight.abs().max() <= 0.0095


@pytest.mark.parametrize(("scale", "low", "high"), [(0.05, 5e-8, 1e-7), (0.3, 7e-5, 1.3e-4), (1.0, 0.009, 0.016)])
def test_layer_norm_is_a_linear_amplifier_where_the_first_preactivations_are_small(
    scale: float, low: float, high: float
) -> None:
    # Variance of a uniform number within 0.19 s, times s squared: 0.012 s^4.
    model = started(ReaderStart(scale=scale))
    passage = torch.arange(1, 400)[:, None]
    found = model.first_preactivations(torch.cat([passage, torch.zeros_like(passage)], 1))
    variance = found.var(-1, correction=0)
    assert low < variance.mean() < high
    norm = model.passage.norms["l0"]["ih"][0]
    out = norm(found).var(-1, correction=0)
    torch.testing.assert_close(out, variance / (variance + 1e-5))
    if scale == 0.05:
        # Far below eps the norm multiplies by 1 / sqrt(eps) and keeps the differences in size between words.
        torch.testing.assert_close(norm(found), (found - found.mean(-1, keepdim=True)) * 1e-5**-0.5, atol=0, rtol=0.02)
        assert out.mean() < 0.01
    if scale == 1.0:
        assert out.mean() > 0.99
