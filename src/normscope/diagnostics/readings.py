"""Plain-text interpretation of every group of measurements: what they show, what that means, and what to try."""

import math
from collections.abc import Callable, Sized
from statistics import median

from normscope.diagnostics.depth.profile import LARGEST_FADE, LARGEST_GROWTH, StackDepth
from normscope.diagnostics.measured import Measured
from normscope.diagnostics.recurrent.reading import read_steps
from normscope.diagnostics.rules import lacks_warm_up

CALIBRATION = {"configurations": 36, "predictor": 29, "constant": 28}
"""Number of transformers trained with and without warm-up, and how many of them two rules classify correctly.

``predictor`` is a threshold on the effect of the first update, evaluated out of sample; ``constant`` predicts that no
model needs warm-up. Where they differ, the predictor is right 6 to 5 times. ``./run bench warmup``
measures these numbers, docs/results/warmup has the table, and a test compares the two.
"""

LAW_HOLDS = 0.02
"""Relative error up to which the law of the gradient variance counts as confirmed; in bfloat16 it is within 0.01."""

FADES = 2.0
"""Ratio of the gradients at the first and the last layer from which the reading mentions it."""

FAR_BELOW = 1e-7
"""Share of the largest representable number below which its exact value is not reported."""


def read(measured: Measured) -> dict[str, str]:
    """Return the readings by the keys of :data:`READINGS`.

    Each has one paragraph per line: first the measurements, last what they mean, their usual causes and what to try. If
    nothing was measured, the reading is one sentence that says so; that of recurrent layers is left out.
    """
    texts = {name: reading(measured) for name, reading in READINGS.items()}
    return {name: text for name, text in texts.items() if text}


def _gradients(measured: Measured) -> str:
    gradients = measured.gradients
    if not gradients:
        return _without_gradients(measured)
    largest = max(gradients, key=lambda each: each.recentering + each.rescaling)
    names = {each.name for each in gradients}
    calls = f" ({len(gradients)} calls)" if len(gradients) > len(names) else ""
    return (
        f"Over {_count(names, 'norm')}{calls} the median share of the gradient along the constant vector (the "
        f"direction of re-centering) is {_percent(median(each.recentering for each in gradients))}, and along the "
        f"centered input (the direction of re-scaling) {_percent(median(each.rescaling for each in gradients))}; a "
        f"gradient of random direction has {_percent(median(1 / each.width for each in gradients))} along each. The "
        f"largest shares are at {largest.name or 'the model'}: {_percent(largest.recentering)} and "
        f"{_percent(largest.rescaling)}. {_removed(measured)} {_law(measured)}{_left_out(measured)}\n"
        "A large first share means that the loss pulls all features of a position in the same direction; LayerNorm and "
        "AdaNorm remove this part, RMSNorm and DetachNorm do not. A large second share means that the loss pulls the "
        "input to be larger or smaller; LayerNorm and AdaNorm remove this part, and RMSNorm almost all of it. A small "
        "share does not show that the derivative has no effect: over many steps, re-scaling keeps an input from "
        "growing. In two models where DetachNorm trained much worse than LayerNorm, the inputs of its norms had become "
        "more than 20 and 100 times as large, although the median shares were a few percent. To know which norm is "
        "better, compare them in training."
    )


def _without_gradients(measured: Measured) -> str:
    if not measured.lost:
        called = (
            "No norm that is recognized was called"
            if not measured.ranges
            else "No recognized norm that was called has a gradient"
        )
        return f"{called}, so re-centering and re-scaling were not measured. {_unrecognized(measured)}"
    names = {each.name for each in measured.lost}
    return (
        f"No usable gradient reached {_count(names, 'norm')} ({_reasons(measured)}), so re-centering and re-scaling "
        "were not measured."
    )


def _unrecognized(measured: Measured) -> str:
    """Return what may have run without being measured, and the way out."""
    text = "Norms of other kinds may have run"
    if measured.unmeasured:
        places = [each.name or "the model" for each in measured.unmeasured]
        text += f", such as {', '.join(places[:3])} ({_count(places, 'module or function')} that may be a norm)"
    return (
        f"{text}: a class that computes no layer norm or RMS norm is measured once it is registered in "
        "normscope.norms.NORMS, or as an entry point of the group normscope.norms."
    )


def _removed(measured: Measured) -> str:
    """Return how many of the norms remove the parts whose shares were measured."""
    removes = {each.name: each.removes for each in measured.gradients}
    both = sum("recentering" in parts and "rescaling" in parts for parts in removes.values())
    first = sum("recentering" in parts and "rescaling" not in parts for parts in removes.values())
    second = sum("rescaling" in parts and "recentering" not in parts for parts in removes.values())
    along = sum("along_x" in parts for parts in removes.values())
    neither = sum(not parts for parts in removes.values())
    counts = {
        "both parts": both,
        "only the first": first,
        "only the second": second,
        "the part along the uncentered input instead": along,
        "neither": neither,
    }
    present = [parts for parts, count in counts.items() if count]
    if len(present) == 1:
        norms = "This norm removes" if len(removes) == 1 else f"All {len(removes)} norms remove"
        return f"{norms} {present[0]}."
    parts = [f"{counts[part]} remove{'s' * (counts[part] == 1)} {part}" for part in present]
    return f"Of these {len(removes)} norms, {', '.join(parts)}."


def _law(measured: Measured) -> str:
    """Return the largest error of the law of the gradient variance, and where it was not checked."""
    checked = [each for each in measured.gradients if each.law_error is not None]
    small = sum(
        each.law_error is None and each.law_variance is not None and each.arriving_variance is not None
        for each in measured.gradients
    )
    text = "The law of the gradient variance could not be checked here"
    if checked:
        worst = max(checked, key=lambda each: each.law_error or 0.0)
        norms = _count({each.name for each in checked}, "norm")
        error = worst.law_error or 0.0
        text = f"The law of the gradient variance was checked at {norms} and "
        text += f"holds to {error:.1e}" if error <= LAW_HOLDS else f"is off by at most {error:.1e}, at {worst.name}"
    if small:
        text += f"; the gradients of {_count(range(small), 'call')} are too small to check it"
    return f"{text}."


def _left_out(measured: Measured) -> str:
    if not measured.lost:
        return ""
    calls = _count(measured.lost, "call")
    are = "is" if len(measured.lost) == 1 else "are"
    return f" {calls} of norms had no usable gradient ({_reasons(measured)}) and {are} left out."


def _reasons(measured: Measured) -> str:
    """Return the number of calls without a usable gradient, by reason."""
    whys = [each.why for each in measured.lost]
    return ", ".join(f"{_LOST[why]} at {whys.count(why)}" for why in dict.fromkeys(whys))


def _depth(measured: Measured) -> str:
    if not measured.stacks:
        return (
            "No stack of layers was found: a depth profile needs layers of one class, or of several in alternation, "
            "that are modules and run one after another."
        )
    stacks = measured.stacks
    meaning = [text for stack in stacks for text in (_of_growth(stack), _of_gradient(stack)) if text]
    seen = [_of_stack(stack) for stack in stacks]
    return "\n".join([*seen, " ".join(dict.fromkeys(meaning))] if meaning else seen)


def _of_stack(stack: StackDepth) -> str:
    """Return the numbers of a stack, with pass or fail where a limit applies."""
    text = f"{stack.name or 'the model'}: {len(stack.layers)} layers, norms {_PLACES[stack.placement]}"
    if not math.isfinite(stack.growth):
        text += "; the outputs of its layers are not finite"
    else:
        text += f"; the output grows {_three(stack.growth)} times over the second half"
        if _accumulates(stack):
            text += f" ({'pass' if stack.passes['activation'] else 'fail'}, at most {LARGEST_GROWTH:g})"
    if stack.gradient_ratio is not None and math.isfinite(stack.gradient_ratio):
        text += f", the gradient is {_three(stack.gradient_ratio)} times as large at the end as at the beginning"
        if stack.residual:
            text += f" ({'pass' if stack.passes['gradient'] else 'fail'}, within {LARGEST_FADE:g} times)"
    elif stack.gradient_ratio is not None:
        text += ", and its gradients are not finite"
    return f"{text}."


def _accumulates(stack: StackDepth) -> bool:
    """Return whether the limit on growth applies: branches add up on a stream that no norm resets."""
    return stack.residual and stack.placement != "post"


def _of_growth(stack: StackDepth) -> str:
    growth = stack.growth
    if not math.isfinite(growth):
        return ""
    if _accumulates(stack) and not stack.passes["activation"]:
        return (
            "The usual cause of a residual stream that grows exponentially with depth is branches that are neither "
            "normalized nor scaled: try norms inside the branches and a final norm, or smaller branches."
        )
    if not stack.residual and not 1 / LARGEST_GROWTH <= growth <= LARGEST_GROWTH:
        return (
            "The output size of layers without a residual connection depends on their weights and on a norm after "
            "them, and may differ between layers; if it grows or shrinks steadily with depth, check their "
            "initialization."
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
            "A gradient that grows towards the input is amplified by every layer, and the first layers take the "
            "largest steps: try smaller branches, or norms."
        )
    if stack.placement == "post":
        return (
            "A gradient that fades towards the input makes the first layers learn last; for norms on the residual "
            "stream, theory predicts a factor of 0.8 per layer. Try norms inside the branches and a final norm, or "
            "warm-up."
        )
    if stack.passes["gradient"]:
        return ""
    return (
        "A gradient that fades towards the input makes the first layers learn last; here the cause is "
        "the layers, not a norm on the residual stream: try a residual connection, or larger initial weights."
    )


def _range(measured: Measured) -> str:
    ranges = measured.ranges
    if not ranges:
        return (
            "No norm that is recognized was called, so the range of the inputs of norms is unknown. "
            f"{_unrecognized(measured)}"
        )
    finite = [each for each in ranges if math.isfinite(each.largest)]
    text = ""
    if finite:
        largest = max(finite, key=lambda each: each.overflow)
        text += f"The largest input entry of a norm is {largest.largest:.3g}, at {largest.name or 'the model'}: "
        share = _percent(largest.overflow) if largest.overflow >= FAR_BELOW else "far below a millionth"
        text += f"{share} of the largest {largest.precision}. "
    if len(finite) < len(ranges):
        text += f"The input of {_count(range(len(ranges) - len(finite)), 'norm')} is not finite. "
    divided = [each for each in finite if each.smallest_variance is not None and math.isfinite(each.smallest_variance)]
    if divided:
        smallest = min(divided, key=lambda each: each.smallest_variance or 0.0)
        where = smallest.name or "the model"
        text += f"The smallest variance of a row is {smallest.smallest_variance:.2g} at {where}, "
        text += f"where eps is {smallest.eps:.3g}. " if smallest.eps is not None else "where there is no eps. "
    vanish = sum(each.eps_vanishes for each in ranges)
    if vanish:
        text += f"In {_count(range(vanish), 'norm')}, eps rounds to zero in that precision. "
    biased = [each for each in ranges if each.bias_share is not None and math.isfinite(each.bias_share)]
    if biased:
        most = max(biased, key=lambda each: each.bias_share or 0.0)
        text += f"The bias is at most {_percent(most.bias_share or 0.0)} of the energy of a norm's output"
        text += f" ({most.name or 'the model'}). "
    decayed = [each for each in ranges if each.decay]
    if decayed:
        text += (
            f"The optimizer applies weight decay to {len(decayed)} of {_count(ranges, 'norm')}, which pulls their "
            "weights towards zero; most training recipes exclude norms. "
        )
    elif any(each.decay is not None for each in ranges):
        text += "The optimizer applies no weight decay to norms. "
    return (
        f"{text.rstrip()}\n"
        "Entries near the limit come from a residual stream that grows without a norm: use bfloat16, or a norm on the "
        "stream. The output of rows with a variance below eps is small; such rows come from padding and dead units. A "
        "bias that makes up most of the output means that the norm passes on little of its input."
    )


def _first_update(measured: Measured) -> str:
    update = measured.first_update
    if update is None:
        reason = measured.not_tried or "it needs a learning rate or an optimizer, and a model without training"
        return f"No first update was tried: {reason}."
    verdict = (
        "These numbers do not show whether warm-up is needed: of "
        f"{CALIBRATION['configurations']} small transformers trained with and without it, a rule based on them "
        f"classified {CALIBRATION['predictor']} correctly (out of sample), and predicting that no model needs it "
        f"{CALIBRATION['constant']}, which is no better than chance."
    )
    if lacks_warm_up(measured):
        verdict = f"It replaces the function and makes all positions alike, which is reported as a cause. {verdict}"
    known = {name: value for name, value in update.items() if math.isfinite(value)}
    text = f"A first update at a learning rate of {update['learning_rate']:.3g} takes the loss from "
    text += f"{update['loss_before']:.4g} to "
    text += f"{known['loss_after']:.4g}" if "loss_after" in known else "a value that is not finite"
    if "predicted_decrease" in known:
        text += f" (a decrease of {update['predicted_decrease']:.3g} is predicted to first order)"
    changes = []
    if "output_change" in known:
        changes.append(f"the last layer's output by {_percent(update['output_change'])}")
    if "update_ratio" in known:
        changes.append(f"the median weight matrix by {_percent(update['update_ratio'])}")
    if changes:
        text += f" and changes {' and '.join(changes)}"
    if {"common_after", "common_before"} <= set(known):
        text += f"; {update['common_after']:.1%} of that output is then identical at all positions, "
        text += f"{update['common_before']:.1%} before"
    if update["layers"] > 0 and "output_change" not in known:
        text += (
            ". The change of the last layer's output is unknown: the update changed which layers are called or the "
            "number of rows, or an output was zero or not finite"
        )
    amplified = ""
    if update["post"] > 0:
        amplified = " Norms on the residual stream amplify the change from layer to layer."
    return f"{text}.\n{verdict}{amplified} Warm-up, or a smaller learning rate, makes the first steps smaller."


def _three(number: float) -> str:
    """Format with three significant digits, trailing zeros included."""
    return f"{number:#.3g}".rstrip(".")


def _percent(share: float) -> str:
    """Format in percent with three significant digits."""
    return f"{100 * share:.3g}%"


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


_LOST = {
    "not finite": "not finite",
    "input not finite": "an input that is not finite",
    "zero": "zero",
    "overwritten": "an input that was overwritten",
    "missing": "no gradient",
}
_PLACES = {
    "post": "on the residual stream (post)",
    "pre": "inside the branches (pre)",
    "mixed": "in different places",
    "none": "elsewhere, or no norms",
}

READINGS: dict[str, Callable[[Measured], str]] = {
    "gradients": _gradients,
    "depth": _depth,
    "recurrent": read_steps,
    "first_update": _first_update,
    "range": _range,
}
"""Function that writes each reading, in the order of the page."""
