"""Cells against the layers, and against torch's cells without norms."""

import pytest
import torch
from torch import nn

from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

WIDTH, H, B = 3, 5, 4
CELLS = {RNNCell: (RNN, nn.RNNCell), LSTMCell: (LSTM, nn.LSTMCell), GRUCell: (GRU, nn.GRUCell)}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("batch", [(B,), ()])
def test_a_cell_is_a_step_of_the_layer(kind: type, batch: tuple[int, ...]) -> None:
    layer, _ = CELLS[kind]
    for options in ({}, {"bias": False}, {"places": "apart" if layer is RNN else "kiros"}):
        whole, cell = layer(WIDTH, H, **options).double(), kind(WIDTH, H, **options).double()
        names = {name: name.replace("_l0", "").replace("norms.l0.", "norms.") for name, _ in whole.named_parameters()}
        cell.load_state_dict({names[name]: value for name, value in whole.state_dict().items()})
        x = drawn(6, *batch, WIDTH)
        output, _ = whole(x)
        state = None
        for t in range(6):
            state = cell(x[t], state)
            torch.testing.assert_close(state[0] if layer is LSTM else state, output[t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("bias", [True, False])
def test_without_a_norm_it_is_torchs(kind: type, bias: bool) -> None:
    _, theirs = CELLS[kind]
    twin, cell = theirs(WIDTH, H, bias).double(), kind(WIDTH, H, bias, norm=None).double()
    cell.load_state_dict(twin.state_dict())
    x, h = drawn(B, WIDTH), drawn(B, H, seed=2)
    hx = (h, drawn(B, H, seed=3)) if kind is LSTMCell else h
    for arguments in ((x, hx), (x,)):
        torch.testing.assert_close(cell(*arguments), twin(*arguments), rtol=0, atol=0)


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_other_shapes_are_refused(kind: type) -> None:
    with pytest.raises(RuntimeError, match=rf"{kind.__name__} takes \[B, 3\] or \[3\], got \[4, 2\]"):
        kind(WIDTH, H)(torch.zeros(B, 2))
    state = torch.zeros(B, 4)
    with pytest.raises(RuntimeError, match=r"states of shape \[4, 5\], got \[4, 4\]"):
        kind(WIDTH, H)(torch.zeros(B, WIDTH), (state, state) if kind is LSTMCell else state)


def test_the_forget_gate_of_a_cell_can_start_open() -> None:
    cell = LSTMCell(WIDTH, H, forget_bias=2.0)
    assert torch.equal((cell.bias_ih + cell.bias_hh)[H : 2 * H], torch.full((H,), 2.0))
