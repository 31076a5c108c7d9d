"""Self-attention and cross-attention."""

import pytest
import torch
from torch import nn

from normscope.models import Attention, Context, CrossAttention
from normscope.models.attention import padding_mask, window_mask

KEEP = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()


@pytest.mark.parametrize("masked", ["nothing", "pads", "later"])
def test_self_attention_equals_torch(copy_attention, assert_same_gradients, masked: str) -> None:
    ours, peer = Attention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    pairs = copy_attention(ours, peer)
    x, g = torch.randn(3, 5, 12).double().requires_grad_(), torch.randn(3, 5, 12).double()
    context = {
        "nothing": None,
        "pads": Context(mask=padding_mask(KEEP)),
        "later": Context(causal=True),
    }[masked]
    want, _ = peer(
        x,
        x,
        x,
        key_padding_mask=~KEEP if masked == "pads" else None,
        attn_mask=torch.ones(5, 5).triu(1).bool() if masked == "later" else None,
    )
    (dx,) = torch.autograd.grad(want, x, g, retain_graph=True)
    want.backward(g)
    x.grad = None
    got = ours(x, context)
    got.backward(g)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, dx, rtol=1e-10, atol=1e-10)
    assert_same_gradients(pairs)


def test_cross_attention_equals_torch(copy_attention, assert_same_gradients) -> None:
    ours, peer = CrossAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    pairs = copy_attention(ours, peer)
    x, memory, g = torch.randn(3, 4, 12).double(), torch.randn(3, 5, 12).double(), torch.randn(3, 4, 12).double()
    want, _ = peer(x, memory, memory, key_padding_mask=~KEEP)
    want.backward(g)
    context = Context(memory=memory, memory_mask=padding_mask(KEEP))
    got = ours(x, context)
    got.backward(g)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert_same_gradients(pairs)
    cached = Context(memory_cache={ours: ours.remember(memory)}, memory_mask=padding_mask(KEEP))
    assert torch.equal(ours(x, cached), got)


def test_attention_dropout_is_torchs(copy_attention) -> None:
    ours = Attention(12, 3, attention_dropout=0.3).double()
    peer = nn.MultiheadAttention(12, 3, dropout=0.3, batch_first=True).double()
    copy_attention(ours, peer)
    x = torch.randn(3, 5, 12).double()
    torch.manual_seed(4)
    want, _ = peer(x, x, x, need_weights=False)
    torch.manual_seed(4)
    got = ours(x)
    torch.testing.assert_close(got, want)
    assert not torch.equal(got, ours.eval()(x))


def test_output_dropout_drops_its_share() -> None:
    attention = Attention(64, 2, dropout=0.3)
    x = torch.randn(8, 10, 64)
    # 5120 draws: one standard error is 0.6 %.
    assert (attention(x) == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    cross = CrossAttention(64, 2, dropout=0.3)
    assert (cross(x, Context(memory=x)) == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_rows_of_pads_alone_are_finite_with_finite_gradients() -> None:
    keep = KEEP.clone()
    keep[1] = False
    for branch in (Attention(8, 2), CrossAttention(8, 2), Attention(8, 2, attention_dropout=0.5)):
        x = torch.randn(3, 5, 8, requires_grad=True)
        mask = padding_mask(keep)
        y = branch(x, Context(mask=mask, memory=x, memory_mask=mask))
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
        assert y.isfinite().all()
        assert dx.isfinite().all()


def test_window_mask_is_a_band() -> None:
    want = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(window_mask(4, 2, torch.device("cpu")), torch.tensor(want).bool())
    assert torch.equal(window_mask(3, 1, torch.device("cpu")), torch.eye(3).bool())


@pytest.mark.parametrize("kind", [Attention, CrossAttention])
def test_head_norms_act_on_every_head_before_the_scores(kind: type[Attention | CrossAttention]) -> None:
    branch = kind(12, 3).double()
    branch.normalize(nn.LayerNorm, nn.RMSNorm, None)
    branch.double()
    for norm in (branch.query_norm, branch.key_norm):
        nn.init.normal_(norm.weight, 2)
    x = torch.randn(2, 5, 12).double()
    if kind is Attention:
        query, key, value = branch.project(x).chunk(3, -1)
    else:
        query, (key, value) = branch.project(x), branch.project_memory(x).chunk(2, -1)
    heads = []
    for number in range(3):
        part = slice(4 * number, 4 * number + 4)
        q = nn.functional.layer_norm(query[..., part], (4,), branch.query_norm.weight, branch.query_norm.bias)
        k = nn.functional.rms_norm(key[..., part], (4,), branch.key_norm.weight)
        heads.append((q @ k.mT / 2).softmax(-1) @ value[..., part])
    want = branch.output(torch.cat(heads, -1))
    torch.testing.assert_close(branch(x, Context(memory=x)), want, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="the key is already normalized by RMSNorm"):
        branch.normalize(None, nn.LayerNorm, None)
    branch.normalize(None, None, nn.LayerNorm)
    assert isinstance(branch.value_norm, nn.LayerNorm)


def test_beams_share_the_memory_of_their_sentence() -> None:
    cross = CrossAttention(8, 2).double()
    memory, x = torch.randn(2, 5, 8).double(), torch.randn(6, 1, 8).double()
    mask = padding_mask(KEEP[:2])
    got = cross(x, Context(memory_cache={cross: cross.remember(memory)}, memory_mask=mask))
    want = cross(x, Context(memory=memory.repeat_interleave(3, 0), memory_mask=mask.repeat_interleave(3, 0)))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 heads and width 8"):
        Attention(8, 3)
    with pytest.raises(ValueError, match=r"between 0 and 1, but got -0\.1"):
        Attention(8, 2, attention_dropout=-0.1)
    with pytest.raises(ValueError, match="got neither memory nor memory_cache"):
        CrossAttention(8, 2)(torch.randn(1, 2, 8), Context())
