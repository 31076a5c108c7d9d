"""Recurrent layers with norms: drop-in replacements of ``torch.nn.RNN``, ``LSTM`` and ``GRU``, and of their cells."""

from normscope.recurrent.cells import GRUCell, LSTMCell, RNNCell
from normscope.recurrent.layers import GRU, LSTM, RNN
from normscope.recurrent.places import PLACES, Places

__all__ = ["GRU", "LSTM", "PLACES", "RNN", "GRUCell", "LSTMCell", "Places", "RNNCell"]
