"""A reading in words for every instrument: what its numbers mean, what usually causes them, what to try."""

import math
from collections.abc import Callable, Sequence
from statistics import median

from normscope.diagnostics.depth.profile import LARGEST_FADE, LARGEST_GROWTH, StackDepth
from normscope.diagnostics.rules import Measured, lacks_warm_up

CALIBRATION = {"configurations": 36, "predictor": 29, "constant": 28}
"""Small transformers trained with and without warm-up, and of how many it was told rightly whether they need it.

Out of sample, by a threshold on what the first update does, and by saying that none does: 6 to 5 where they differ.
``./run bench warmup`` measures it, docs/results/warmup has the table, and a test compares these numbers with it.
"""


LAW_HOLDS = 0.02
"""Relative error up to which the law of the gradient's variance is said to hold; bfloat16 keeps it within 0.01."""

FADES = 2.0
"""Factor on the gradient from the first to the last layer, or back, from which the words are about it."""

FAR_BELOW = 1e-7
"""Share of the largest number of a precision below which it is no matter how far."""


def read(measured: Measured) -> dict[str, str]:
    """Write the readings, by the name of the instrument; an instrument that saw nothing says so.

    Each is one paragraph a line: first what was seen, last what that means, what usually causes it and what to try.
    """
    return {name: reading(measured) for name, reading in READINGS.items()}


def _gradients(measured: Measured) -> str:
    told = measured.gradients
    if not told:
        return _nothing_of_gradients(measured)
    by_size = max(told, key=lambda each: each.recentering + each.rescaling)
    names = {each.name for each in told}
    calls = f" ({len(told)} calls)" if len(told) > len(names) else ""
    return (
        f"Over {_count(names, 'norm')}{calls} the median share of the gradient that lies along the constant vector, "
        f"the direction of re-centering, is {_percent(median(each.recentering for each in told))}, and along the "
        f"centered input, that of re-scaling, {_percent(median(each.rescaling for each in told))}; "
        f"a gradient without direction would have {_percent(median(1 / each.width for each in told))} along each. "
        f"The most lies there at {by_size.name or 'the model'}: {_percent(by_size.recentering)} and "
        f"{_percent(by_size.rescaling)}. {_taken_out(measured)} {_law(measured)}{_left_out(measured)}\n"
        "A large first share means that a loss pulls all features of a position the same way, which LayerNorm and "
        "AdaNorm remove and RMSNorm and DetachNorm let through; a large second share means that it pulls the input to "
        "be larger or smaller, which LayerNorm, AdaNorm and nearly all of it RMSNorm remove. A small share is no proof "
        "that a derivative is idle: "
        "over many steps re-scaling is what keeps an input from growing. In two models where DetachNorm trained much "
        "worse than LayerNorm, inputs of its norms had become more than 20 and 100 times as large, though the median "
        "shares were a few percent. To know, compare the norms side by side."
    )


def _nothing_of_gradients(measured: Measured) -> str:
    if not measured.lost:
        called = (
            "No norm with a gradient was called" if not measured.ranges else "No norm that was called has a gradient"
        )
        return f"{called}, so there is nothing to say about re-centering and re-scaling."
    names = {each.name for each in measured.lost}
    return (
        f"No usable gradient came to {_count(names, 'norm')} ({_reasons(measured)}), so there is nothing to say about "
        "re-centering and re-scaling."
    )


def _taken_out(measured: Measured) -> str:
    """Say how many of the norms remove what the shares are of."""
    removes = {each.name: each.removes for each in measured.gradients}
    both = sum("recentering" in parts and "rescaling" in parts for parts in removes.values())
    first = sum("recentering" in parts and "rescaling" not in parts for parts in removes.values())
    second = sum("rescaling" in parts and "recentering" not in parts for parts in removes.values())
    along = sum("along_x" in parts for parts in removes.values())
    none = sum(not parts for parts in removes.values())
    said = {
        "both parts": both,
        "only the first": first,
        "only the second": second,
        "the part along the input as it is, uncentered, instead": along,
        "neither": none,
    }
    what = [parts for parts, count in said.items() if count]
    if len(what) == 1:
        return f"This norm removes {what[0]}." if len(removes) == 1 else f"All {len(removes)} norms remove {what[0]}."
    parts = [f"{said[part]} remove{'s' * (said[part] == 1)} {part}" for part in what]
    return f"Of these {len(removes)} norms {', '.join(parts)}."


def _law(measured: Measured) -> str:
    """Say how far off the law of the variance is, and where it was not checked."""
    checked = [each for each in measured.gradients if each.law_error is not None]
    small = sum(
        each.law_error is None and each.law_variance is not None and each.arriving_variance is not None
        for each in measured.gradients
    )
    words = "The law of the gradient's variance could not be checked here"
    if checked:
        worst = max(checked, key=lambda each: each.law_error or 0.0)
        at = _count({each.name for each in checked}, "norm")
        off = worst.law_error or 0.0
        words = f"The law of the gradient's variance was checked at {at} and "
        words += f"holds to {off:.1e}" if off <= LAW_HOLDS else f"is off by {off:.1e} at most, at {worst.name}"
    if small:
        words += f"; at {_count(range(small), 'call')} gradients are too small for it to be checked"
    return f"{words}."


def _left_out(measured: Measured) -> str:
    if not measured.lost:
        return ""
    calls = _count(measured.lost, "call")
    return f" {calls} of norms had no usable gradient ({_reasons(measured)}) and {_are(measured.lost)} left out."


def _reasons(measured: Measured) -> str:
    """Count the calls without a usable gradient by the reason."""
    whys = [each.why for each in measured.lost]
    return ", ".join(f"{_LOST[why]} at {whys.count(why)}" for why in dict.fromkeys(whys))


def _depth(measured: Measured) -> str:
    if not measured.stacks:
        return "No stack of layers was found: a depth profile needs layers in a ModuleList, a Sequential or a row."
    stacks = measured.stacks
    meaning = [words for stack in stacks for words in (_of_growth(stack), _of_gradient(stack)) if words]
    if any(stack.theory for stack in stacks):
        meaning.append("The broken lines are theory for an ideal network at initialization, not a standard.")
    seen = [_of_stack(stack) for stack in stacks]
    return "\n".join([*seen, " ".join(dict.fromkeys(meaning))] if meaning else seen)


def _of_stack(stack: StackDepth) -> str:
    """Say the numbers of a stack, with a judgement where there is a law for it."""
    words = f"{stack.name or 'the model'}: {len(stack.layers)} layers, norms {_PLACES[stack.placement]}"
    if not math.isfinite(stack.growth):
        words += "; sizes behind its layers are not finite"
    else:
        words += f"; the output grows {_three(stack.growth)} times over the second half"
        if _sums_up(stack):
            words += f" ({'pass' if stack.passes['activation'] else 'fail'}, at most {LARGEST_GROWTH:g})"
    if stack.gradient_ratio is not None and math.isfinite(stack.gradient_ratio):
        words += f", the gradient is {_three(stack.gradient_ratio)} times as large at the end as at the beginning"
        if stack.residual:
            words += f" ({'pass' if stack.passes['gradient'] else 'fail'}, within {LARGEST_FADE:g} times)"
    elif stack.gradient_ratio is not None:
        words += ", and its gradients are not finite"
    return f"{words}."


def _sums_up(stack: StackDepth) -> bool:
    """Whether the limit on growth is about such a stack: branches add up on a stream that no norm resets."""
    return stack.residual and stack.placement != "post"


def _of_growth(stack: StackDepth) -> str:
    growth = stack.growth
    if not math.isfinite(growth):
        return ""
    if _sums_up(stack) and not stack.passes["activation"]:
        return (
            "A stream that grows by a factor a layer comes from branches that are neither normalized nor scaled: "
            "norms in the branches with one at the end, or smaller branches, are what to try."
        )
    if not stack.residual and not 1 / LARGEST_GROWTH <= growth <= LARGEST_GROWTH:
        return (
            "Layers that do not carry their input on give out what their weights, and a norm behind them, make of it, "
            "and may differ in size by their place; where it grows or shrinks layer by layer, look at how they begin."
        )
    return ""


def _of_gradient(stack: StackDepth) -> str:
    ratio = stack.gradient_ratio
    if ratio is None or not math.isfinite(ratio) or 1 / FADES < ratio < FADES:
        return ""
    if ratio < 1:
        if stack.passes["gradient"]:
            return ""
        return (
            "A gradient that grows towards the input comes from layers that each multiply it, and makes the first "
            "layers take the largest steps: smaller branches, or norms, keep it even."
        )
    if stack.placement == "post":
        return (
            "A gradient that fades towards the input makes the first layers learn last; with norms on the stream "
            "theory has a factor of 0.8 a layer. Norms in the branches with one at the end, or warm-up, are what to "
            "try."
        )
    if stack.passes["gradient"]:
        return ""
    return (
        "A gradient that fades towards the input makes the first layers learn last; here no norm on the stream does "
        "it, but what the layers themselves multiply it by: a residual, or larger first weights, are what to try."
    )


def _range(measured: Measured) -> str:
    told = measured.ranges
    if not told:
        return "No norm was called, so nothing is said about numbers that reach it."
    finite = [each for each in told if math.isfinite(each.largest)]
    words = ""
    if finite:
        largest = max(finite, key=lambda each: each.overflow)
        words += f"The largest entry that reaches a norm is {largest.largest:.3g} at {largest.name or 'the model'}, "
        share = _percent(largest.overflow) if largest.overflow >= FAR_BELOW else "far below a millionth"
        words += f"{share} of what {largest.precision} can hold. "
    if len(finite) < len(told):
        words += f"What reaches {_count(range(len(told) - len(finite)), 'norm')} is not finite. "
    divided = [each for each in finite if each.smallest_variance is not None and math.isfinite(each.smallest_variance)]
    if divided:
        smallest = min(divided, key=lambda each: each.smallest_variance or 0.0)
        words += (
            f"The smallest variance of a row is {smallest.smallest_variance:.2g} at {smallest.name or 'the model'}, "
        )
        words += f"where eps is {smallest.eps:.3g}. " if smallest.eps is not None else "where there is no eps. "
    vanish = sum(each.eps_vanishes for each in told)
    if vanish:
        words += f"In {_count(range(vanish), 'norm')} eps is zero once it is rounded to that precision. "
    biased = [each for each in told if each.bias_share is not None and math.isfinite(each.bias_share)]
    if biased:
        most = max(biased, key=lambda each: each.bias_share or 0.0)
        words += f"The bias makes at most {_percent(most.bias_share or 0.0)} of a norm's output"
        words += f" ({most.name or 'the model'}). "
    decayed = [each for each in told if each.decay]
    if decayed:
        words += (
            f"The optimizer decays the parameters of {len(decayed)} of {_count(told, 'norm')}: gains are pulled "
            "towards zero, which most recipes leave out. "
        )
    elif any(each.decay is not None for each in told):
        words += "The optimizer decays no norm's parameters. "
    return (
        f"{words.rstrip()}\n"
        "Entries near the limit come from a stream that grows unnormalized: bfloat16, or a norm on the stream. Rows "
        "with a variance below eps leave a norm small; they come from padding and dead units. A bias that makes most "
        "of an output means that the norm passes little of its input on."
    )


def _first_update(measured: Measured) -> str:
    told = measured.first_update
    if told is None:
        why = measured.not_tried or (
            "that needs a learning rate, or an optimizer, and a model whose training has not begun"
        )
        return f"No first update was tried: {why}."
    verdict = (
        "Whether warm-up is needed is not told from these numbers: of "
        f"{CALIBRATION['configurations']} small transformers trained with and without, a rule on them was right about "
        f"{CALIBRATION['predictor']} that it was not fitted to, and saying that none needs it about "
        f"{CALIBRATION['constant']}, which is no more than chance."
    )
    if lacks_warm_up(measured):
        verdict = f"It replaces the function and makes positions agree, which is named as a cause. {verdict}"
    known = {name: value for name, value in told.items() if math.isfinite(value)}
    words = f"A first update at a learning rate of {told['learning_rate']:.3g} takes the loss from "
    words += f"{told['loss_before']:.4g} to "
    words += f"{known['loss_after']:.4g}" if "loss_after" in known else "what is not finite"
    if "predicted_decrease" in known:
        words += f" (to first order it would fall by {told['predicted_decrease']:.3g})"
    changes = []
    if "output_change" in known:
        changes.append(f"the last layer's output by {_percent(told['output_change'])}")
    if "update_ratio" in known:
        changes.append(f"the typical matrix by {_percent(told['update_ratio'])}")
    if changes:
        words += f" and changes {' and '.join(changes)}"
    if {"common_after", "common_before"} <= set(known):
        words += f"; {told['common_after']:.1%} of that output is then the same at all positions, "
        words += f"{told['common_before']:.1%} before"
    if told["layers"] > 0 and "output_change" not in known:
        words += (
            ". How far it changes the last layer's output cannot be told: it changed which layers are called, or on "
        )
        words += "how many rows, or an output was zero or not finite"
    after = ""
    if told["post"] > 0:
        after = " A change that is amplified from layer to layer comes from norms on the residual stream."
    return f"{words}.\n{verdict}{after} A warm-up, or a smaller learning rate, makes the first steps small."


def _three(number: float) -> str:
    """Write a number with three digits that count, 1.00 as well."""
    return f"{number:#.3g}".rstrip(".")


def _percent(share: float) -> str:
    """Write a share in percent with three digits that count."""
    return f"{100 * share:.3g}%"


def _count(things: Sequence[object] | set[str], one: str) -> str:
    return f"{len(things)} {one}{'s' * (len(things) != 1)}"


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


_LOST = {
    "not finite": "not finite",
    "input not finite": "an input that is not finite",
    "zero": "zero",
    "overwritten": "an input that was overwritten",
    "none": "none came back",
}
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
