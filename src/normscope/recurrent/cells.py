"""Single steps that stand where ``torch.nn.RNNCell``, ``LSTMCell`` and ``GRUCell`` stood."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.recurrent.places import Mode, Places, find_places
from normscope.recurrent.run import Norm, build_norms, draw_weights, norms_of, weights_of
from normscope.recurrent.steps import State, gru_step, input_part, lstm_step, rnn_step
from normscope.torch_internals import forward_mode_is_active, functorch_is_active


class RNNCell(nn.RNNCell):
    r"""One step of :class:`normscope.RNN`: :math:`h' = f(\mathrm{LN}(W_h h + W_x x) + b)`.

    Args:
        input_size: I.
        hidden_size: H.
        bias: Whether there are biases.
        nonlinearity: ``tanh`` or ``relu``.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: As in :class:`normscope.RNN`.
        places: As in :class:`normscope.RNN`.

    Example:
        >>> import torch
        >>> from normscope.recurrent import RNNCell
        >>> RNNCell(8, 16)(torch.zeros(2, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        places: str | Places = "paper",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, nonlinearity, device, dtype)
        self.places = find_places("RNN", places)
        self.norms = build_norms("RNN", self.places, hidden_size, norm, None, self.weight_ih)

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the norms as their constructors do."""
        draw_weights(self, self.hidden_size, None)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Map ``[B, I]`` and ``[B, H]``, or both without B, to the next ``[B, H]``; without a state it is zero."""
        if _is_torchs(self):
            return super().forward(input, hx)
        step = partial(rnn_step, activation=torch.tanh if self.nonlinearity == "tanh" else torch.relu)
        return _step(self, "RNN", step, input, None if hx is None else (hx,))[0]


class LSTMCell(nn.LSTMCell):
    """One step of :class:`normscope.LSTM`.

    Args:
        input_size: I.
        hidden_size: H.
        bias: Whether there are biases.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: As in :class:`normscope.LSTM`.
        cell_norm: As in :class:`normscope.LSTM`.
        places: As in :class:`normscope.LSTM`.
        forget_bias: As in :class:`normscope.LSTM`.

    Example:
        >>> import torch
        >>> from normscope.recurrent import LSTMCell
        >>> h, c = LSTMCell(8, 16)(torch.zeros(2, 8))
        >>> h.shape, c.shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        cell_norm: Norm = "same",
        places: str | Places = "paper",
        forget_bias: float | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.forget_bias = forget_bias
        self.places = find_places("LSTM", places)
        cell = norm if cell_norm == "same" else cell_norm
        self.norms = build_norms("LSTM", self.places, hidden_size, norm, cell, self.weight_ih)
        if forget_bias is not None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the forget gate's bias, and the norms as their constructors do."""
        draw_weights(self, self.hidden_size, getattr(self, "forget_bias", None))

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Map ``[B, I]`` and two ``[B, H]``, or all without B, to the next states; without states they are zero."""
        if _is_torchs(self):
            return super().forward(input, hx)
        h, c = _step(self, "LSTM", lstm_step, input, hx)
        return h, c


class GRUCell(nn.GRUCell):
    """One step of :class:`normscope.GRU`.

    Args:
        input_size: I.
        hidden_size: H.
        bias: Whether there are biases.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: As in :class:`normscope.GRU`.
        places: As in :class:`normscope.GRU`.

    Example:
        >>> import torch
        >>> from normscope.recurrent import GRUCell
        >>> GRUCell(8, 16)(torch.zeros(2, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        places: str | Places = "paper",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.places = find_places("GRU", places)
        self.norms = build_norms("GRU", self.places, hidden_size, norm, None, self.weight_ih)

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the norms as their constructors do."""
        draw_weights(self, self.hidden_size, None)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Map ``[B, I]`` and ``[B, H]``, or both without B, to the next ``[B, H]``; without a state it is zero."""
        if _is_torchs(self):
            return super().forward(input, hx)
        return _step(self, "GRU", gru_step, input, None if hx is None else (hx,))[0]


def _is_torchs(module: Any) -> bool:
    """Return whether torch computes the cell: without norm, and outside of what its operations do not know."""
    return not (module.norms or functorch_is_active() or forward_mode_is_active())


def _step(module: Any, mode: Mode, step: Callable[..., State], x: Tensor, hx: State | None) -> State:
    """Check the input as torch's cells do, and compute one step.

    Raises:
        ValueError: If an input or a state has another number of dimensions.
        RuntimeError: If one has another size.
    """
    if x.dim() not in (1, 2) or x.shape[-1] != module.input_size:
        raise (RuntimeError if x.dim() in (1, 2) else ValueError)(
            f"{type(module).__name__} takes [B, {module.input_size}] or [{module.input_size}], got {list(x.shape)}"
        )
    wanted = (*x.shape[:-1], module.hidden_size)
    if hx is None:
        hx = (x.new_zeros(wanted),) * (2 if mode == "LSTM" else 1)
    for one in hx:
        if one.shape != wanted:
            raise (RuntimeError if one.dim() in (1, 2) else ValueError)(
                f"{type(module).__name__} takes states of shape {list(wanted)}, got {list(one.shape)}"
            )
    weights = weights_of(module, "")
    norms = norms_of(module.norms, mode, module.places, module.hidden_size)
    part = input_part(mode, x, weights, norms, module.places)
    return step(part, hx, hx[0], weights=weights, norms=norms, places=module.places)
