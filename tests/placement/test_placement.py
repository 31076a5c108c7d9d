"""Norms of every placement, and of several placements in one network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from normscope.models import Attention, CrossAttention, FeedForward
from normscope.placement import PLACEMENTS, LayeredNorm, NormFactory, Placement, Site, Where, per_layer

WIDTH, HEADS, LAYERS = 8, 2, 3
NETWORK = ("attention", "feed_forward")


class Recorder:
    """Builds norms, and records the site and the width of each."""

    def __init__(self) -> None:
        self.made: list[tuple[Site, int]] = []

    def at(self, site: Site) -> NormFactory:
        def make(width: int) -> nn.Module:
            self.made.append((site, width))
            return nn.LayerNorm(width)

        return make

    def __call__(self, width: int) -> nn.Module:
        raise AssertionError("a stack asks for the norm of a site")

    def counts(self) -> dict[str, int]:
        kinds = [site.kind for site, _ in self.made]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def branches(layers: int = LAYERS, kinds: tuple[str, ...] = NETWORK) -> list[tuple[str, nn.Module]]:
    make: dict[str, Callable[[], nn.Module]] = {
        "attention": lambda: Attention(WIDTH, HEADS),
        "cross_attention": lambda: CrossAttention(WIDTH, HEADS),
        "feed_forward": lambda: FeedForward(WIDTH, 12),
    }
    return [(kind, make[kind]()) for _ in range(layers) for kind in kinds]


def built(placement: Placement, **options: Any) -> tuple[nn.Module, Recorder]:
    recorder = Recorder()
    return placement.stack(branches(**options), WIDTH, recorder), recorder


def layers_of(recorder: Recorder, kind: str) -> list[int]:
    return [site.layer for site, _ in recorder.made if site.kind == kind]


# Norms an attention branch, norms a feed-forward branch, a norm after the stem, a norm at the end.
HOLDS = {
    "post": (1, 1, False, False),
    "pre": (1, 1, False, True),
    "output": (1, 1, False, True),
    "peri": (2, 2, True, True),
    "deepnorm": (1, 1, False, False),
    "rezero": (0, 0, False, False),
    "layernorm_scaling": (1, 1, False, True),
    "recursive_skip": (2, 2, False, False),
    "hybrid": (3, 1, False, True),
    "mix": (1, 1, False, True),
    "residual_dual": (1, 1, False, True),
    "none": (0, 0, False, False),
    "fixup": (0, 0, False, False),
    "t_fixup": (0, 0, False, False),
    "skipinit": (0, 0, False, False),
    "scaled_branches": (0, 0, False, False),
}
SCALES_WEIGHTS = {"deepnorm", "fixup", "t_fixup", "scaled_branches"}


def test_every_placement_with_blocks_is_here() -> None:
    assert set(HOLDS) == set(PLACEMENTS) - {"preactivation"}


@pytest.mark.parametrize("name", HOLDS)
def test_a_stack_holds_the_norms_of_its_placement(name: str) -> None:
    attention, feed_forward, stem, final = HOLDS[name]
    stack, recorder = built(PLACEMENTS[name])
    want = {"attention": 3 * attention, "feed_forward": 3 * feed_forward, "stem": int(stem), "final": int(final)}
    assert recorder.counts() == {kind: count for kind, count in want.items() if count}
    assert sum(isinstance(module, nn.LayerNorm) for module in stack.modules()) == sum(want.values())
    assert isinstance(stack.stem_norm, nn.LayerNorm if stem else nn.Identity)
    assert isinstance(stack.final_norm, nn.LayerNorm if final else nn.Identity)
    assert layers_of(recorder, "attention") == [layer for layer in (1, 2, 3) for _ in range(attention)]
    assert layers_of(recorder, "feed_forward") == [layer for layer in (1, 2, 3) for _ in range(feed_forward)]
    assert layers_of(recorder, "stem") == [0] * stem
    assert layers_of(recorder, "final") == [3] * final
    # Queries, keys and values are normalized head by head, everything else is as wide as the stream.
    heads = name == "hybrid"
    assert all(width == (4 if heads and site.kind == "attention" else WIDTH) for site, width in recorder.made)


@pytest.mark.parametrize("name", HOLDS)
def test_a_stack_computes_and_every_parameter_takes_part(name: str) -> None:
    torch.manual_seed(1)
    stack, _ = built(PLACEMENTS[name])
    if name in {"rezero", "skipinit"}:
        for block in stack.get_submodule("blocks").children():
            nn.init.ones_(block.get_parameter("scale"))
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    y = stack(x)
    assert y.shape == x.shape
    gradients = torch.autograd.grad(y, [x, *stack.parameters()], torch.randn_like(y), allow_unused=True)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", HOLDS)
def test_a_site_says_in_which_stream_it_is(name: str) -> None:
    recorder = Recorder()
    decoder = branches(2, ("attention", "cross_attention", "feed_forward"))
    PLACEMENTS[name].stack(decoder, WIDTH, recorder, part="decoder", other_layers=6)
    sites = {site for site, _ in recorder.made}
    assert all((site.layers, site.part, site.other_layers) == (2, "decoder", 6) for site in sites)
    if HOLDS[name][0]:
        assert layers_of(recorder, "cross_attention") == layers_of(recorder, "attention")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.34, 0.5, 0.67, 1.0])
def test_a_mixture_ends_as_its_last_layer_does(share: float) -> None:
    stack, recorder = built(PLACEMENTS["mix"].with_arguments(share=share))
    assert isinstance(stack.final_norm, nn.LayerNorm) is (share < 1)
    assert isinstance(stack.stem_norm, nn.Identity)
    assert layers_of(recorder, "attention") == [1, 2, 3]


PRE, POST, PERI, PLAIN = (PLACEMENTS[name] for name in ("pre", "post", "peri", "none"))


def kinds_of(stack: nn.Module) -> list[str]:
    return [type(block).__name__ for block in stack.get_submodule("blocks").children()]


@pytest.mark.parametrize(
    ("placement", "blocks", "stem", "final"),
    [
        (per_layer(PRE, (Where(text="1-2"), POST)), ["PostNorm"] * 4 + ["PreNorm"] * 2, False, True),
        (per_layer(PRE, (Where(text="3"), POST)), ["PreNorm"] * 4 + ["PostNorm"] * 2, False, False),
        (per_layer(POST, (Where(text="3"), PRE)), ["PostNorm"] * 4 + ["PreNorm"] * 2, False, True),
        (per_layer(PRE, (Where(text="1"), PERI)), ["PeriNorm"] * 2 + ["PreNorm"] * 4, True, True),
        (per_layer(PERI, (Where(text="1"), PRE)), ["PreNorm"] * 2 + ["PeriNorm"] * 4, False, True),
        (per_layer(PERI, (Where(text="3"), POST)), ["PeriNorm"] * 4 + ["PostNorm"] * 2, True, False),
        # What stands at the ends is up to the feed-forward branches where kinds differ.
        (per_layer(PRE, (Where(text="attention"), POST)), ["PostNorm", "PreNorm"] * 3, False, True),
        (per_layer(PRE, (Where(text="feed_forward"), POST)), ["PreNorm", "PostNorm"] * 3, False, False),
        (
            per_layer(PLAIN, (Where(text="2"), POST), (Where(text="1-3"), PRE)),
            ["PreNorm"] * 2 + ["PostNorm"] * 2 + ["PreNorm"] * 2,
            False,
            True,
        ),
        (
            per_layer(PLAIN, (Where(text="2"), PRE)),
            ["PlainBlock"] * 2 + ["PreNorm"] * 2 + ["PlainBlock"] * 2,
            False,
            False,
        ),
        (
            per_layer(PLACEMENTS["mix"].with_arguments(share=0.67), (Where(text="1"), PERI)),
            ["PeriNorm"] * 2 + ["PostNorm"] * 2 + ["PreNorm"] * 2,
            True,
            True,
        ),
        (
            per_layer(PRE, (Where(text="1-3"), PLACEMENTS["mix"].with_arguments(share=1.0))),
            ["PostNorm"] * 6,
            False,
            False,
        ),
        (
            per_layer(PRE, (Where(text="3"), PLACEMENTS["hybrid"])),
            ["PreNorm"] * 4 + ["PlainBlock", "NormThenPlain"],
            False,
            True,
        ),
    ],
)
def test_several_placements_in_one_network(placement: Placement, blocks: list[str], stem: bool, final: bool) -> None:
    stack, recorder = built(placement)
    assert kinds_of(stack) == blocks
    assert (isinstance(stack.stem_norm, nn.LayerNorm), isinstance(stack.final_norm, nn.LayerNorm)) == (stem, final)
    assert (recorder.counts().get("stem", 0), recorder.counts().get("final", 0)) == (stem, final)
    assert stack(torch.randn(2, 5, WIDTH)).isfinite().all()


def test_several_placements_have_one_equation() -> None:
    assert per_layer(PRE, (Where(text="1-2"), POST)).equation == (
        "1-2: x <- N(x + f(x)); rest: x <- x + f(N(x)); N at the end"
    )


def test_arguments_reach_the_layers_that_have_them() -> None:
    deep = PLACEMENTS["deepnorm"].with_arguments(constants="released")
    stack = per_layer(PRE, (Where(text="2"), deep)).stack(branches(), WIDTH, nn.LayerNorm)
    # (2 * 3)^(1/4), of the whole stream and not of the layers that DeepNorm has.
    assert [getattr(block, "alpha", None) for block in stack.get_submodule("blocks").children()] == [
        None, None, pytest.approx(6**0.25), pytest.approx(6**0.25), None, None,
    ]  # fmt: skip


class Doubled(nn.Module):
    """A norm of another kind."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize(
    ("text", "doubled"),
    [
        ("final", {"final_norm"}),
        ("stem", {"stem_norm"}),
        ("2", {f"blocks.{block}.{norm}" for block in (2, 3) for norm in ("norm", "output_norm")}),
        ("attention", {f"blocks.{block}.{norm}" for block in (0, 2, 4) for norm in ("norm", "output_norm")}),
    ],
)
def test_norms_by_place_stand_at_their_place(text: str, doubled: set[str]) -> None:
    norm = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text=text), Doubled),))
    stack = PERI.stack(branches(), WIDTH, norm)
    assert {name for name, module in stack.named_modules() if isinstance(module, Doubled)} == doubled
    assert sum(isinstance(module, nn.LayerNorm) for module in stack.modules()) == 14 - len(doubled)


def test_the_norms_of_heads_are_those_of_their_layer() -> None:
    norm = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="2"), Doubled),))
    stack = PLACEMENTS["hybrid"].stack(branches(), WIDTH, norm)
    parts = [f"blocks.2.branch.{part}_norm" for part in ("query", "key", "value")]
    found = {name for name, module in stack.named_modules() if isinstance(module, Doubled)}
    assert found == {*parts, "blocks.3.norm"}


QK_NORM = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="qk"), Doubled),))


@pytest.mark.parametrize("name", ["pre", "rezero", "none", "residual_dual", "deepnorm"])
def test_a_norm_on_queries_and_keys_stands_there_alone(name: str) -> None:
    widths: list[int] = []

    class Head(Doubled):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            widths.append(width)

    norm = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="qk"), Head),))
    decoder = branches(2, ("attention", "cross_attention", "feed_forward"))
    stack = PLACEMENTS[name].stack(decoder, WIDTH, norm)
    places = [f"blocks.{block}.branch.{part}_norm" for block in (0, 1, 3, 4) for part in ("query", "key")]
    assert {name for name, module in stack.named_modules() if isinstance(module, Head)} == set(places)
    assert widths == [WIDTH // HEADS] * 8
    attention, feed_forward, stem, final = HOLDS[name]
    assert sum(isinstance(module, nn.LayerNorm) for module in stack.modules()) == (
        4 * attention + 2 * feed_forward + stem + final
    )


def test_queries_and_keys_have_no_norm_unless_one_is_named() -> None:
    for norm in (nn.LayerNorm, LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="1-3"), Doubled),))):
        stack = PRE.stack(branches(), WIDTH, norm)
        assert isinstance(stack.get_submodule("blocks.0.branch.query_norm"), nn.Identity)


def test_queries_and_keys_cannot_have_two_norms() -> None:
    with pytest.raises(ValueError, match="the query is already normalized by Doubled; choose one norm for it"):
        PLACEMENTS["hybrid"].stack(branches(), WIDTH, QK_NORM)


def test_hybrid_is_its_two_halves() -> None:
    torch.manual_seed(3)
    stack = PLACEMENTS["hybrid"].stack(branches(1), WIDTH, nn.LayerNorm).double()
    for module in stack.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 2.0, 0.5)
            nn.init.normal_(module.bias)
    first, second = stack.get_submodule("blocks").children()
    attention, inner, outer = (
        first.get_submodule("branch"),
        second.get_submodule("branch.inner"),
        second.get_submodule("branch.outer"),
    )

    def n(name: str, t: Tensor) -> Tensor:
        norm = stack.get_submodule(name)
        return layer_norm(t, t.shape[-1:], norm.get_parameter("weight"), norm.get_parameter("bias"))

    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    packed = x @ attention.get_parameter("project.weight").T + attention.get_parameter("project.bias")
    query, key, value = (
        n(f"blocks.0.branch.{part}_norm", slice.view(2, 5, HEADS, 4)).transpose(1, 2)
        for part, slice in zip(("query", "key", "value"), packed.split(WIDTH, -1), strict=True)
    )
    weights = (query @ key.transpose(-1, -2) / 4**0.5).softmax(-1)
    mixed = (weights @ value).transpose(1, 2).reshape(2, 5, WIDTH)
    x1 = x + mixed @ attention.get_parameter("output.weight").T + attention.get_parameter("output.bias")
    x2 = n("blocks.1.norm", x1)
    x3 = x2 + outer(inner(x2).relu())
    torch.testing.assert_close(stack(x), n("final_norm", x3), rtol=0, atol=1e-12)


def gains(module: nn.Module) -> dict[str, float]:
    return {name: getattr(each, "gain") for name, each in module.named_modules() if hasattr(each, "gain")}  # noqa: B009


@pytest.mark.parametrize(
    ("part", "other", "whose", "beta"),
    [
        ("only", 0, "paper", 24**-0.25),
        ("decoder", 6, "paper", 36**-0.25),
        ("encoder", 6, "paper", 0.87 / (3**4 * 6) ** (1 / 16)),
        ("encoder", 6, "released", 1.15 / (3**4 * 6) ** (1 / 16)),
    ],
)
def test_deepnorm_scales_the_first_weights_of_every_branch(part: str, other: int, whose: str, beta: float) -> None:
    kinds = ("attention", "cross_attention", "feed_forward")
    deepnorm = PLACEMENTS["deepnorm"].with_arguments(constants=whose)
    stack = deepnorm.stack(branches(kinds=kinds), WIDTH, nn.LayerNorm, part=part, other_layers=other)
    found = gains(stack)
    # Values, the output projections and both maps of the feed-forward network; not queries and keys of their own.
    inside = {"project", "output"}, {"project_memory", "output"}, {"inner", "outer"}
    assert set(found) == {f"blocks.{place}.branch.{name}" for place in range(9) for name in inside[place % 3]}
    assert list(found.values()) == pytest.approx([beta] * len(found), rel=1e-12)
    # First weights are drawn with it: twice the seed, and only the factor between them.
    feed_forward = stack.get_submodule("blocks.2.branch.inner")
    plain = FeedForward(WIDTH, 12).inner
    for module in (feed_forward, plain):
        torch.manual_seed(5)
        module.reset_parameters()  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(feed_forward.weight, beta * plain.weight)


@pytest.mark.parametrize("name", [name for name in HOLDS if name not in SCALES_WEIGHTS])
def test_no_other_placement_scales_first_weights(name: str) -> None:
    assert set(gains(built(PLACEMENTS[name])[0]).values()) == {1.0}


@pytest.mark.parametrize("kinds", [[], ["attention"], ["feed_forward", "attention"], ["mlp", "feed_forward"]])
@pytest.mark.parametrize("name", ["pre", "mix"])
def test_branches_that_make_no_layers_are_refused(name: str, kinds: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"expected branches of the kinds attention, .* the last once per layer, got \["
    ):
        PLACEMENTS[name].stack([(kind, nn.Linear(WIDTH, WIDTH)) for kind in kinds], WIDTH, nn.LayerNorm)


def test_what_is_for_plain_layers_has_no_stack() -> None:
    words = r"the placement 'h = relu\(N\(W x\)\)' is for networks without residual branches"
    for placement in (PLACEMENTS["preactivation"], per_layer(PRE, (Where(text="3"), PLACEMENTS["preactivation"]))):
        with pytest.raises(ValueError, match=words):
            built(placement)


def test_a_branch_without_scalable_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="scales initial weights, and Linear has no module with a gain"):
        PLACEMENTS["deepnorm"].stack([("feed_forward", nn.Linear(WIDTH, WIDTH))], WIDTH, nn.LayerNorm)


def test_two_streams_cannot_stand_beside_one() -> None:
    dual = PLACEMENTS["residual_dual"]
    for rest, other in ((PRE, dual), (dual, PRE)):
        with pytest.raises(ValueError, match=r"s <- s \+ f\(x\).* has two streams and cannot be mixed with another"):
            per_layer(rest, (Where(text="1"), other))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("pre", {"share": 1}, ValueError, "the placement has no argument 'share'; it takes no arguments"),
        ("mix", {"part": 0.5}, ValueError, r"the placement has no argument 'part'; it takes share=0\.25"),
        ("mix", {"share": "0.5"}, TypeError, "share must be a number, got '0.5'"),
        ("mix", {"share": True}, TypeError, "share must be a number, got True"),
        ("deepnorm", {"constants": 2}, TypeError, "constants must be a string, got 2"),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PLACEMENTS[name].with_arguments(**arguments)


@pytest.mark.parametrize(("name", "arguments"), [("deepnorm", {"constants": "mine"}), ("mix", {"share": 1.5})])
def test_arguments_out_of_range_are_refused(name: str, arguments: dict[str, Any]) -> None:
    (argument,) = arguments
    with pytest.raises(ValueError, match=f"{argument} must be .*, got '?{arguments[argument]}"):
        built(PLACEMENTS[name].with_arguments(**arguments))


@pytest.mark.parametrize("times", [0, -1, 1.5])
def test_a_norm_cannot_stand_half_a_time_or_never(times: float) -> None:
    with pytest.raises(ValueError, match=f"times must be .*, got {times}"):
        built(PLACEMENTS["recursive_skip"].with_arguments(times=times))


def test_other_arguments_leave_the_placement_as_it_was() -> None:
    mix = PLACEMENTS["mix"]
    assert mix.with_arguments(share=0.5).arguments == {"share": 0.5}
    assert mix.arguments == {"share": 0.25}
    thrice, _ = built(PLACEMENTS["recursive_skip"].with_arguments(times=3))
    assert sum(isinstance(module, nn.LayerNorm) for module in thrice.modules()) == 3 * 6


@pytest.mark.parametrize("name", list(PLACEMENTS))
def test_whether_a_placement_has_norms(name: str) -> None:
    if name == "preactivation":
        return
    made: list[int] = []

    def norm(width: int) -> nn.Module:
        made.append(width)
        return nn.LayerNorm(width)

    branches = [("attention", Attention(8, 2)), ("feed_forward", FeedForward(8, 16))]
    PLACEMENTS[name].stack(branches, 8, norm)
    assert PLACEMENTS[name].has_norms is bool(made)
