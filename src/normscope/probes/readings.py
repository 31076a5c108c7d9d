"""A reading in words for every instrument: what its numbers mean, what usually causes them, what to try."""

from collections.abc import Callable
from statistics import median

from normscope.probes.depth import LARGEST_FADE, LARGEST_GROWTH
from normscope.probes.findings import Measured, lacks_warm_up

CALIBRATION = {"configurations": 36, "predictor": 29, "constant": 28}
"""Small transformers trained with and without warm-up, and of how many it was told rightly whether they need it.

Out of sample, by a threshold on what the first update does, and by saying that none does: 6 to 5 where they differ.
``./run bench warmup`` measures it, docs/results/warmup has the table, and a test compares these numbers with it.
"""


def read(measured: Measured) -> dict[str, str]:
    """Write the readings, by the name of the instrument; an instrument that saw nothing says so."""
    return {name: reading(measured) for name, reading in READINGS.items()}


def _gradients(measured: Measured) -> str:
    told = measured.gradients
    if not told:
        return "No norm with a gradient was called, so there is nothing to say about re-centering and re-scaling."
    by_size = max(told, key=lambda each: each.recentering + each.rescaling)
    errors = [each.law_error for each in told if each.law_error is not None]
    law = (
        f"The law of the gradient's variance was checked at {len(errors)} norms and holds to {max(errors):.1e}."
        if errors
        else "The law of the gradient's variance could not be checked here."
    )
    chance = median(1 / each.width for each in told)
    return (
        f"Over {len(told)} norms the median share of the gradient that re-centering takes out is "
        f"{median(each.recentering for each in told):.1%}, and re-scaling "
        f"{median(each.rescaling for each in told):.1%}; "
        f"a gradient without direction would have {chance:.1%} of each. The most goes at {by_size.name}: "
        f"{by_size.recentering:.1%} and {by_size.rescaling:.1%}. {law} "
        "A large first share means that a loss pulls all features of a position the same way, which LayerNorm and "
        "AdaNorm remove and RMSNorm and DetachNorm let through; a large second share means that it pulls the input to "
        "be larger or smaller, which all but DetachNorm remove. A small share is no proof that a derivative is idle: "
        "over many steps re-scaling is what keeps an input from growing. In two models where DetachNorm trained much "
        "worse than LayerNorm, inputs of its norms had become up to 20 and 110 times as large, though the median "
        "shares were a few percent. To know, compare the norms side by side."
    )


def _depth(measured: Measured) -> str:
    if not measured.stacks:
        return "No stack of layers was found: a depth profile needs layers in a ModuleList, a Sequential or a row."
    parts = []
    for stack in measured.stacks:
        name = stack.name or "the model"
        words = f"{name}: {len(stack.layers)} layers, norms {_PLACES[stack.placement]}; the output grows "
        words += f"{stack.growth:.3g} times over the second half ({'pass' if stack.passes['activation'] else 'fail'}"
        words += f", at most {LARGEST_GROWTH:g})"
        if stack.gradient_ratio is not None:
            words += f", the gradient is {stack.gradient_ratio:.3g} times as large at the end as at the beginning "
            words += f"({'pass' if stack.passes['gradient'] else 'fail'}, within {LARGEST_FADE:g} times)"
        parts.append(words + ".")
    return (
        " ".join(parts)
        + " An output that grows by a factor a layer comes from branches that are neither normalized nor "
        "scaled; a gradient that fades towards the input from norms on the stream itself, a factor of 0.8 "
        "a layer in theory, "
        "and makes the first layers learn last. Norms in the branches with one at the end, smaller "
        "branches, or warm-up "
        "are what to try. The broken lines are theory for an ideal network at initialization, not a standard."
    )


def _range(measured: Measured) -> str:
    told = measured.ranges
    if not told:
        return "No norm was called, so nothing is said about numbers that reach it."
    largest = max(told, key=lambda each: each.overflow)
    divided = [each for each in told if each.smallest_variance is not None]
    words = (
        f"The largest entry that reaches a norm is {largest.largest:.3g} at {largest.name}, {largest.overflow:.1%} of "
    )
    words += f"what {largest.precision} can hold. "
    if divided:
        smallest = min(divided, key=lambda each: each.smallest_variance or 0.0)
        words += f"The smallest variance of a row is {smallest.smallest_variance:.2g} at {smallest.name}, "
        words += f"where eps is {smallest.eps:g}. " if smallest.eps is not None else "where there is no eps. "
    vanish = sum(each.eps_vanishes for each in told)
    if vanish:
        words += f"In {vanish} norms eps is zero once it is rounded to that precision. "
    biased = [each for each in told if each.bias_share is not None]
    if biased:
        most = max(biased, key=lambda each: each.bias_share or 0.0)
        words += f"The bias makes at most {most.bias_share:.1%} of a norm's output ({most.name}). "
    decayed = [each for each in told if each.decay]
    if decayed:
        words += (
            f"The optimizer decays the parameters of {len(decayed)} of {len(told)} norms: gains are pulled towards "
        )
        words += "zero, which most recipes leave out. "
    elif any(each.decay is not None for each in told):
        words += "The optimizer decays no norm's parameters. "
    return (
        words
        + "Entries near the limit come from a stream that grows unnormalized: bfloat16, or a norm on the stream. Rows "
        "with a variance below eps leave a norm small; they come from padding and dead units. A bias that "
        "makes most of an "
        "output means that the norm passes little of its input on."
    )


def _first_update(measured: Measured) -> str:
    told = measured.first_update
    if told is None:
        return (
            "No first update was tried: that needs a learning rate, or an optimizer, and a model whose training "
            "has not begun."
        )
    verdict = (
        "Whether warm-up is needed is not told from these numbers: of "
        f"{CALIBRATION['configurations']} small transformers trained with and without, a rule on them was right about "
        f"{CALIBRATION['predictor']} that it was not fitted to, and saying that none needs it about "
        f"{CALIBRATION['constant']}, which is no more than chance."
    )
    if lacks_warm_up(measured):
        verdict = f"It replaces the function and makes positions agree, which is named as a cause. {verdict}"
    return (
        f"A first update at a learning rate of {told['learning_rate']:.3g} takes the loss from "
        f"{told['loss_before']:.4g} to "
        f"{told['loss_after']:.4g} (to first order it would fall by {told['predicted_decrease']:.3g}), "
        "changes the last "
        f"layer's output by {told['output_change']:.0%} and the typical matrix by {told['update_ratio']:.1%}; "
        f"{told['common_after']:.1%} of the output is then the same at all positions, "
        f"{told['common_before']:.1%} before. "
        f"{verdict} A change that is amplified from layer to layer comes from norms on the residual stream; a warm-up, "
        "or a smaller learning rate, makes the first steps small."
    )


_PLACES = {
    "post": "on the stream (post)",
    "pre": "in the branches (pre)",
    "mixed": "in different places",
    "none": "elsewhere or not at all",
}

READINGS: dict[str, Callable[[Measured], str]] = {
    "gradients": _gradients,
    "depth": _depth,
    "first_update": _first_update,
    "range": _range,
}
"""By the name of the instrument, in the order of the page."""
