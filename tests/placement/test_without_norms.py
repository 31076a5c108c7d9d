"""Streams without norms: closed forms of their factors, and what the papers claim of them at depth."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models import Context, Seq2Seq, TextClassifier, TransformerXL
from normscope.norms import NoNorm
from normscope.placement import (
    PLACEMENTS,
    Fixup,
    Gains,
    Placement,
    ScaledBranch,
    Site,
    SkipInit,
    fixup_gains,
    scaled_branch_gains,
    t_fixup_embedding_gain,
    t_fixup_gain,
)
from normscope.specs import PlacementSpec
from normscope.training.randomness import initialize

TRAINABLE = ("rezero", "fixup", "t_fixup", "skipinit", "skipinit(start='depth')", "scaled_branches",
             "scaled_branches(factor='forward')")  # fmt: skip
WIDTH, WORDS = 32, 12


def placed(text: str) -> Placement:
    return PlacementSpec(text).build()


def encoder(placement: str, layers: int, *, width: int = WIDTH) -> TextClassifier:
    model = TextClassifier(
        vocabulary=30, width=width, heads=4, feed_forward=2 * width, layers=layers, classes=2, dropout=0.0,
        max_length=WORDS, stack=partial(placed(placement).stack, norm=NoNorm),
    )  # fmt: skip
    initialize(model, 3)
    return model


def site(**options: Any) -> Site:
    return Site(**{"kind": "attention", "layer": 1, "layers": 6, **options})


# Section 3 of the paper: L^(-1/(2m-2)), by hand.
@pytest.mark.parametrize(("branches", "m", "factor"), [(16, 2, 1 / 4), (16, 3, 1 / 2), (64, 4, 1 / 2), (1, 2, 1.0)])
def test_fixups_factors(branches: int, m: int, factor: float) -> None:
    assert fixup_gains(site(branches=branches), m=m) == pytest.approx((factor, 0.0), rel=1e-12)


# Section 3.3 of the paper, by hand; 0.67 * 16^(-1/4) and (9 * 9)^(-1/4).
@pytest.mark.parametrize(
    ("part", "layers", "other", "inside", "embeddings"),
    [
        ("encoder", 16, 16, 0.335, 1 / sqrt(12)),
        ("decoder", 9, 9, 1 / 3, 1 / 3),
        ("only", 16, 0, 0.335, 1 / sqrt(12)),
        ("decoder", 16, 0, 0.335, 1 / sqrt(12)),
        ("encoder", 1, 9, 0.67, 1 / 3),
        ("decoder", 1, 9, 1 / 3, 1 / 3),
    ],
)
def test_t_fixups_factors(part: str, layers: int, other: int, inside: float, embeddings: float) -> None:
    here = site(part=part, layers=layers, other_layers=other)
    assert t_fixup_gain(here) == pytest.approx(inside, rel=1e-12)
    assert t_fixup_embedding_gain(here) == pytest.approx(embeddings, rel=1e-12)


def test_the_factor_of_scaled_branches() -> None:
    assert scaled_branch_gains(site(branches=16), factor="weights") == Gains(inner=1.0, last=0.25)
    assert scaled_branch_gains(site(branches=16), factor="forward") is None
    x = torch.randn(3, 8)
    for factor, c in (("weights", 1.0), ("forward", 0.25)):
        block = ScaledBranch(nn.Tanh(), 8, NoNorm, site(branches=16), factor=factor)
        torch.testing.assert_close(block(x), x + c * x.tanh(), rtol=0, atol=1e-6)


def test_skipinits_scalar_begins_at_zero_or_small() -> None:
    for start, alpha in (("zero", 0.0), ("depth", 0.25)):
        block = SkipInit(nn.Tanh(), 8, NoNorm, site(branches=16), start=start)
        assert block.scale.item() == alpha
        nn.init.ones_(block.scale)
        block.reset_parameters()
        assert block.scale.item() == alpha


def test_fixups_scalars_stand_before_and_behind_the_branch() -> None:
    block, x = Fixup(nn.Tanh(), 8, NoNorm, site(branches=16), m=2), torch.randn(3, 8)
    assert (block.scale.item(), block.bias.item()) == (1.0, 0.0)
    nn.init.constant_(block.scale, 3.0)
    nn.init.constant_(block.bias, 0.5)
    torch.testing.assert_close(block(x), x + 3 * (x + 0.5).tanh())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixup(m=1)", "m must be at least 2, .*, got 1"),
        ("skipinit(start='one')", "start must be one of zero, depth, got 'one'"),
        ("scaled_branches(factor='both')", "factor must be one of weights, forward, got 'both'"),
    ],
)
def test_arguments_out_of_range_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(text, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda here: fixup_gains(here, m=2),
        lambda here: scaled_branch_gains(here, factor="weights"),
        lambda here: SkipInit(nn.Identity(), 8, NoNorm, here, start="depth"),
        lambda here: ScaledBranch(nn.Identity(), 8, NoNorm, here, factor="forward"),
    ],
)
def test_a_site_without_the_number_of_branches_is_refused(make: Callable[[Site], object]) -> None:
    with pytest.raises(ValueError, match="needs a site with the number of branches of its stream, got None"):
        make(site())


def factors_of(name: str, layers: int) -> dict[str, float]:
    """Return the factors of a placement on the initial weights of an encoder, relative to the plain one's."""
    inner, last, table = {
        "fixup": ((2 * layers) ** -0.5, 0.0, 1.0),
        "t_fixup": (0.67 * layers**-0.25, 0.67 * layers**-0.25, (9 * layers) ** -0.25),
        "scaled_branches": (1.0, (2 * layers) ** -0.5, 1.0),
    }[name]
    return {"project": inner, "output": last, "inner": inner, "outer": last, "embedding": table}


@pytest.mark.parametrize("name", ["fixup", "t_fixup", "scaled_branches"])
def test_initial_weights_are_the_plain_ones_times_the_factors(name: str) -> None:
    plain = dict(encoder("none", 4).named_parameters())
    factors = factors_of(name, 4)
    for key, weight in encoder(name, 4).named_parameters():
        if key not in plain:
            continue
        *_, owner, kind = key.split(".")
        factor = torch.tensor(factors.get(owner, 1.0) if kind == "weight" else 1.0)
        if owner == "project" and kind == "weight":
            # Queries and keys keep their size.
            factor = torch.tensor([1, 1, factors[owner]]).repeat_interleave(WIDTH)[:, None]
        torch.testing.assert_close(weight, plain[key] * factor)


def test_t_fixup_scales_every_embedding_of_a_translator_and_of_a_language_model() -> None:
    def translator(name: str, share: bool) -> Seq2Seq:
        placement = PLACEMENTS[name]
        model = Seq2Seq(
            vocabulary=9, width=8, heads=2, feed_forward=12, encoder_layers=2, decoder_layers=3, dropout=0.0,
            share_embeddings=share,
            encoder_stack=partial(placement.stack, norm=NoNorm, part="encoder", other_layers=3),
            decoder_stack=partial(placement.stack, norm=NoNorm, part="decoder", other_layers=2),
        )  # fmt: skip
        initialize(model, 3)
        return model

    def language_model(name: str) -> TransformerXL:
        model = TransformerXL(
            vocabulary=9, width=8, heads=2, feed_forward=12, layers=3, batch=1, memory_length=2, dropout=0.0,
            stack=partial(PLACEMENTS[name].stack, norm=NoNorm),
        )  # fmt: skip
        initialize(model, 3)
        return model

    for share in (True, False):
        fixed, plain = translator("t_fixup", share), translator("none", share)
        torch.testing.assert_close(fixed.source.weight, plain.source.weight * 27**-0.25)
        torch.testing.assert_close(fixed.target.weight, plain.target.weight * 27**-0.25)
        torch.testing.assert_close(fixed.softmax.weight, plain.softmax.weight * (27**-0.25 if share else 1.0))
        cross, same = (model.get_parameter("decoder.blocks.1.branch.project_memory.weight") for model in (fixed, plain))
        torch.testing.assert_close(cross[8:], same[8:] * 27**-0.25)
        torch.testing.assert_close(cross[:8], same[:8])
    torch.testing.assert_close(
        language_model("t_fixup").embedding.weight, language_model("none").embedding.weight * 27**-0.25
    )


def test_skipinit_at_zero_is_our_rezero() -> None:
    models = [encoder(name, 2) for name in ("skipinit", "rezero")]
    tokens, upstream = torch.randint(1, 30, (3, WORDS)), torch.randn(3, 2)
    for model in models:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(tokens).backward(upstream)
            optimizer.step()
    one, other = (model.state_dict() for model in models)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def pass_through(placement: str, layers: int) -> tuple[float, float]:
    """Return the lengths of a stream's output and of the gradient at its input, relative to what entered."""
    model = encoder(placement, layers)
    torch.manual_seed(5)
    x = model.embedding(torch.randint(1, 30, (8, WORDS)), model.positions).detach().requires_grad_()
    y = model.encoder(x, Context())
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    return (y.norm() / x.norm()).item(), (gradient.norm() / upstream.norm()).item()


@pytest.mark.parametrize("placement", TRAINABLE)
def test_the_stream_and_its_gradient_stay_bounded_at_any_depth(placement: str) -> None:
    bound = 1 + 1e-5 if placement in ("rezero", "fixup", "skipinit") else 1.6
    for layers in (6, 12, 24, 48):
        assert all(1 / bound <= size <= bound for size in pass_through(placement, layers)), layers


def test_a_plain_stream_explodes_with_depth() -> None:
    sizes = [pass_through("none", layers) for layers in (4, 8, 12)]
    # Four further layers multiply it by more than 2^2, in both directions.
    for fewer, more in pairwise(sizes):
        assert more[0] > 2**2 * fewer[0]
        assert more[1] > 2**2 * fewer[1]


def change_of_function(placement: str, layers: int) -> float:
    """Return the change of a stream's output by one small step of gradient descent on its matrices.

    The input has the size that the placement gives to embeddings.
    """
    stream = encoder(placement, layers).encoder.double()
    torch.manual_seed(5)
    x, upstream = torch.randn(2, 8, WORDS, WIDTH, dtype=torch.float64)
    x = x * stream.embedding_gain
    before = stream(x, Context())
    matrices = [weight for weight in stream.parameters() if weight.ndim == 2]
    gradients = torch.autograd.grad(before, matrices, upstream)
    with torch.no_grad():
        for weight, gradient in zip(matrices, gradients, strict=True):
            weight -= 1e-6 * gradient
        return ((stream(x, Context()) - before).norm() / 1e-6).item()


@pytest.mark.parametrize("placement", ["fixup", "t_fixup"])
def test_an_update_changes_the_function_by_as_much_at_any_depth(placement: str) -> None:
    # What both papers derive their factors from: the change is of the order of the learning rate.
    changes = [change_of_function(placement, layers) for layers in (6, 12, 24, 48)]
    assert max(changes) < 2 * min(changes)


def test_an_update_of_a_plain_stream_changes_it_more_with_depth() -> None:
    changes = [change_of_function("none", layers) for layers in (2, 4, 6)]
    assert changes[1] > 10 * changes[0]
    assert changes[2] > 10 * changes[1]


def accuracy(placement: str, *, layers: int, steps: int, learning_rate: float) -> float:
    """Train on the question if most words of a text are below 15."""
    model = encoder(placement, layers, width=16)
    optimizer = torch.optim.Adam(model.parameters())
    torch.manual_seed(7)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(1, 30, (size, WORDS))
        return tokens, ((tokens < 15).sum(1) > WORDS // 2).long()

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        tokens, labels = batch(32)
        optimizer.zero_grad()
        functional.cross_entropy(model(tokens), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    tokens, labels = batch(256)
    with torch.no_grad():
        return (model(tokens).argmax(-1) == labels).double().mean().item()


@pytest.mark.parametrize("placement", [*TRAINABLE, "none"])
def test_they_train_at_depth_where_a_plain_stream_does_not(placement: str) -> None:
    # Always the same answer is right in half of the texts.
    reached = accuracy(placement, layers=24, steps=60, learning_rate=5e-3)
    assert reached < 0.75 if placement == "none" else reached > 0.85
