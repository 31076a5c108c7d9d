"""What each picture of a diagnosis shows, in a sentence or two: under the picture, and for who cannot see it."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from normscope.report.drawing.svg import describe


def shares(norms: Sequence[Mapping[str, Any]]) -> str:
    """Say where the gradient lies, and at which norm the most."""
    most = max(norms, key=lambda each: each["recentering"] + each["rescaling"])
    return (
        f"{count(norms)}; the most at {most['name'] or 'the model'}: re-centering "
        f"{describe(100 * most['recentering'], '%')}, re-scaling {describe(100 * most['rescaling'], '%')}. A share is "
        "what lies along the two directions; the table says which norms remove it. The dotted line is a gradient "
        "without direction."
    )


def side_by_side(norms: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Say what each of the norms in ``labels`` would let through on average."""
    words = ", ".join(
        f"{label} {describe(mean(100 * each['beside'][key] for each in norms), '%')}" for key, label in labels.items()
    )
    return (
        f"On average: {words}. Every point is the same gradient at one place, put through another norm, over the "
        "features of each position, whatever stands there now."
    )


def by_depth(stack: Mapping[str, Any], what: str) -> str:
    """Say the sizes at both ends of a stack, and what the broken lines are where there are some."""
    values = [layer[what] for layer in stack["layers"] if layer[what]]
    words = (
        f"{len(values)} layers of {stack['name'] or 'the model'}, root mean square of the {what}: from "
        f"{describe(values[0], '')} at the first to {describe(values[-1], '')} at the last."
    )
    return f"{words} Broken: theory at initialization." if lines_of(stack, what) else words


def ranges(norms: Sequence[Mapping[str, Any]]) -> str:
    """Say the smallest variance, and where an eps is larger than it."""
    worst = min(norms, key=lambda each: each["smallest_variance"])
    below = [each for each in norms if each["eps"] is not None and each["smallest_variance"] < each["eps"]]
    words = f"The smallest variance is {describe(worst['smallest_variance'], '')} at {worst['name'] or 'the model'}."
    return f"{words} It is below eps at {len(below)} of {count(norms)}: where it is, eps makes the output small."


def through_training(steps: int, lines: int, norms: int, largest: float) -> str:
    """Say how much is in the picture, and how dark it gets."""
    words = f"{count(range(norms))} over {steps} measured steps; the largest share is {describe(100 * largest, '%')}."
    words += " The darker, the more of the gradient lies in the directions of both derivatives together."
    return words if lines == norms else f"{words} Neighbouring norms share a line, which shows their mean."


def lines_of(stack: Mapping[str, Any], what: str) -> dict[str, Sequence[float]]:
    """Give the lines of theory of a stack that can be drawn."""
    return {key: line for key, line in stack["theory"].items() if key.startswith(what) and None not in line}


def count(norms: Sequence[Any]) -> str:
    """Count norms in words."""
    return "1 norm" if len(norms) == 1 else f"{len(norms)} norms"
