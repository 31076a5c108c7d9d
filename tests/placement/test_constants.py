"""DeepNorm's constants, computed by hand from Figure 2 of the paper."""

import pytest
from torch import nn

from normscope.placement import PLACEMENTS, Site, deepnorm_constants
from normscope.placement.blocks import CONSTANTS


def constants(part: str, layers: int, other_layers: int = 0, *, whose: str = "paper") -> tuple[float, float]:
    site = Site(kind="feed_forward", layer=1, layers=layers, part=part, other_layers=other_layers)
    return deepnorm_constants(site, whose)


@pytest.mark.parametrize(
    ("part", "layers", "other", "alpha", "beta"),
    [
        # (2 N)^(1/4) and (8 N)^(-1/4): 16^(1/4) = 2 and 64^(-1/4) = 1 / (2 sqrt 2).
        ("only", 8, 0, 2.0, 0.35355339059327379),
        ("only", 2, 0, 1.4142135623730951, 0.5),
        # An encoder or a decoder alone, whatever it is called: 24^(1/4) and 96^(-1/4).
        ("only", 12, 0, 2.2133638394006434, 0.31947155212313627),
        ("decoder", 12, 0, 2.2133638394006434, 0.31947155212313627),
        ("encoder", 12, 0, 2.2133638394006434, 0.31947155212313627),
        ("only", 12, 6, 2.2133638394006434, 0.31947155212313627),
        # 6^5 = 7776; four square roots: 88.18163, 9.390508, 3.064393, 1.7505409144.
        ("encoder", 6, 6, 0.81 * 1.7505409144, 0.87 / 1.7505409144),
        # (2^4 16^1)^(1/16) = 256^(1/16) = sqrt 2; (16^4 2)^(1/16) = 2^(17/16).
        ("encoder", 2, 16, 0.81 * 1.4142135623730951, 0.87 / 1.4142135623730951),
        ("encoder", 16, 2, 0.81 * 2.0885475648548274, 0.87 / 2.0885475648548274),
        # (3 M)^(1/4) and (12 M)^(-1/4), whatever the encoder: 81^(1/4) = 3 and 324^(-1/4) = 1 / (3 sqrt 2).
        ("decoder", 27, 6, 3.0, 0.23570226039551584),
        ("decoder", 27, 60, 3.0, 0.23570226039551584),
    ],
)
def test_the_papers_constants(part: str, layers: int, other: int, alpha: float, beta: float) -> None:
    # The roots above are written to 11 digits or more.
    assert constants(part, layers, other) == pytest.approx((alpha, beta), rel=1e-10)


def test_the_released_code_differs_in_the_encoder_of_an_encoder_decoder_alone() -> None:
    assert CONSTANTS == ("paper", "released")
    alpha, beta = constants("encoder", 6, 6, whose="released")
    assert (alpha, beta) == pytest.approx((0.81 * 1.7505409144, 1.15 / 1.7505409144), rel=1e-10)
    assert beta / constants("encoder", 6, 6)[1] == pytest.approx(1.15 / 0.87)
    for part, other in (("only", 0), ("decoder", 6)):
        assert constants(part, 6, other, whose="released") == constants(part, 6, other)


def test_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="constants must be one of paper, released, got 'mine'"):
        constants("only", 6, whose="mine")


@pytest.mark.parametrize("whose", CONSTANTS)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_stack_that_stands_alone_has_the_constants_of_one_stream(part: str, whose: str) -> None:
    assert constants(part, 12, 0, whose=whose) == constants("only", 12, whose=whose)
    branches = [(kind, Branch(8, 8)) for _ in range(12) for kind in ("attention", "feed_forward")]
    stream = PLACEMENTS["deepnorm"].with_arguments(constants=whose).stack(branches, 8, nn.LayerNorm, part=part)
    assert {block.alpha for block in stream.blocks} == {24**0.25}
    assert {block.branch.gain for block in stream.blocks} == {96**-0.25}


class Branch(nn.Linear):
    """A branch whose initial weights a placement scales."""

    gain = 1.0


@pytest.mark.parametrize("part", ["only", "encoder", "decoder"])
@pytest.mark.parametrize(("layers", "other"), [(0, 0), (0, 6), (-1, 6), (6, -1)])
def test_numbers_of_layers_that_no_network_has_are_refused(part: str, layers: int, other: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 1 layer, and 0 or more in the other, got {layers} and {other}"):
        constants(part, layers, other)
