"""What a person types for a norm or a placement, and what it stands for."""

from typing import Any

import pytest
from torch import nn

from normscope.norms import NORMS, AdaNorm, LayerNorm, RMSNorm
from normscope.placement import PLACEMENTS, LayeredNorm, Site, norm_at
from normscope.specs import NormSpec, PlacementSpec, parse_call


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("ada_norm", ("ada_norm", {})),
        (" ada_norm(scale=2.0, k=0.2) ", ("ada_norm", {"scale": 2.0, "k": 0.2})),
        ("ada_norm(convention='released')", ("ada_norm", {"convention": "released"})),
        ("detach_norm(std=False)", ("detach_norm", {"std": False})),
        # Several are one name, as they are written.
        ("layer_norm + ada_norm(scale=2.0, k=0.2):final", ("layer_norm+ada_norm(scale=2.0,k=0.2):final", {})),
    ],
)
def test_norms_are_read_as_the_command_line_writes_them(text: str, want: tuple[str, dict[str, Any]]) -> None:
    parsed = NormSpec.parse(text)
    assert (parsed.name, parsed.arguments) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ada norm", "expected a norm such as"),
        ("ada_norm(2.0)", "written as name=value"),
        ("ada_norm(scale=", "expected a norm such as"),
        ("ada_norm(scale=open('x'))", "expected a norm such as"),
        ("ada_norm(scale=1.0)(k=0.2)", "written as name=value"),
        ("ada_norm(scale=1.0).x(k=0.2)", "written as name=value"),
        ("ada_norm(**{})", "written as name=value"),
        ("ada_norm(scale=1, scale=2)", "expected a norm such as|each argument may be given once"),
    ],
)
def test_other_forms_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NormSpec.parse(text)


def test_a_call_says_what_it_wanted() -> None:
    assert parse_call("mix(share=0.5)", "placement", "mix(share=0.25)") == ("mix", {"share": 0.5})
    words = r"expected a placement such as 'mix' or 'mix\(share=0.25\)', its arguments written as name=value, got 'a b'"
    with pytest.raises(ValueError, match=words):
        parse_call("a b", "placement", "mix(share=0.25)")


def site(kind: str, layer: int) -> Site:
    return Site(kind=kind, layer=layer, layers=6)


def test_norms_stand_where_they_are_written() -> None:
    norm = NormSpec.parse("layer_norm+ada_norm(scale=2.5):final+rms_norm:2-3+ada_norm:attention+rms_norm:qk").factory
    assert isinstance(norm, LayeredNorm)
    final = norm.at(site("final", 6))(8)
    assert isinstance(final, AdaNorm)
    assert final.scale == 2.5
    assert isinstance(norm.at(site("attention", 2))(8), RMSNorm)
    assert isinstance(norm.at(site("feed_forward", 3))(8), RMSNorm)
    assert isinstance(norm.at(site("attention", 4))(8), AdaNorm)
    assert isinstance(norm.at(site("stem", 0))(8), LayerNorm)
    assert isinstance(norm.at(site("qk", 4))(8), RMSNorm)
    assert isinstance(norm(8), LayerNorm)


def test_one_norm_has_its_arguments_and_stands_everywhere() -> None:
    norm = NormSpec("ada_norm", {"scale": 2.5}).factory
    made = norm_at(norm, site("final", 6))(8)
    assert isinstance(made, AdaNorm)
    assert made.scale == 2.5
    # What acts on the weights leaves the places of norms empty.
    assert isinstance(NormSpec.parse("weight_norm").factory(8), nn.Identity | type(NormSpec.parse("none").factory(8)))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("adanorm", LookupError, "there is no norm 'adanorm': did you mean 'ada_norm'"),
        ("layer_norm+ada_norm", ValueError, "'ada_norm' does not say where it stands: expected a norm such as"),
        ("layer_norm+ada_norm:last", ValueError, "expected layers such as '2' or '1-3', or one of .* got 'last'"),
        ("layer_norm+ada_norm:0", ValueError, "expected layers such as '2' or '1-3', or one of .* got '0'"),
        ("layer_norm:1+ada_norm:2", ValueError, "expected a norm such as 'ada_norm' .* got 'layer_norm:1'"),
        ("layer_norm+", ValueError, "'' does not say where it stands"),
        ("+ada_norm:1", ValueError, "expected a norm such as 'ada_norm' .* got ''"),
        ("layer_norm+weight_norm:1", ValueError, "weight_norm acts on all weights of a network and cannot stand at a"),
        ("weight_norm+layer_norm:1", ValueError, "weight_norm acts on all weights of a network and cannot stand at a"),
        ("layer_norm+adanorm:final", LookupError, "there is no norm 'adanorm': did you mean 'ada_norm'"),
        ("adanorm+layer_norm:final", LookupError, "there is no norm 'adanorm': did you mean 'ada_norm'"),
    ],
)
def test_norms_that_do_not_exist_are_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        NormSpec.parse(text)


def test_a_number_with_a_plus_is_no_second_norm() -> None:
    assert NormSpec.parse("ada_norm(scale=2e+0)") == NormSpec("ada_norm", {"scale": 2.0})
    made = NormSpec.parse("layer_norm+ada_norm(scale=25e-1):final+ada_norm(scale=2e+0):1").factory
    assert isinstance(made, LayeredNorm)


def test_placements_stand_where_they_are_written() -> None:
    assert PlacementSpec("pre").build() == PLACEMENTS["pre"]
    assert PlacementSpec("mix(share=0.5)").build().arguments == {"share": 0.5}
    made = PlacementSpec("pre+post:1-2+mix(share=1.0):feed_forward").build()
    norms = nn.LayerNorm
    branches = [(kind, nn.Linear(8, 8)) for _ in range(3) for kind in ("attention", "feed_forward")]
    blocks = [type(block).__name__ for block in made.stack(branches, 8, norms).get_submodule("blocks").children()]
    assert blocks == ["PostNorm"] * 4 + ["PreNorm", "PostNorm"]
    assert list(PlacementSpec("pre+post:1-2+mix(share=1.0):feed_forward").names) == ["pre", "post", "mix"]
    assert list(PlacementSpec(" mix( share = 0.5 ) ").names) == ["mix"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("prelayer", LookupError, "there is no placement 'prelayer'"),
        ("pre+post", ValueError, r"'post' does not say where it stands: expected a placement such as 'pre\+post:1-2'"),
        ("pre+post:x", ValueError, "expected layers such as '2' or '1-3'"),
        ("pre+post:2-1", ValueError, "expected layers such as '2' or '1-3'"),
        ("pre:1", ValueError, r"expected a placement such as 'mix' or 'mix\(share=0.25\)'"),
        ("", ValueError, r"expected a placement such as 'mix' or 'mix\(share=0.25\)'"),
        ("pre(share=0.5)", ValueError, "the placement has no argument 'share'; it takes no arguments"),
        ("mix(share='a')", TypeError, "share must be a number, got 'a'"),
        ("pre+residual_dual:1", ValueError, "has two streams and cannot be mixed with another"),
        # A placement is about branches: at the ends it would change nothing.
        ("pre+post:final", ValueError, "final"),
        ("pre+post:stem", ValueError, "stem"),
        ("pre+post:qk", ValueError, "qk"),
    ],
)
def test_placements_that_do_not_exist_are_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PlacementSpec(text).build()


def needs(width: int, *, alpha: float) -> nn.Module:
    return nn.LayerNorm(width, eps=alpha)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            lambda: nn.Identity(),
            r"cannot be made: expected a class or function of a width, .*; given a width: too many",
        ),
        (needs, r"cannot be made: .* missing a required argument: 'alpha'"),
        (lambda width: None, r"must return a torch module for a width, got None"),
        (lambda width: nn.LayerNorm, r"must return a torch module for a width, got <class"),
    ],
)
def test_a_norm_of_another_package_that_is_none_is_named(
    entry: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NORMS, "theirs", entry)
    monkeypatch.setattr(NORMS, "_origins", {"theirs": "their-things 0.2"})
    with pytest.raises(TypeError, match=rf"norm 'theirs' of their-things 0\.2 {words}"):
        NormSpec.parse("theirs").factory(16)


def test_a_norm_of_another_package_is_given_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "theirs", needs)
    monkeypatch.setattr(NORMS, "_origins", {"theirs": "their-things 0.2"})
    made = NormSpec("theirs", {"alpha": 0.25}).factory(16)
    assert isinstance(made, nn.LayerNorm)
    assert made.eps == 0.25
