"""The encoder-decoder and its step-by-step decoding."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from normscope.models import DecoderState, Seq2Seq
from normscope.models.layers import Embedding
from normscope.placement import PLACEMENTS
from normscope.training.randomness import initialize

SOURCE = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 3, 5, 8, 0]])
TARGET = torch.tensor([[7, 2, 1, 8, 4, 6], [7, 3, 3, 5, 0, 0], [7, 1, 0, 0, 0, 0]])


def build(placement: str = "pre", *, layers: int = 2, **arguments: Any) -> Seq2Seq:
    stack = partial(PLACEMENTS[placement].stack, norm=nn.LayerNorm)
    return Seq2Seq(
        vocabulary=9,
        width=8,
        heads=2,
        feed_forward=12,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_stack=stack,
        decoder_stack=stack,
        **{"dropout": 0.0, **arguments},
    )


def embed(table: Embedding, tokens: torch.Tensor, model: Seq2Seq, dropout: float) -> torch.Tensor:
    words = functional.embedding(tokens, table.weight, 0) * 8**0.5
    return functional.dropout(words + model.positions[: tokens.shape[1]], dropout)


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("share", [True, False])
def test_equals_torchs_encoder_and_decoder(
    copy_stack, assert_same_gradients, placement: str, dropout: float, share: bool
) -> None:
    rates = {"dropout": dropout, "attention_dropout": dropout, "activation_dropout": dropout}
    model = build(placement, share_embeddings=share, **rates).double()
    first = placement == "pre"
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True, norm_first=first),
        2,
        nn.LayerNorm(8) if first else None,
        enable_nested_tensor=False,
    ).double()
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(8, 2, 12, dropout, batch_first=True, norm_first=first),
        2,
        nn.LayerNorm(8) if first else None,
    ).double()
    pairs = copy_stack(model.encoder, encoder) + copy_stack(model.decoder, decoder)
    # torch keeps time before batch in memory, and draws its masks in that order: the same for a single row alone.
    source, target = (SOURCE[2:], TARGET[2:]) if dropout else (SOURCE, TARGET)
    g = torch.randn(len(source), 6, 9).double()
    torch.manual_seed(2)
    memory = encoder(embed(model.source, source, model, dropout), src_key_padding_mask=source == 0)
    features = decoder(
        embed(model.target, target, model, dropout),
        memory,
        tgt_mask=torch.ones(6, 6).triu(1).bool(),
        memory_key_padding_mask=source == 0,
    )
    want = features @ model.softmax.weight.T
    want.backward(g)
    tables = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(tables) == (1 if share else 3)
    model.zero_grad()
    torch.manual_seed(2)
    got = model(source, target)
    got.backward(g)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert_same_gradients(pairs)
    for name, gradient in tables.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-10, atol=1e-10)


def test_logits_of_chosen_features_are_the_chosen_logits() -> None:
    model = build().double()
    keep = TARGET > 0
    torch.testing.assert_close(model.logits(model.features(SOURCE, TARGET)[keep]), model(SOURCE, TARGET)[keep])


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_later_word_changes_no_earlier_bit(window: int | None, dtype: torch.dtype) -> None:
    model = build(window=window).to(dtype)
    before = model(SOURCE, TARGET)
    for position in range(6):
        changed = TARGET.clone()
        changed[:, position] = TARGET[:, position] % 8 + 1
        after = model(SOURCE, changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


def test_no_gradient_flows_from_a_logit_to_later_words_or_pads() -> None:
    model = build(share_embeddings=False).double()
    words = torch.arange(1, 7)[None]
    model(torch.tensor([[1, 2, 0]]), words)[0, 2].backward(torch.randn(9).double())
    rows = model.target.weight.grad.abs().amax(1)
    assert (rows[1:4] > 0).all()
    assert not rows[4:].any()
    assert not model.source.weight.grad[0].any()


def test_what_is_not_a_number_stays_in_its_row() -> None:
    model = build(share_embeddings=False)
    with torch.no_grad():
        model.target.weight[8] = torch.nan
    target = TARGET.clone()
    target[0, 3] = 8
    logits = model(SOURCE, target)
    assert logits[0, 3:].isnan().all()
    assert logits[1:].isfinite().all()


@pytest.mark.parametrize(("layers", "window"), [(1, 1), (1, 2), (1, 3), (2, 3)])
def test_a_word_reaches_as_far_as_the_window_says(layers: int, window: int) -> None:
    model = build(layers=layers, window=window, share_embeddings=False).double()
    words = torch.arange(1, 9)[None]
    for position in range(8):
        model.zero_grad()
        model(SOURCE[:1], words)[0, position].backward(torch.randn(9).double())
        seen = (model.target.weight.grad.abs().amax(1) > 0)[1:].tolist()
        farthest = max(0, position - layers * (window - 1))
        assert seen == [farthest <= other <= position for other in range(8)]


def test_a_wide_window_is_none() -> None:
    wide, none = build(window=6).double(), build().double()
    wide.load_state_dict(none.state_dict())
    torch.testing.assert_close(wide(SOURCE, TARGET), none(SOURCE, TARGET), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("placement", [name for name, entry in PLACEMENTS.items() if name != "preactivation"])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_decoding_step_by_step_equals_decoding_at_once(placement: str, window: int | None) -> None:
    norms = {} if placement == "hybrid" else {"qk_norm": nn.RMSNorm}
    model = build(placement, window=window, **norms).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        want = model(SOURCE, TARGET)
        state = model.start(SOURCE)
        for position in range(6):
            logits, state = model.step(state, TARGET[:, position])
            # Sums of under a hundred float64 terms in another order, through four layers.
            torch.testing.assert_close(logits, want[:, position], rtol=1e-12, atol=1e-12)
    assert state.position == 6
    assert {keys.shape[2] for keys, _ in state.cache.values()} == {min(6, window or 6)}


@torch.no_grad()
def test_beams_and_any_reordering_equal_decoding_at_once() -> None:
    model = build().double().eval()
    state = model.start(SOURCE).repeat(2)
    sentences, written = torch.tensor([0, 0, 1, 1, 2, 2]), torch.empty(6, 0, dtype=torch.int64)
    moves = [
        None,
        [1, 0, 2, 2, 5, 4],
        [0, 1, 4, 5],
        [3, 0, 1, 1, 2],
        [4, 4, 0],
    ]
    for move in moves:
        if move is not None:
            rows = torch.tensor(move)
            state, sentences, written = state.reorder(rows), sentences[rows], written[rows]
        assert state.rows == len(sentences)
        tokens = torch.randint(1, 9, (len(sentences),))
        written = torch.cat([written, tokens[:, None]], 1)
        logits, state = model.step(state, tokens)
        torch.testing.assert_close(logits, model(SOURCE[sentences], written)[:, -1], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_beam_search_copies_no_sentence_and_an_old_state_stays_as_it_was() -> None:
    model = build().double().eval()
    start = model.start(SOURCE)
    assert isinstance(start, DecoderState)
    _, state = model.step(start.repeat(2), torch.full((6,), 7))
    moved = state.reorder(torch.tensor([1, 1, 2, 3, 5, 5]))
    for branch, (keys, values) in moved.memory_cache.items():
        assert keys is start.memory_cache[branch][0]
        assert values is start.memory_cache[branch][1]
    assert not start.cache
    first, _ = model.step(state, torch.arange(1, 7))
    again, _ = model.step(state, torch.arange(1, 7))
    assert torch.equal(first, again)


def test_sources_of_pads_alone_are_finite() -> None:
    model = build()
    source = SOURCE.clone()
    source[1] = 0
    logits = model(source, TARGET)
    logits.backward(torch.randn_like(logits))
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_pads_of_the_source_change_nothing() -> None:
    model = build().double()
    torch.testing.assert_close(model(SOURCE[1:2, :2], TARGET[1:2]), model(SOURCE[1:2], TARGET[1:2]))


def test_a_seed_gives_the_same_bits_and_qk_norm_leaves_the_other_weights() -> None:
    models = [build(), build(), build(qk_norm=nn.LayerNorm)]
    for model in models:
        initialize(model, 3)
    assert torch.equal(models[0](SOURCE, TARGET), models[1](SOURCE, TARGET))
    assert not torch.allclose(models[0](SOURCE, TARGET), models[2](SOURCE, TARGET))
    names = dict(models[2].named_parameters())
    assert all(torch.equal(weight, names[name]) for name, weight in models[0].named_parameters())
    assert sum("_norm." in name for name in names) - sum(
        "_norm." in name for name, _ in models[0].named_parameters()
    ) == (
        # Two attentions in a decoder layer and one in an encoder layer, two norms each, gain and bias.
        2 * 3 * 2 * 2
    )


def test_shared_embeddings_are_one_table() -> None:
    def tables(model: Seq2Seq) -> list[str]:
        return [name for name, _ in model.named_parameters() if name.split(".")[0] in ("source", "target", "softmax")]

    assert tables(build()) == ["source.weight"]
    assert tables(build(share_embeddings=False)) == ["source.weight", "target.weight", "softmax.weight"]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1, the position itself, got 0"):
        build(window=0)
    with pytest.raises(ValueError, match="may have 5 words, got 6"):
        build(max_length=5)(SOURCE, TARGET)
    with pytest.raises(ValueError, match="query is already normalized by RMSNorm"):
        build("hybrid", qk_norm=nn.RMSNorm)
    model = build(max_length=5).eval()
    state = model.start(SOURCE)
    with pytest.raises(ValueError, match=r"has 3 rows, so expected \[3\], got \[3, 1\]"):
        model.step(state, TARGET[:, :1])
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        state.repeat(0)
    for _ in range(5):
        _, state = model.step(state, TARGET[:, 0])
    with pytest.raises(ValueError, match="may have 5 words, got 6"):
        model.step(state, TARGET[:, 0])


def test_learns_and_trains_in_bfloat16(trains) -> None:
    model = build()
    after = TARGET.roll(-1, 1)
    after[:, -1] = 0
    trains(
        model, lambda: functional.cross_entropy(model(SOURCE, TARGET).flatten(0, 1), after.flatten(), ignore_index=0)
    )


@pytest.mark.parametrize("window", [None, 3])
def test_compiles_whole(window: int | None) -> None:
    model = build(window=window, dropout=0.1, attention_dropout=0.1, qk_norm=nn.RMSNorm)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    g, outputs = torch.randn(3, 6, 9), []
    for module in (model, compiled):
        model.zero_grad()
        torch.manual_seed(3)
        logits = module(SOURCE, TARGET)
        logits.backward(g)
        outputs.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other)
