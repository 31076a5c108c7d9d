"""The language model with a memory."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models import Memory, TransformerXL
from normscope.models.layers import sinusoids
from normscope.models.transformer_xl import RelativeAttention, Segment
from normscope.placement import PLACEMENTS
from normscope.training.randomness import initialize


def build(placement: str = "pre", **arguments: Any) -> TransformerXL:
    return TransformerXL(
        vocabulary=9,
        width=8,
        heads=2,
        feed_forward=12,
        layers=2,
        stack=partial(PLACEMENTS[placement].stack, norm=nn.LayerNorm),
        **{"batch": 3, "memory_length": 4, "dropout": 0.0, **arguments},
    )


def shaken(model: TransformerXL) -> TransformerXL:
    """Move every parameter away from zero biases and gains of one, in float64."""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def naive_attention(branch: RelativeAttention, x: Tensor, memory: Tensor, first: int, clamp: int) -> Tensor:
    """The paper's equation, one score at a time."""
    (batch, length, width), remembered = x.shape, memory.shape[1]
    seen = torch.cat([memory, x], 1)
    query = x @ branch.project.weight.T
    key, value = (seen @ branch.project_keys.weight.T).chunk(2, -1)
    distances = sinusoids(torch.arange(remembered + length).clamp(max=clamp), width).to(x.dtype)
    distances = distances @ branch.project_distances.weight.T
    rows = []
    for b in range(batch):
        for t in range(length):
            heads = []
            for h in range(branch.heads):
                part = slice(h * branch.head_width, (h + 1) * branch.head_width)
                keys = range(first, remembered + t + 1)
                scores = [
                    (query[b, t, part] + branch.content_bias[h]) @ key[b, k, part]
                    + (query[b, t, part] + branch.distance_bias[h]) @ distances[remembered + t - k, part]
                    for k in keys
                ]
                weights = (torch.stack(scores) / math.sqrt(branch.head_width)).softmax(0)
                heads.append(sum(weight * value[b, k, part] for weight, k in zip(weights, keys, strict=True)))
            rows.append(branch.output(torch.cat(heads)))
    return torch.stack(rows).view(batch, length, width)


@pytest.mark.parametrize(("remembered", "count", "clamp"), [(0, 0, None), (3, 3, None), (3, 1, None), (3, 3, 2)])
def test_relative_attention_equals_a_double_loop(remembered: int, count: int, clamp: int | None) -> None:
    model = shaken(build(clamp_length=clamp))
    branch = next(module for module in model.modules() if isinstance(module, RelativeAttention))
    x, states = torch.randn(3, 4, 8).double().requires_grad_(), torch.randn(2, 3, remembered, 8).double()
    segment = model._segment(Memory(states, torch.tensor(count)), 4, x)
    got = branch(x, segment)
    want = naive_attention(branch, x, states[0], remembered - count, 99 if clamp is None else clamp)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    g = torch.randn(3, 4, 8).double()
    wanted = [x, *branch.parameters()]
    for mine, other in zip(torch.autograd.grad(got, wanted, g), torch.autograd.grad(want, wanted, g), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
    assert torch.equal(segment.inputs[0], x)
    assert not segment.inputs[0].requires_grad


@pytest.mark.parametrize("placement", [name for name, entry in PLACEMENTS.items() if name != "preactivation"])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [1, 2, 8, 4], [15]])
def test_segment_by_segment_equals_the_whole(placement: str, lengths: list[int]) -> None:
    model = shaken(build(placement))
    tokens = torch.randint(9, (3, 15))
    whole, _ = model(tokens, model.empty_memory(3, 0))
    memory, parts = model.empty_memory(3, 20), []
    for part in tokens.split(lengths, 1):
        logits, memory = model(part, memory)
        parts.append(logits)
        assert not memory.states.requires_grad
    assert memory.count == 15
    # Sums of under a hundred float64 terms in another order, through two layers.
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


def test_memory_is_the_newest_inputs_of_every_attention() -> None:
    model = shaken(build())
    tokens = torch.randint(9, (3, 6))
    first = model.decoder.blocks[0]
    inputs = first.norm(model.embedding(tokens)).detach()
    _, memory = model(tokens[:, :3], model.empty_memory(3, 4))
    assert memory.count == 3
    torch.testing.assert_close(memory.states[0, :, 1:], inputs[:, :3])
    assert not memory.states[:, :, 0].any()
    _, memory = model(tokens[:, 3:], memory)
    assert memory.count == 4
    torch.testing.assert_close(memory.states[0], inputs[:, 2:])


def test_a_short_memory_forgets_what_is_older() -> None:
    model = shaken(build(share_embeddings=False))
    tokens, move = torch.arange(9)[None], torch.randn(8).double()

    def reach(length: int) -> list[bool]:
        """Say which of the words 0 to 5 the logits of the words 6 to 8 depend on, in the value."""
        found = []
        for word in range(6):
            logits = []
            for shift in (0.0, 1.0):
                with torch.no_grad():
                    model.embedding.weight[word] += shift * move
                    memory = model.empty_memory(1, length)
                    for part in tokens.split(3, 1):
                        y, memory = model(part, memory)
                    model.embedding.weight[word] -= shift * move
                logits.append(y)
            found.append(not torch.allclose(*logits, rtol=0, atol=1e-9))
        return found

    assert reach(0) == [False] * 6
    # Two layers of a memory of one: the state of word 5 has seen words 3 to 5, and that of word 2.
    assert reach(1) == [False, False, True, True, True, True]
    assert reach(6) == [True] * 6


def test_no_gradient_goes_into_the_memory() -> None:
    model = shaken(build())
    states = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    logits, memory = model(torch.randint(9, (3, 5)), Memory(states, torch.tensor(4)))
    logits.backward(torch.randn_like(logits))
    assert states.grad is None
    assert not memory.states.requires_grad


def test_before_the_start_of_a_stream_there_is_nothing() -> None:
    model = shaken(build())
    tokens = torch.randint(9, (3, 5))
    want, _ = model(tokens, model.empty_memory(3, 0))
    wild = Memory(torch.full((2, 3, 4, 8), 1e3, dtype=torch.float64), torch.tensor(0))
    torch.testing.assert_close(model(tokens, wild)[0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_later_word_changes_no_earlier_bit(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    tokens = torch.randint(8, (3, 6))
    _, memory = model(torch.randint(9, (3, 5)), model.empty_memory(3, 4))
    before, _ = model(tokens, memory)
    for position in range(6):
        changed = tokens.clone()
        changed[:, position] += 1
        after, _ = model(changed, memory)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


def test_training_goes_on_from_a_state_dict() -> None:
    model, other = build(), build()
    segments = torch.randint(9, (3, 3, 5))
    for segment in segments[:2]:
        model.advance(segment)
    other.load_state_dict(model.state_dict())
    assert other.memory_count == 4
    assert torch.equal(model.advance(segments[2]), other.advance(segments[2]))
    memory = build().empty_memory(3, 4)
    for segment in segments:
        _, memory = model(segment, memory)
    assert torch.equal(model.memory, memory.states)
    model.forget()
    assert not model.memory.any()
    torch.testing.assert_close(model.advance(segments[0]), model(segments[0], model.empty_memory(3, 0))[0])


def test_advance_leaves_a_graph_that_can_be_walked() -> None:
    model = build()
    for _ in range(3):
        logits = model.advance(torch.randint(9, (3, 5)))
        logits.backward(torch.randn_like(logits))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_every_dropout_drops_its_share() -> None:
    model = build(dropout=0.25, attention_dropout=0.4, batch=16)
    shares: dict[str, list[float]] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        there = inputs[0] != 0
        shares.setdefault(name, []).append((output[there] == 0).double().mean().item())

    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(partial(watch, name))
    for _ in range(4):
        model.advance(torch.randint(9, (16, 20)))
    # Embeddings, distances and features; attention, output and feed-forward twice in each of two layers.
    assert len(shares) == 1 + 2 * 4
    assert len(shares["dropout"]) == 4 * 3
    for name, measured in shares.items():
        rate = 0.4 if name.endswith("attention_dropout") else 0.25
        assert sum(measured) / len(measured) == pytest.approx(rate, abs=0.03)


def test_head_norms_act_before_the_biases() -> None:
    branch = RelativeAttention(8, 2, 0)
    branch.normalize(nn.LayerNorm, nn.LayerNorm, nn.LayerNorm)
    branch = branch.double()
    nn.init.normal_(branch.content_bias)
    nn.init.normal_(branch.distance_bias)
    x = torch.randn(1, 3, 8).double()
    segment = Segment(
        memory=x.new_zeros(1, 1, 0, 8),
        distances=functional.pad(sinusoids(torch.arange(3).flip(0), 8).double(), (0, 0, 1, 0)),
        hidden=torch.ones(3, 3).triu(1).bool(),
    )
    normed = RelativeAttention(8, 2, 0).double()
    normed.load_state_dict(branch.state_dict(), strict=False)

    def split_norm(packed: Tensor) -> Tensor:
        return functional.layer_norm(packed.unflatten(-1, (-1, 4)), (4,)).flatten(-2)

    normed.project.register_forward_hook(lambda module, inputs, output: split_norm(output))
    normed.project_keys.register_forward_hook(lambda module, inputs, output: split_norm(output))
    torch.testing.assert_close(branch(x, segment), normed(x, segment), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="the value is already normalized by LayerNorm"):
        branch.normalize(None, None, nn.RMSNorm)


def test_a_seed_gives_the_same_bits() -> None:
    models = [build(qk_norm=nn.RMSNorm) for _ in range(2)]
    for model in models:
        initialize(model, 3)
    tokens = torch.randint(9, (3, 5))
    assert torch.equal(models[0].advance(tokens), models[1].advance(tokens))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="got memory -1 and clamp None"):
        build(memory_length=-1)
    with pytest.raises(ValueError, match="got 3 heads and width 8"):
        RelativeAttention(8, 3, 0)
    model = build()
    with pytest.raises(ValueError, match=r"expected a memory \[2, 5, M, 8\], got \[2, 3, 4, 8\]"):
        model.advance(torch.randint(9, (5, 4)))
    with pytest.raises(ValueError, match=r"expected a memory \[2, 3, M, 8\], got \[3, 4, 8\]"):
        model(torch.randint(9, (3, 5)), Memory(torch.zeros(3, 4, 8), torch.tensor(0)))


def test_learns_and_trains_in_bfloat16(trains) -> None:
    model = build()
    tokens = torch.randint(9, (3, 7))

    def loss() -> Tensor:
        logits, _ = model(tokens[:, :-1], model.empty_memory(3, 4))
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    trains(model, loss)
    with torch.autocast("cpu", torch.bfloat16):
        model.advance(tokens)
    assert model.memory.dtype == torch.float32
    assert model.memory.isfinite().all()


def test_compiles_whole() -> None:
    model = build(dropout=0.1, attention_dropout=0.1)
    g, outputs = torch.randn(3, 5, 9), []
    tokens = torch.randint(9, (2, 3, 5))
    for advance in (model.advance, torch.compile(model.advance, backend="eager", fullgraph=True)):
        model.zero_grad()
        model.forget()
        torch.manual_seed(3)
        model.advance(tokens[0])
        logits = advance(tokens[1])
        logits.backward(g)
        outputs.append([logits.detach(), model.memory.clone(), *(p.grad.clone() for p in model.parameters())])
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other)
