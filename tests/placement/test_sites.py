"""Sites of a network: the subset that a text names, and the norm at each."""

import pytest
from torch import nn

from normscope.placement import LayeredNorm, Site, Where, norm_at
from normscope.placement.sites import BRANCHES, ENDS, QK, named_norm


def site(kind: str, layer: int, layers: int = 6) -> Site:
    return Site(kind=kind, layer=layer, layers=layers)


SITES = [
    site("stem", 0),
    *(site("qk", layer) for layer in range(1, 7)),
    *(site(kind, layer) for layer in range(1, 7) for kind in BRANCHES),
    site("final", 6),
]


@pytest.mark.parametrize(
    ("text", "layers"),
    [("2", {2}), ("1-3", {1, 2, 3}), ("4-4", {4}), ("5-900", {5, 6}), ("7", set()), ("02-3", {2, 3})],
)
def test_layers_are_the_branches_in_them_and_not_the_ends(text: str, layers: set[int]) -> None:
    where = Where(text=text)
    for each in SITES:
        assert where.holds(each) is (each.kind in BRANCHES and each.layer in layers), each


@pytest.mark.parametrize("text", [*BRANCHES, *ENDS, QK])
def test_a_kind_is_every_site_of_it(text: str) -> None:
    where = Where(text=text)
    assert [each for each in SITES if where.holds(each)] == [each for each in SITES if each.kind == text]


@pytest.mark.parametrize(
    "text", ["", "0", "0-2", "3-2", "-1", "1-", "-", "1-2-3", "a", "final ", "1 - 2", "²", "1.5", "Final"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected layers such as '2' or '1-3', or one of attention, .*, final.*, got '"
    ):
        Where(text=text)


def test_the_first_part_that_holds_wins() -> None:
    norm = LayeredNorm(
        rest=nn.LayerNorm,
        chosen=(
            (Where(text="2-3"), nn.RMSNorm),
            (Where(text="attention"), nn.Identity),
            (Where(text="final"), nn.Tanh),
        ),
    )
    assert norm.at(site("attention", 2)) is nn.RMSNorm
    assert norm.at(site("attention", 4)) is nn.Identity
    assert norm.at(site("feed_forward", 4)) is nn.LayerNorm
    assert norm.at(site("final", 6)) is nn.Tanh
    assert norm.at(site("stem", 0)) is nn.LayerNorm
    # A network without named sites gets the norm of the rest.
    assert isinstance(norm(8), nn.LayerNorm)


def test_a_plain_norm_stands_at_every_site() -> None:
    assert all(norm_at(nn.LayerNorm, each) is nn.LayerNorm for each in SITES)
    layered = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="1"), nn.RMSNorm),))
    assert [norm_at(layered, site("feed_forward", layer)) for layer in (1, 2)] == [nn.RMSNorm, nn.LayerNorm]


def test_a_norm_is_named_only_where_it_is_written() -> None:
    layered = LayeredNorm(rest=nn.LayerNorm, chosen=((Where(text="qk"), nn.RMSNorm), (Where(text="2"), nn.Tanh)))
    assert layered.named(site("qk", 2)) is named_norm(layered, site("qk", 2)) is nn.RMSNorm
    assert named_norm(layered, site("attention", 2)) is nn.Tanh
    assert named_norm(layered, site("attention", 1)) is None
    assert named_norm(nn.LayerNorm, site("qk", 2)) is None
