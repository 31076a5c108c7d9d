"""Rules that name the cause of a training problem from the steps of recurrent layers."""

import math
from collections.abc import Callable, Iterator, Sequence

from normscope.diagnostics.measured import Cause, Measured
from normscope.diagnostics.recurrent.profile import LOST, LayerSteps, Line, NormSteps

CLOSED = 0.5
"""Share of the entries of a forget gate (of a GRU, update gate) that are closed, from which it counts as closed.

At torch's and this package's initial weights, with and without norms, it was at most 0.04 (124 layers); with a bias of
-5 at least 0.93.
"""

SATURATED, SATURATED_LATER = 0.28, 0.5
"""Share of saturated entries of a gate or a candidate from which it counts as saturated, before training and later.

Before training, the largest share at healthy initial weights was 0.21 (norms of both products with gains of one), and
inputs eight times as wide as h give 0.26 (the sum of their products is normal with a deviation of 1.63). Weights three
times as large gave 0.31 to 0.41 with inputs as wide as h. Gates of trained models saturate by design (Karpathy et al.,
2015, arXiv:1506.02078).
"""

MOST_LOST = 0.5
"""Share of steps whose gradient is lost from which it counts as vanishing."""

MOST_BELOW = 0.5
"""Share of rows of a step below eps from which the norm counts as dividing by eps alone in this step."""


def is_closed(layer: LayerSteps) -> bool:
    """Return whether the gate that remembers is closed, and there is more than one step to remember."""
    gate = _memory_gate(layer)
    return gate in layer.closed and layer.steps > 1 and _mean(layer.closed[gate]) > CLOSED


def saturated_gates(layer: LayerSteps, *, at_start: bool) -> dict[str, float]:
    """Return the shares of the gates and candidates that are saturated; an open gate that remembers is not."""
    limit = SATURATED if at_start else SATURATED_LATER
    shares = {gate: _mean(line) for gate, line in layer.saturated.items()}
    return {
        gate: share
        for gate, share in shares.items()
        if gate not in {_memory_gate(layer), "read-out of c"} and share > limit
    }


def equal_norms(layer: LayerSteps) -> list[tuple[NormSteps, int]]:
    """Return the norms of the recurrence that divide most rows by eps alone in some steps, and the number of steps.

    The norm of ``W_x x`` alone is not in the path from step to step.
    """
    apart = any(norm.place == "hh" for norm in layer.norms)
    found = [
        (norm, sum(each is not None and each > MOST_BELOW for each in norm.below_eps))
        for norm in layer.norms
        if not (apart and norm.place == "ih")
    ]
    return [(norm, steps) for norm, steps in found if steps]


def _memory_gate(layer: LayerSteps) -> str:
    return {"LSTM": "forget gate", "GRU": "update gate"}.get(layer.kind, "")


def _forget_gate_closed(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a gate that lets nothing of the state pass to the next step."""
    found = [layer for layer in measured.recurrent if is_closed(layer)]
    if found:
        worst = max(found, key=lambda layer: _mean(layer.closed[_memory_gate(layer)]))
        gate = _memory_gate(worst)
        yield (
            _names(found),
            f"{_count(found)}: at {worst.name} {_mean(worst.closed[gate]):.0%} of the entries of the {gate} are below "
            f"0.05, so that {'c' if worst.kind == 'LSTM' else 'h'} begins anew at every step.",
        )


def _gates_saturated(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report gates and candidates whose derivative is close to zero at most entries."""
    at_start = measured.first_update is not None
    found = [(layer, gates) for layer in measured.recurrent if (gates := saturated_gates(layer, at_start=at_start))]
    if found:
        worst, gates = max(found, key=lambda pair: max(pair[1].values()))
        shares = ", ".join(f"{gate} {share:.0%}" for gate, share in gates.items())
        yield (
            _names([layer for layer, _ in found]),
            f"{_count(found)}: at {worst.name} these shares of the entries are saturated, and pass on almost no "
            f"gradient: {shares}.",
        )


def _norm_of_equal_entries(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report norms between steps that divide by eps alone, as the entries of their rows are equal."""
    found = [(layer, norm, steps) for layer in measured.recurrent for norm, steps in equal_norms(layer)]
    if found:
        layer, norm, steps = max(found, key=lambda each: each[2])
        smallest = min(each for each in norm.deviation if each is not None)
        what = {"cell": "c", "hh": "W_h h"}.get(norm.place, "W_h h + W_x x")
        yield (
            ", ".join(dict.fromkeys(norm.name for _, norm, _ in found)),
            f"At {norm.name} the entries of most rows of {what} are equal in {steps} of {layer.steps} steps (smallest "
            f"standard deviation {smallest:.2g}, eps {norm.eps or 0.0:g}): it returns its bias there, and multiplies "
            "the gradient that goes back through it by as much as the root of eps allows.",
        )


def _vanishes(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a gradient that is lost on its way back through the steps, unless another cause explains it."""
    found = [
        layer
        for layer in _unexplained(measured)
        if layer.lost > MOST_LOST and layer.fade is not None and layer.fade < 1
    ]
    if found:
        worst = min(found, key=lambda layer: layer.fade or 0.0)
        yield (
            _names(found),
            f"{_count(found)}: at {worst.name} each step multiplies the gradient by {worst.fade:.2g} (geometric mean), "
            f"and at {worst.lost:.0%} of the {worst.steps} steps it is below {LOST:.1e} times the largest, which is "
            "where float32 rounds it away in the gradient of the weights: they do not learn from what is that far "
            "back.",
        )


def _explodes(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a gradient that grows on its way back through the steps, unless another cause explains it."""
    found = [layer for layer in _unexplained(measured) if layer.overflow or (layer.growth or 0.0) > 1 / LOST]
    if found:
        worst = max(found, key=lambda layer: (layer.overflow, layer.growth or 0.0))
        evidence = f"{_count(found)}: at {worst.name} "
        if worst.overflow:
            evidence += f"the gradient is not finite at {worst.overflow} of {worst.steps} steps"
        if worst.fade is not None and worst.growth is not None:
            evidence += " and " if worst.overflow else ""
            evidence += (
                f"each step multiplies the gradient by {worst.fade:.3g} (geometric mean), together by "
                f"{worst.growth:.1e} over the steps that were measured"
            )
        yield _names(found), f"{evidence}: the first steps outweigh all others in the gradient of the weights."


def _unexplained(measured: Measured) -> list[LayerSteps]:
    """Return the layers for which no cause of a vanishing or exploding gradient is named."""
    at_start = measured.first_update is not None
    return [
        layer
        for layer in measured.recurrent
        if not (is_closed(layer) or saturated_gates(layer, at_start=at_start) or equal_norms(layer))
    ]


def _mean(line: Line) -> float:
    known = [each for each in line if each is not None]
    return sum(known) / len(known) if known else math.nan


def _names(layers: Sequence[LayerSteps]) -> str:
    return ", ".join(dict.fromkeys(layer.name for layer in layers))


def _count(found: Sequence[object]) -> str:
    return "1 layer" if len(found) == 1 else f"{len(found)} layers"


_RULES: tuple[tuple[str, str, Callable[[Measured], Iterator[tuple[str, str]]], str], ...] = (
    (
        "forget_gate_closed",
        "A recurrent layer forgets its state at every step",
        _forget_gate_closed,
        "Start with a bias of 1 or 2 at the forget gate (normscope.LSTM has forget_bias; of torch's LSTM the second "
        "quarter of the biases, of a GRU the second third); check what the biases were set to.",
    ),
    (
        "gates_saturated",
        "Gates of a recurrent layer are saturated",
        _gates_saturated,
        "Before training, start with smaller weights (torch's are within 1 / sqrt(hidden size)), scale the input to a "
        "size of one, or use a norm inside (normscope.LSTM, GRU, RNN). In a trained model, try a smaller learning rate "
        "and gradient clipping.",
    ),
    (
        "norm_of_equal_entries",
        "A norm between steps divides by eps alone",
        _norm_of_equal_entries,
        "Such rows come from states of zero, inputs of zero and no bias. Give the layer biases, or start the sequences "
        "where the input does, or learn the initial state from small random numbers (a learned state of zero is such a "
        "row); a larger eps limits the factor.",
    ),
    (
        "gradient_vanishes_over_steps",
        "The gradient vanishes over the steps of a recurrent layer",
        _vanishes,
        "For an LSTM, start with a larger bias of the forget gate, up to the logarithm of the distance to remember; "
        "for a GRU, of the update gate; for an RNN, with orthogonal recurrent weights, or use an LSTM. Norms inside, a "
        "loss at every step, the mean of the outputs in the place of the last, or shorter sequences help as well.",
    ),
    (
        "gradient_explodes_over_steps",
        "The gradient explodes over the steps of a recurrent layer",
        _explodes,
        "Clip the gradient (torch.nn.utils.clip_grad_norm_), and start with smaller or orthogonal recurrent weights, "
        "or smaller gains of the norm of W_h h; truncated back-propagation limits the number of steps.",
    ),
)

RECURRENT_CAUSES = tuple(
    Cause(name=name, title=title, rule=rule, remedy=remedy) for name, title, rule, remedy in _RULES
)
"""The causes in recurrent layers, in the order of the page."""
