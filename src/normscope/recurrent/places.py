"""Where norms stand in a recurrent cell: the paper's places, and those of code that people use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["RNN", "LSTM", "GRU"]
Products = Literal["apart", "summed", "plain"]
Groups = Literal["stacked", "gates", "whole"]
Bias = Literal["after", "before", "both"]
Cell = Literal["read-out", "carried", "plain"]
Reset = Literal["after", "before"]


@dataclass(frozen=True, kw_only=True)
class Places:
    """What is normalized in a recurrent cell, and in which order.

    Raises:
        ValueError: If a field has another value.

    Example:
        >>> from normscope.recurrent import Places
        >>> Places(groups="gates").cell
        'read-out'
    """

    products: Products = "apart"
    """``W_x x`` and ``W_h h`` apart (Ba et al., eq. 20), their sum (eq. 4), or neither (eqs. 29-31)."""
    groups: Groups = "stacked"
    """What shares a mean and a size: the whole stacked vector, or each gate. In the paper's GRU, where one product
    makes the two gates and another the candidate (eqs. 26-27), ``stacked`` is both gates, and the candidate by itself;
    ``whole`` is all three, as in haste's."""
    bias: Bias = "after"
    """Where the bias is added: after the norms, before them, or both, as in Kiros' LSTM."""
    cell: Cell = "read-out"
    """LSTM: whether ``c`` is normalized where it is read (eq. 22), where it is carried on, too, or nowhere."""
    reset: Reset = "after"
    """GRU: whether the reset gate multiplies ``U h`` after its norm (eq. 27), or ``h`` before the product."""

    def __post_init__(self) -> None:
        for field, kind in (
            ("products", Products),
            ("groups", Groups),
            ("bias", Bias),
            ("cell", Cell),
            ("reset", Reset),
        ):
            if getattr(self, field) not in get_args(kind):
                wanted = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{field} must be one of {wanted}, got {getattr(self, field)!r}")


PLACES: Mapping[Mode, Mapping[str, Places]] = {
    "RNN": {"paper": Places(products="summed"), "apart": Places()},
    "LSTM": {
        "paper": Places(),
        "read-out": Places(products="plain"),
        "per gate": Places(groups="gates"),
        "kiros": Places(bias="both"),
        "fastrnns": Places(cell="carried"),
        "tensorflow": Places(products="summed", groups="gates", cell="carried"),
    },
    "GRU": {
        "paper": Places(),
        "reset before": Places(reset="before"),
        "per gate": Places(groups="gates"),
        "kiros": Places(bias="before"),
        "haste": Places(groups="whole"),
    },
}
"""Named places. ``paper``: Ba et al. (2016), eqs. 4, 20-22 and 26-28. ``read-out``: eqs. 29-31 (DRAW). ``kiros``:
ryankiros/layer-norm, whose LSTM adds its bias twice. ``fastrnns``: ``LayerNormLSTMCell`` of PyTorch's
benchmarks/fastrnns, which has no bias. ``tensorflow``: ``LayerNormBasicLSTMCell`` of tf.contrib.rnn, without bias, too.
The LSTM of haste is ``paper`` with norms of the products that have no bias."""


def group_sizes(mode: Mode, places: Places, size: int) -> list[int]:
    """Return the widths of the norms of a product of a cell with ``size`` units."""
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[mode]
    if places.groups == "gates":
        return [size] * gates
    return [2 * size, size] if mode == "GRU" and places.groups == "stacked" else [gates * size]


def find_places(mode: Mode, places: str | Places) -> Places:
    """Return the places of a name, or check places that are given.

    Raises:
        TypeError: If ``places`` is neither a name nor :class:`Places`.
        ValueError: If the cell has no places of that name, or has no such places.
    """
    if isinstance(places, str):
        if places not in PLACES[mode]:
            raise ValueError(f"places of {mode} are {', '.join(map(repr, PLACES[mode]))}, got {places!r}")
        return PLACES[mode][places]
    if not isinstance(places, Places):
        raise TypeError(f"places must be a name or normscope.recurrent.Places, got {type(places).__name__}")
    if mode == "GRU" and places.products == "summed":
        raise ValueError("a GRU has no sum of its products for the candidate, which a gate multiplies: use 'apart'")
    if mode != "LSTM" and places.cell == "carried":
        raise ValueError(f"{mode} has no cell state to be normalized, got cell={places.cell!r}")
    if mode != "GRU" and places.reset != "after":
        raise ValueError(f"{mode} has no reset gate, got reset={places.reset!r}")
    if places.groups == "whole" and places.reset == "before":
        raise ValueError(
            "the gates and the candidate share a mean and a size only if the reset gate acts after the norm"
        )
    return places
