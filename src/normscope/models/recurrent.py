"""Recurrent networks: a classifier of sequences, and a language model that carries its state on."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.recurrent import GRU, LSTM

Cell = Literal["LSTM", "GRU"]

FORGET_BIAS = 1.0
"""Sum of both biases of an LSTM's forget gates at the start (Jozefowicz et al. 2015)."""

CARRIED = "a text whose state is carried on from segment to segment has no such steps"


def _layers(
    cell: Cell,
    inputs: int,
    width: int,
    norm: Callable[[int], nn.Module],
    *,
    layers: int = 1,
    steps: int | None = None,
    places: str = "paper",
) -> LSTM | GRU:
    given: dict[str, Any] = {"batch_first": True, "norm": norm, "batch_norm_steps": steps, "places": places}
    if cell == "LSTM":
        return LSTM(inputs, width, layers, forget_bias=FORGET_BIAS, **given)
    return GRU(inputs, width, layers, **given)


def of_rows(norm: Callable[[int], nn.Module], obstacle: str) -> Callable[[int], nn.Module]:
    """Return the factory of a norm, or, for batch norm, one that refuses to build it.

    Args:
        norm: Factory of the norms, from the width.
        obstacle: Why there are no moments of every time step, after "and".
    """

    def make(width: int) -> nn.Module:
        built = norm(width)
        if getattr(getattr(built, "traits", None), "statistics", None) == "batch":
            raise ValueError(
                f"batch norm has moments of every time step of a sequence, and {obstacle}: use norms of rows, in a "
                "study --norms none,layer_norm,rms_norm"
            )
        return built

    return make


class SequenceClassifier(nn.Module):
    """A recurrent layer, and a linear head on its last output.

    Args:
        cell: ``LSTM``, whose forget gates start with a bias of 1, or ``GRU``.
        inputs: Features of a step.
        width: Number of units.
        classes: Number of logits.
        norm: Factory of the norms, from the width.
        steps: Number of time steps of which batch norm has moments.
        places: Where the norms stand, as in :class:`normscope.LSTM` and :class:`normscope.GRU`.

    Raises:
        ValueError: If the norm is neither one of rows nor batch norm.

    References:
        Le, Jaitly, Hinton (2015). A simple way to initialize recurrent networks of rectified linear units.
            arXiv:1504.00941, section 4.2, for pixels read one by one.
        Departs from it in: the cells, and the norms.
    """

    def __init__(
        self,
        *,
        cell: Cell,
        inputs: int,
        width: int,
        classes: int,
        norm: Callable[[int], nn.Module],
        steps: int,
        places: str = "paper",
    ) -> None:
        super().__init__()
        self.layer = _layers(cell, inputs, width, norm, steps=steps, places=places)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``[B, T, inputs]`` to logits ``[B, classes]``."""
        return self.head(self.layer(x)[0][:, -1])


class RecurrentLanguageModel(nn.Module):
    """Embeddings, recurrent layers, and a linear map to the logits of the next symbol.

    Its memory is the state of the layers, ``[S, layers, B, width]``: h, and of an LSTM c, so S is 1 or 2.

    Args:
        cell: ``LSTM``, whose forget gates start with a bias of 1, or ``GRU``.
        vocabulary: Number of symbols.
        width: Number of units of each layer, and features of an embedding.
        layers: Number of layers.
        batch: Number of streams read in parallel in training, whose state is in the buffer ``memory``, and so in the
            state dict.
        norm: Factory of the norms, from the width, as in :class:`SequenceClassifier`.

    Raises:
        ValueError: If the statistics of the norm are not those of a row.

    References:
        Karpathy (2015). The unreasonable effectiveness of recurrent neural networks, and its code char-rnn.
        Departs from it in: embeddings instead of one-hot inputs; no dropout; norms.
    """

    def __init__(
        self, *, cell: Cell, vocabulary: int, width: int, layers: int, batch: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = _layers(cell, width, width, of_rows(norm, CARRIED), layers=layers)
        self.logits = nn.Linear(width, vocabulary)
        self.states = 2 if cell == "LSTM" else 1
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(self.states, layers, batch, width))

    def forward(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Process a segment from a state, without changing the model's buffer.

        Args:
            tokens: ``[B, T]`` int64.
            memory: State of the same B streams, from :meth:`empty_memory` or the previous call.

        Returns:
            Logits of the next symbols ``[B, T, V]``, and the detached state.
        """
        x = self.embedding(tokens)
        state = tuple(memory) if self.states == 2 else memory[0]
        output, state = self.layers(x, state)  # pyright: ignore[reportArgumentType]
        after = torch.stack(tuple(state)) if self.states == 2 else state[None]
        return self.logits(output), after.detach()

    def advance(self, tokens: Tensor) -> Tensor:
        """Process the next training segment ``[B, T]``, update the state and return logits ``[B, T, V]``."""
        # A copy: the backward pass reads the state from which the segment was computed.
        logits, memory = self(tokens, self.memory.clone())
        self.memory.copy_(memory)
        return logits

    def forget(self) -> None:
        """Set the state of the training streams to zero."""
        self.memory.zero_()

    def empty_memory(self, batch: int, length: int) -> Tensor:
        """Return the state at the start of ``batch`` streams; ``length`` is unused, as a state has no length."""
        return self.memory.new_zeros(self.states, self.layers.num_layers, batch, self.layers.hidden_size)
