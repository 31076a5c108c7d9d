"""Rows show what they are drawn for, and a run is told from a failure."""

import torch
from torch import Tensor, nn

from normscope.inspection.probing import enlarged_copy, few_rows, isolated, many_rows, run, upstream

G = upstream((1, 4, 8))


def test_rows_have_sizes_and_spikes_along_their_axis() -> None:
    few = few_rows((2, 5, 8), -1).square().mean(-1).sqrt().flatten()
    assert few.min() < 1e-12
    assert few.max() > 5
    rows = many_rows((1, 8, 40), 1).movedim(1, -1).reshape(-1, 8)
    normal = rows / rows.square().mean(-1, keepdim=True).sqrt()
    assert int((normal.amax(-1) > 0.99 * 8**0.5).sum()) == 14
    assert rows.abs().amax() > 1e5


def test_enlarged_copies_are_alike_in_both_modes_and_of_both_signs() -> None:
    one, two = (enlarged_copy(nn.LayerNorm(64), training) for training in (False, True))
    assert (one.training, two.training) == (False, True)
    weight = one.state_dict()["weight"]
    assert torch.equal(weight, two.state_dict()["weight"])
    assert ((weight.abs() >= 500) & (weight.abs() <= 1500)).all()
    assert 10 < int((weight < 0).sum()) < 54


def test_gradients_of_the_input_and_of_parameters() -> None:
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    x = many_rows((1, 4, 8), -1)
    told = run(lambda x: scale * x, x, G, {"scale": scale, "unused": unused})
    assert not isinstance(told, str)
    torch.testing.assert_close(told[1][""], 2 * G)
    torch.testing.assert_close(told[1]["scale"], (G * x).sum())
    assert torch.equal(told[1]["unused"], torch.zeros(3, dtype=torch.float64))


def test_failures_have_words() -> None:
    x = many_rows((1, 4, 8), -1)

    def fails(_: Tensor) -> Tensor:
        raise KeyError("nothing there")

    assert run(fails, x, G, {}) == "raises KeyError: 'nothing there'"
    assert run(lambda x: x.detach(), x, G, {}) == "gives no gradient"
    assert "something else than a tensor" in str(run(lambda x: x[0], x, G, {}))
    assert "in-place operation" in str(run(lambda x: x.mul_(2), x, G, {}))


def test_isolated_takes_no_random_numbers_and_has_gradients_in_any_mode() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode(), isolated():
        x = torch.rand(4, requires_grad=True)
        x.square().sum().backward()
        assert x.grad is not None
    assert torch.equal(torch.get_rng_state(), state)
