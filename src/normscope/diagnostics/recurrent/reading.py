"""Plain-text interpretation of the steps of recurrent layers."""

import math
from itertools import zip_longest

from normscope.diagnostics.measured import Measured
from normscope.diagnostics.recurrent.profile import LayerSteps, Line, NormSteps
from normscope.diagnostics.recurrent.rules import equal_norms, is_closed, saturated_gates

FADED = 0.01
"""Share of a gradient that counts as faded in a reading."""

SMALL_SHARE = 0.005
"""Share of saturated or closed entries below which a reading does not mention them."""


def read_steps(measured: Measured) -> str:
    """Write one line per layer and direction, and last what the numbers mean; empty without recurrent layers."""
    lines = [_of_layer(layer) for layer in measured.recurrent]
    if measured.unseen:
        each = ", ".join(f"{name or 'the model'} ({why})" for name, why in measured.unseen.items())
        lines.append(f"Not measured step by step: {each}.")
    if measured.recurrent:
        lines.append(_meaning(measured))
    return "\n".join(lines)


def _of_layer(layer: LayerSteps) -> str:
    text = f"{layer.name}: {layer.kind}, {_count(layer.steps, 'step')}, {_count(layer.sequences, 'sequence')}"
    text += ", from the last step to the first" if layer.reverse else ""
    text += f"; h {_ends(layer.h, layer)}"
    text += f", c {_ends(layer.c, layer)}" if layer.c else ""
    text += f"; gradient of h {_ends(layer.gradient_h, layer)}"
    text += f", of c {_ends(layer.gradient_c, layer)}" if layer.gradient_c else ""
    if layer.fade is not None:
        text += f"; each step back multiplies it by {layer.fade:.3g} (geometric mean)"
        if layer.fade < 1 and (steps := math.log(FADED) / math.log(layer.fade)) < layer.steps:
            text += f", to {FADED:.0%} within {_count(math.ceil(steps), 'step')}"
    reached = sum(bool(h or c) for h, c in zip_longest(layer.gradient_h, layer.gradient_c))
    if reached < layer.steps:
        text += f"; a gradient that is not zero reaches {reached} of the steps"
    for what, lines in (("saturated", layer.saturated), ("closed", layer.closed)):
        shares = [(gate, share) for gate, line in lines.items() if (share := _mean(line)) >= SMALL_SHARE]
        if shares:
            text += f"; {what}: " + ", ".join(f"{gate} {share:.0%}" for gate, share in shares)
    return f"{text}.{''.join(map(_of_norm, layer.norms))}"


def _of_norm(norm: NormSteps) -> str:
    deviations = [each for each in norm.deviation if each is not None]
    if not deviations:
        return ""
    text = f" {norm.name}: deviation of a row {_three(min(deviations))} to {_three(max(deviations))}, "
    text += f"|mean| / deviation {_three(_mean(norm.ratio))} on average"
    below = sum(each is not None and each > 0 for each in norm.below_eps)
    return f"{text}, rows with a variance below eps in {_count(below, 'step')}." if below else f"{text}."


def _meaning(measured: Measured) -> str:
    at_start = measured.first_update is not None
    text = (
        "Sizes are root mean squares, from the first step to the last. The factor of each step is that of the path "
        "from state to state: below one, what a loss says reaches back a few steps only; above one, the gradient of "
        "the first steps grows with the length of the sequence. A saturated gate (a sigmoid below 0.05 or above 0.95, "
        "a tanh beyond 0.95) passes on almost no gradient; a forget or update gate that is open remembers."
    )
    if any(layer.norms for layer in measured.recurrent):
        text += (
            " The norm of W_h h reads zeros where a sequence starts at a state of zero, which does no harm: no "
            "gradient goes on from there."
        )
    causes = any(
        is_closed(layer) or saturated_gates(layer, at_start=at_start) or equal_norms(layer)
        for layer in measured.recurrent
    )
    return f"{text} Where a cause is named above, begin there." if causes else text


def _ends(line: Line, layer: LayerSteps) -> str:
    """Write the first and the last known number."""
    known = [each for each in line if each is not None]
    if not known:
        return "unknown"
    return _three(known[0]) if layer.steps == 1 else f"{_three(known[0])} to {_three(known[-1])}"


def _mean(line: Line) -> float:
    known = [each for each in line if each is not None]
    return sum(known) / len(known) if known else math.nan


def _three(number: float) -> str:
    return f"{number:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
