"""Texts of the page of a diagnosis: headings, names and units of its numbers, and the caption of every figure."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Literal

from normscope.report.drawing.svg import describe

TITLES = {
    "gradients": "Re-centering and re-scaling",
    "depth": "Sizes by depth",
    "recurrent": "Recurrent layers, step by step",
    "first_update": "The first update",
    "range": "Numbers that reach the norms",
}
"""Headings of the instruments."""

REMOVES = {
    ("recentering", "rescaling"): "both",
    ("recentering",): "re-centering",
    ("rescaling",): "re-scaling",
    ("along_x",): "along x",
    (): "neither",
}
"""Which of the two shares a norm removes; ``along x``: the part along its uncentered input instead."""

UPDATE = {
    "learning_rate": ("Learning rate", ""),
    "layers": ("Layers", ""),
    "post": ("Layers with norms on the stream", "%"),
    "pre": ("Layers with norms in the branches", "%"),
    "gradient_ratio": ("Gradient at the last layer over that at the first", "times"),
    "gradient_slope": ("Growth of the gradient, logarithm", "per layer"),
    "weight_gradient_ratio": ("Weights' gradient in the last layer over that in the first", "times"),
    "update_ratio": ("Update of the typical matrix, of its size", "%"),
    "loss_before": ("Loss before", ""),
    "loss_after": ("Loss after", ""),
    "predicted_decrease": ("Decrease of the loss, to first order", ""),
    "decrease_ratio": ("Decrease over that to first order", "times"),
    "output_change": ("Change of the last layer's output, of its size", "%"),
    "output_change_slope": ("Growth of that change, logarithm", "per layer"),
    "common_before": ("Same at all positions before", "%"),
    "common_after": ("Same at all positions after", "%"),
}
"""Names and units of the numbers of a first update."""

THROUGH_TRAINING = (
    "Each line is a norm, each column a step. A line that stays dark is a place where much of the gradient lies in the "
    "directions that the derivatives of the moments remove, if the norm has them, throughout; one that turns dark late "
    "often comes with a loss that stops falling. Try another norm there, or a smaller learning rate, and compare."
)
GROWING_INPUTS = (
    "Where an input grows, the gradient that comes back through its norm is divided by more: training slows down there "
    "as with a smaller learning rate. The derivative of the deviation removes the part of the gradient that makes an "
    "input larger or smaller; without it, without weight decay, or with a large learning rate the input grows. A norm "
    "that has this derivative, weight decay, or a smaller learning rate are worth trying."
)

Size = Literal["activation", "gradient"]


def caption_shares(norms: Sequence[Mapping[str, Any]]) -> str:
    """Describe where the gradient lies, and at which norm the largest part."""
    most = max(norms, key=lambda each: each["recentering"] + each["rescaling"])
    return (
        f"{count(norms)}; the most at {most['name'] or 'the model'}: re-centering "
        f"{describe(100 * most['recentering'], '%')}, re-scaling {describe(100 * most['rescaling'], '%')}. A share is "
        "the part of the gradient along one of the two directions; the table shows which norms remove it. The dotted "
        "line is the share of a gradient of random direction."
    )


def caption_side_by_side(norms: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Describe the average part of the gradient that each of the norms in ``labels`` would pass on."""
    words = ", ".join(
        f"{label} {describe(mean(100 * each['beside'][key] for each in norms), '%')}" for key, label in labels.items()
    )
    return (
        f"On average: {words}. Every point is the same gradient at one place, passed through another norm over the "
        "features of each position, independently of the norm that the model has there."
    )


def caption_by_depth(stack: Mapping[str, Any], what: Size) -> str:
    """Describe the sizes at both ends of a stack, and the broken lines if there are any."""
    values = [layer[what] for layer in stack["layers"] if layer[what]]
    words = (
        f"{len(values)} layers of {stack['name'] or 'the model'}, root mean square of the {what}: from "
        f"{describe(values[0], '')} at the first to {describe(values[-1], '')} at the last."
    )
    if not theory_lines(stack, what):
        return words
    return f"{words} The broken lines are theory for an ideal network at initialization, not a standard."


def theory_lines(stack: Mapping[str, Any], what: Size) -> dict[str, Sequence[float]]:
    """Return the theoretical lines of a stack that are known at every layer."""
    return {key: line for key, line in stack["theory"].items() if key.startswith(what) and None not in line}


def caption_ranges(norms: Sequence[Mapping[str, Any]]) -> str:
    """Describe the smallest variance, and at how many norms it is smaller than eps."""
    worst = min(norms, key=lambda each: each["smallest_variance"])
    below = [each for each in norms if each["eps"] is not None and each["smallest_variance"] < each["eps"]]
    words = f"The smallest variance is {describe(worst['smallest_variance'], '')} at {worst['name'] or 'the model'}."
    return f"{words} It is below eps at {len(below)} of {count(norms)}: where it is, eps makes the output small."


def caption_heat(steps: int, lines: int, norms: int, largest: float) -> str:
    """Describe the size of the heat map and its largest share."""
    words = f"{count(range(norms))} over {steps} measured steps; the largest share is {describe(100 * largest, '%')}."
    words += " The darker, the more of the gradient lies in the directions of both derivatives together."
    return words if lines == norms else f"{words} Neighbouring norms share a line, which shows their mean."


def count(norms: Sequence[Any]) -> str:
    """Write a number of norms."""
    return "1 norm" if len(norms) == 1 else f"{len(norms)} norms"
