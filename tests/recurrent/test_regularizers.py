"""Zoneout, recurrent dropout and learned initial states against their definitions."""

import pytest
import torch

from normscope.recurrent import GRU, LSTM, RNN

WIDTH, H, B, T = 3, 64, 32, 8
LAYERS = [LSTM, GRU, RNN]


def inputs() -> torch.Tensor:
    return torch.randn(T, B, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_zoneout_keeps_a_share_of_the_state(kind: type) -> None:
    layer = kind(WIDTH, H, zoneout=0.25)
    torch.manual_seed(0)
    h, _ = layer(inputs())
    kept = (h[1:] == h[:-1]).double().mean()
    # Of 14,336 entries a quarter: five standard deviations are 0.018.
    assert abs(float(kept) - 0.25) < 0.02


def test_zoneout_of_an_lstm_has_a_share_of_h_and_one_of_c() -> None:
    x = inputs()
    for zoneout, held in (((0.5, 0.0), "h"), ((0.0, 0.5), "c")):
        layer = LSTM(WIDTH, H, zoneout=zoneout)
        h, c = torch.ones(1, B, H), torch.ones(1, B, H)
        _, (new_h, new_c) = layer(x[:1], (h, c))
        shares = {"h": float((new_h == 1).double().mean()), "c": float((new_c == 1).double().mean())}
        # 2,048 entries: five standard deviations are 0.055.
        assert abs(shares[held] - 0.5) < 0.06
        assert shares["c" if held == "h" else "h"] < 0.01


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_zoneout_in_evaluation_is_its_mean(kind: type) -> None:
    layer = kind(WIDTH, H, zoneout=0.25)
    plain = kind(WIDTH, H)
    plain.load_state_dict(layer.state_dict())
    x = inputs()[:1]
    start = torch.full((1, B, H), 0.5)
    hx = (start, start) if kind is LSTM else start
    got, want = layer.eval()(x, hx)[1], plain.eval()(x, hx)[1]
    for one, other in zip(*((s if isinstance(s, tuple) else (s,)) for s in (got, want)), strict=True):
        torch.testing.assert_close(one, 0.25 * start + 0.75 * other)


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_recurrent_dropout_is_one_mask_of_a_sequence(kind: type) -> None:
    layer = kind(WIDTH, H, norm=None, recurrent_dropout=0.5).double()
    x = inputs().double()
    torch.manual_seed(1)
    got, _ = layer(x)
    torch.manual_seed(1)
    mask = torch.nn.functional.dropout(torch.ones(B, H, dtype=torch.float64), 0.5)
    # The same network with the mask written into its products.
    plain = kind(WIDTH, H, norm=None).double()
    plain.load_state_dict(layer.state_dict())
    for row in range(3):
        masked = kind(WIDTH, H, norm=None).double()
        masked.load_state_dict(layer.state_dict())
        with torch.no_grad():
            masked.weight_hh_l0.mul_(mask[row])
        torch.testing.assert_close(got[:, row], masked(x[:, row])[0])
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_a_learned_initial_state_is_learned(kind: type) -> None:
    layer = kind(WIDTH, H, 2, bidirectional=True, learned_initial_state=True)
    starts = [parameter for name, parameter in layer.named_parameters() if name.startswith("initial_")]
    assert [list(start.shape) for start in starts] == [[4, 1, H]] * (2 if kind is LSTM else 1)
    layer(inputs())[0].square().sum().backward()
    assert all(start.grad is not None and start.grad.abs().min() > 0 for start in starts)
    with torch.no_grad():
        for start in starts:
            start.fill_(0.5)
    x = inputs()
    given = torch.full((4, B, H), 0.5)
    torch.testing.assert_close(layer(x)[0], layer(x, (given, given) if kind is LSTM else given)[0])


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_a_learned_initial_state_is_reset_with_the_rest(kind: type) -> None:
    layer = kind(WIDTH, H, learned_initial_state=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(9.0)
    layer.reset_parameters()
    for name, parameter in layer.named_parameters():
        assert parameter.abs().max() <= (0 if name.startswith("initial_") else 1), name


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("argument", ["zoneout", "recurrent_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_probabilities_are_checked(kind: type, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must be at least 0 and below 1, got {value}"):
        kind(WIDTH, H, **{argument: value})
