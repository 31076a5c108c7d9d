"""Recurrent layers that stand where ``torch.nn.RNN``, ``LSTM`` and ``GRU`` stood."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.recurrent.places import Mode, Places, find_places
from normscope.recurrent.run import Norm, build_norms, draw_weights, run_apart
from normscope.recurrent.scan import Regularizers
from normscope.recurrent.steps import gru_step, lstm_step, rnn_step
from normscope.torch_internals import forward_mode_is_active, functorch_is_active


class RNN(nn.RNN):
    r"""Elman network with a norm, a drop-in replacement of ``torch.nn.RNN``.

    .. math:: h_t = f(\mathrm{LN}(W_h h_{t-1} + W_x x_t) + b)

    Parameters have torch's names; those of the norms follow, such as ``norms.l0.ih.0.weight``. Without a norm, dropout
    of the state and resets it computes what torch computes, by torch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: Number of layers, each on the outputs of the one before.
        nonlinearity: f, ``tanh`` or ``relu``.
        bias: Whether there are biases.
        batch_first: Whether inputs and outputs are ``[B, T, ...]``.
        dropout: Probability of a zero in the outputs of all layers but the last, in training.
        bidirectional: Whether a second direction runs from the end to the start.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: A name such as ``"rms_norm"`` or ``"ada_norm(k=0.3)"``, as :class:`normscope.NormSpec` parses it, a
            function ``width -> module``, or None. Its statistics are those of a row, or it is ``"batch_norm"``; all
            steps share its parameters.
        places: ``paper``, ``apart`` (both products normalized by themselves), or
            :class:`~normscope.recurrent.Places`.
        zoneout: Probability that an entry of h keeps its old value, in training; in evaluation, the mean.
        recurrent_dropout: Probability of a zero in the h that ``W_h`` multiplies, in training; one mask per sequence.
        learned_initial_state: Whether the initial state is a parameter, ``initial_h``.
        batch_norm_steps: With batch norm, the number of time steps with running moments of their own.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If a size is below one, a probability is not in [0, 1), places are unknown, the norm takes no such
            argument, its statistics are not those of a row, or it is batch norm without ``batch_norm_steps``; in
            ``forward``, if the input has another dtype, resets have another shape, or batch norm gets resets or in
            training a step with a single sequence.
        UnknownName: If no norm has the name.
        RuntimeError: In ``forward``, if an input or a state has another shape.

    References:
        Ba et al. (2016). Layer normalization. arXiv:1607.06450, eq. 4. Departs from it in: two biases, as in torch.
        Zoneout: Krueger et al. (2016), arXiv:1606.01305. Recurrent dropout: Gal, Ghahramani (2015), arXiv:1512.05287.

    Example:
        >>> import torch
        >>> from normscope import RNN
        >>> output, h = RNN(8, 16)(torch.zeros(5, 2, 8))
        >>> output.shape, h.shape
        (torch.Size([5, 2, 16]), torch.Size([1, 2, 16]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        places: str | Places = "paper",
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        learned_initial_state: bool = False,
        batch_norm_steps: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            nonlinearity=nonlinearity,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
        )
        self.places = find_places("RNN", places)
        self.regularizers = Regularizers(zoneout=(zoneout,), recurrent_dropout=recurrent_dropout)
        _complete(self, "RNN", norm, None, batch_norm_steps, ("initial_h",) if learned_initial_state else ())

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the norms as their constructors do."""
        draw_weights(self, self.hidden_size, None)

    def forward(self, input: Any, hx: Tensor | None = None, *, reset: Any = None) -> tuple[Any, Tensor]:
        """Run over sequences, as ``torch.nn.RNN`` does.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` if ``batch_first``, ``[T, I]``, or packed, sorted or not.
            hx: ``[L, B, H]``, with L layers times directions; None for zeros, or the learned state.
            reset: bool, with the axes of the input but the last one, packed if it is: where the state starts anew.

        Returns:
            ``[T, B, D H]`` in the form of the input, with D directions, and the final h, ``[L, B, H]``.
        """
        if reset is None and _is_torchs(self):
            self.computed_by = "torch"
            return super().forward(input, hx)
        step = partial(rnn_step, activation=torch.tanh if self.nonlinearity == "tanh" else torch.relu)
        output, (h,) = run_apart(torch.compiler.is_compiling())(
            self, "RNN", step, input, None if hx is None else (hx,), reset
        )
        return output, h


class LSTM(nn.LSTM):
    r"""LSTM with norms, a drop-in replacement of ``torch.nn.LSTM``.

    .. math::
        (i; f; g; o)_t &= \mathrm{LN}(W_h h_{t-1}) + \mathrm{LN}(W_x x_t) + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t) \odot \tanh(\mathrm{LN}(c_t))

    Parameters have torch's names; those of the norms follow, such as ``norms.l0.cell.0.weight``. Without a norm,
    dropout of the state and resets it computes what torch computes, by torch. In half precision c is carried in
    float32.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: Number of layers, each on the outputs of the one before.
        bias: Whether there are biases.
        batch_first: Whether inputs and outputs are ``[B, T, ...]``.
        dropout: Probability of a zero in the outputs of all layers but the last, in training.
        bidirectional: Whether a second direction runs from the end to the start.
        proj_size: P, the width of a projection of h; 0 for none.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: A name such as ``"rms_norm"`` or ``"ada_norm(k=0.3)"``, as :class:`normscope.NormSpec` parses it, a
            function ``width -> module``, or None. Its statistics are those of a row, or it is ``"batch_norm"``; all
            steps share its parameters.
        cell_norm: Norm of c, given as ``norm`` is; ``"same"`` for that of the products.
        places: ``paper``, ``read-out``, ``per gate``, ``kiros``, ``fastrnns``, ``tensorflow``, or
            :class:`~normscope.recurrent.Places`.
        zoneout: Probability that an entry keeps its old value, in training: of h and of c, or of both; in evaluation,
            the mean.
        recurrent_dropout: Probability of a zero in the h that ``W_h`` multiplies, in training; one mask per sequence.
        learned_initial_state: Whether the initial states are parameters, ``initial_h`` and ``initial_c``.
        forget_bias: Sum of both biases of the forget gates at the start; None to draw them.
        batch_norm_steps: With batch norm, the number of time steps with running moments of their own.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If a size is below one, a probability is not in [0, 1), places are unknown, the norm takes no such
            argument, its statistics are not those of a row, or it is batch norm without ``batch_norm_steps``; in
            ``forward``, if the input has another dtype, resets have another shape, or batch norm gets resets or in
            training a step with a single sequence.
        UnknownName: If no norm has the name.
        RuntimeError: In ``forward``, if an input or a state has another shape.

    References:
        Ba et al. (2016). Layer normalization. arXiv:1607.06450, eqs. 20-22. Departs from it in: two biases and the
        order of the gates, as in torch. Zoneout: Krueger et al. (2016), arXiv:1606.01305. Recurrent dropout: Gal,
        Ghahramani (2015), arXiv:1512.05287. Forget bias: Gers et al. (2000), Jozefowicz et al. (2015). Batch norm:
        Cooijmans et al. (2016), arXiv:1603.09025, with running moments.

    Example:
        >>> import torch
        >>> from normscope import LSTM
        >>> lstm = LSTM(8, 16, norm="rms_norm")
        >>> output, (h, c) = lstm(torch.zeros(5, 2, 8))
        >>> output.shape, h.shape, c.shape
        (torch.Size([5, 2, 16]), torch.Size([1, 2, 16]), torch.Size([1, 2, 16]))
        >>> sorted(lstm.norms["l0"])
        ['cell', 'hh', 'ih']
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        cell_norm: Norm = "same",
        places: str | Places = "paper",
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        learned_initial_state: bool = False,
        forget_bias: float | None = None,
        batch_norm_steps: int | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self.forget_bias = forget_bias
        self.places = find_places("LSTM", places)
        zoneouts = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)
        self.regularizers = Regularizers(zoneout=zoneouts, recurrent_dropout=recurrent_dropout)
        cell = norm if cell_norm == "same" else cell_norm
        learned = ("initial_h", "initial_c") if learned_initial_state else ()
        _complete(self, "LSTM", norm, cell, batch_norm_steps, learned)
        if forget_bias is not None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the forget gate's bias, and the norms as their constructors do."""
        draw_weights(self, self.hidden_size, getattr(self, "forget_bias", None))

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None, *, reset: Any = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over sequences, as ``torch.nn.LSTM`` does.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` if ``batch_first``, ``[T, I]``, or packed, sorted or not.
            hx: h, ``[L, B, H or P]``, and c, ``[L, B, H]``, with L layers times directions; None for zeros, or the
                learned states.
            reset: bool, with the axes of the input but the last one, packed if it is: where the state starts anew.

        Returns:
            ``[T, B, D H or P]`` in the form of the input, with D directions, and the final h and c.
        """
        if reset is None and _is_torchs(self):
            self.computed_by = "torch"
            return super().forward(input, hx)
        output, (h, c) = run_apart(torch.compiler.is_compiling())(self, "LSTM", lstm_step, input, hx, reset)
        return output, (h, c)


class GRU(nn.GRU):
    r"""GRU with norms, a drop-in replacement of ``torch.nn.GRU``.

    .. math::
        (r; z)_t &= \sigma(\mathrm{LN}(W_h h_{t-1}) + \mathrm{LN}(W_x x_t) + b) \\
        n_t &= \tanh(\mathrm{LN}(W x_t) + b_x + r_t \odot (\mathrm{LN}(U h_{t-1}) + b_h)) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    Parameters have torch's names; those of the norms follow, such as ``norms.l0.hh.1.weight``. Without a norm, dropout
    of the state and resets it computes what torch computes, by torch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: Number of layers, each on the outputs of the one before.
        bias: Whether there are biases.
        batch_first: Whether inputs and outputs are ``[B, T, ...]``.
        dropout: Probability of a zero in the outputs of all layers but the last, in training.
        bidirectional: Whether a second direction runs from the end to the start.
        device: Device of the parameters.
        dtype: dtype of the parameters.
        norm: A name such as ``"rms_norm"`` or ``"ada_norm(k=0.3)"``, as :class:`normscope.NormSpec` parses it, a
            function ``width -> module``, or None. Its statistics are those of a row, or it is ``"batch_norm"``; all
            steps share its parameters.
        places: ``paper``, ``reset before``, ``per gate``, ``kiros``, ``haste``, or
            :class:`~normscope.recurrent.Places`.
        zoneout: Probability that an entry of h keeps its old value, in training; in evaluation, the mean.
        recurrent_dropout: Probability of a zero in the h that ``W_h`` multiplies, in training; one mask per sequence.
        learned_initial_state: Whether the initial state is a parameter, ``initial_h``.
        batch_norm_steps: With batch norm, the number of time steps with running moments of their own.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If a size is below one, a probability is not in [0, 1), places are unknown, the norm takes no such
            argument, its statistics are not those of a row, or it is batch norm without ``batch_norm_steps``; in
            ``forward``, if the input has another dtype, resets have another shape, or batch norm gets resets or in
            training a step with a single sequence.
        UnknownName: If no norm has the name.
        RuntimeError: In ``forward``, if an input or a state has another shape.

    References:
        Ba et al. (2016). Layer normalization. arXiv:1607.06450, eqs. 26-28. Departs from it in: torch's z, which is one
        minus the paper's, and biases. Zoneout: Krueger et al. (2016), arXiv:1606.01305. Recurrent dropout: Gal,
        Ghahramani (2015), arXiv:1512.05287.

    Example:
        >>> import torch
        >>> from normscope import GRU
        >>> output, h = GRU(8, 16, bidirectional=True)(torch.zeros(5, 2, 8))
        >>> output.shape, h.shape
        (torch.Size([5, 2, 32]), torch.Size([2, 2, 16]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Norm = "layer_norm",
        places: str | Places = "paper",
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        learned_initial_state: bool = False,
        batch_norm_steps: int | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype
        )
        self.places = find_places("GRU", places)
        self.regularizers = Regularizers(zoneout=(zoneout,), recurrent_dropout=recurrent_dropout)
        _complete(self, "GRU", norm, None, batch_norm_steps, ("initial_h",) if learned_initial_state else ())

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the norms as their constructors do."""
        draw_weights(self, self.hidden_size, None)

    def forward(self, input: Any, hx: Tensor | None = None, *, reset: Any = None) -> tuple[Any, Tensor]:
        """Run over sequences, as ``torch.nn.GRU`` does.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` if ``batch_first``, ``[T, I]``, or packed, sorted or not.
            hx: ``[L, B, H]``, with L layers times directions; None for zeros, or the learned state.
            reset: bool, with the axes of the input but the last one, packed if it is: where the state starts anew.

        Returns:
            ``[T, B, D H]`` in the form of the input, with D directions, and the final h, ``[L, B, H]``.
        """
        if reset is None and _is_torchs(self):
            self.computed_by = "torch"
            return super().forward(input, hx)
        output, (h,) = run_apart(torch.compiler.is_compiling())(
            self, "GRU", gru_step, input, None if hx is None else (hx,), reset
        )
        return output, h


def _complete(
    module: Any, mode: Mode, norm: Norm, cell_norm: Norm, batch_norm_steps: int | None, learned: tuple[str, ...]
) -> None:
    """Add the norms and the learned initial states to what torch's constructor built."""
    module.computed_by = ""
    like = module.weight_ih_l0
    directions = ("", "_reverse") if module.bidirectional else ("",)
    module.norms = nn.ModuleDict(
        {
            f"l{layer}{direction}": build_norms(
                mode, module.places, module.hidden_size, norm, cell_norm, like, batch_norm_steps
            )
            for layer in range(module.num_layers)
            for direction in directions
        }
    )
    for name in learned:
        width = module.proj_size or module.hidden_size if name == "initial_h" else module.hidden_size
        module.register_parameter(name, nn.Parameter(like.new_zeros(module.num_layers * len(directions), 1, width)))


def _is_torchs(module: Any) -> bool:
    """Return whether torch computes the layer: without norm, learned start and dropout of the state.

    Its operations know neither batches of models nor derivatives in forward mode, which the steps do.
    """
    regularizers: Regularizers = module.regularizers
    return not (
        any(module.norms.values())
        or hasattr(module, "initial_h")
        or any(regularizers.zoneout)
        or regularizers.recurrent_dropout
        or functorch_is_active()
        or forward_mode_is_active()
    )
