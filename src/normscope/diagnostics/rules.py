"""Rules that name the cause of a training problem from measured numbers, each with its threshold and the reason for it.

:data:`CAUSES` declares everything about a cause: its name, the rule that detects it, and the text of its findings.
"""

import math
from collections.abc import Iterator, Sized

from normscope.diagnostics.depth.profile import LARGEST_GROWTH, StackDepth
from normscope.diagnostics.measured import Cause, Finding, Measured
from normscope.diagnostics.recurrent.rules import RECURRENT_CAUSES

REPLACED = 0.5
"""Relative change of the last layer's output at which the first update is said to replace the function.

With 12 Post-LN layers it is 0.7 at a learning rate of 3e-4 and 1.1 at 1e-3, where training without warm-up never got
beyond the token frequencies. A hundredth of that rate, the first step of a warm-up, gives less than 0.05.
"""

ALIKE = 0.99
"""Share of the output that all positions have in common after that update, from which they count as identical.

Of 18 runs with 6, 8 and 12 layers without warm-up at 1e-3, 150 steps each, the 8 that this threshold selects ended at
losses of 1.97 to 2.18 (predicting the token frequencies gives 2.05), the other 10 at 1.68 to 1.95.
"""

SMALLEST_HALF = 2.0**-24
"""The smallest positive float16: a sum of variance and eps below it is zero if the norm is computed in float16.

If the norm is computed in a wider dtype, its gradient is still multiplied by more than 4096, on top of a loss scale of
2^16.
"""

OFFSET, RATIO = 1.0, 4.0
"""Batch norm: limits beyond which running moments count as those of other data, on mean and variance.

The mean is off by more than one standard deviation, or the variance by more than a factor of 4.

The variance of a batch of 16 positions is within a factor of 2 of the true variance, and the rule takes the median over
features.
"""

MOST_DEAD = 0.5
"""Share of weights below 0.01 from which those of a norm count as decayed; trained models stay far below."""

ONLY_READER = 1e-3
"""Relative difference of two gradient energies up to which a norm counts as the only consumer of another's output."""


def name_causes(measured: Measured) -> list[Finding]:
    """Apply every rule, in the order of :data:`CAUSES`."""
    return [
        Finding(name=cause.name, title=cause.title, where=where, evidence=evidence, remedy=cause.remedy)
        for cause in CAUSES.values()
        for where, evidence in cause.rule(measured)
    ]


def lacks_warm_up(measured: Measured) -> bool:
    """Return whether norms are on the residual stream and the first update makes all positions identical.

    The update must also replace the function (:data:`REPLACED`). False if the length of the warm-up is unknown.
    """
    update = measured.first_update
    if update is None or measured.warmup is None or update["post"] <= 0.5:
        return False
    return update["output_change"] >= REPLACED and update["common_after"] >= ALIKE


def _not_finite(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a loss, an activation or a gradient at a norm that is infinite or NaN."""
    where, evidence = _first_not_finite(measured)
    lost = [each.name for each in measured.lost if each.why == "not finite"]
    loss = measured.loss is not None and not math.isfinite(measured.loss)
    if not (evidence or lost or loss):
        return
    if not evidence:
        where = "" if loss else lost[-1]
        if loss:
            evidence = "Every activation that was measured is finite: the problem begins elsewhere, as in the loss. "
    if loss:
        evidence = f"The loss is {measured.loss}. {evidence}"
    if lost:
        evidence += (
            f"The gradient is not finite at {_count(dict.fromkeys(lost))}; the first on the backward path is "
            f"{lost[-1] or 'the model'}."
        )
    yield where, evidence.strip()


def _first_not_finite(measured: Measured) -> tuple[str, str]:
    """Return the place where the forward pass is first not finite, and a sentence about it; both empty if unknown."""
    norms = [each.name for each in measured.ranges if not math.isfinite(each.largest)]
    for stack in measured.stacks:
        for layer in stack.layers:
            if math.isfinite(layer.activation):
                continue
            # The input of a layer has no size, and so is not finite here either, if it is integers, such as tokens.
            finite_input = math.isfinite(layer.activation_in)
            sentence = f"The {'output' if finite_input else 'input or output'} of {layer.name} is the first of the "
            sentence += f"layers' {'outputs' if finite_input else 'inputs and outputs'} that is not finite"
            inside = next((name for name in norms if name.startswith(f"{layer.name}.")), None)
            if inside is not None and finite_input:
                return inside, f"{sentence}; within the layer, the input of {inside} already is not. "
            sentence += f"; the first norm with such an input is {norms[0]}. " if norms else ". "
            return layer.name, sentence
    if norms:
        return norms[0], f"{norms[0] or 'The model'} is the first norm whose input is not finite. "
    return "", ""


def _post_norm_without_warm_up(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report Post-LN with a first update that is too large for it."""
    update = measured.first_update
    if update is not None and lacks_warm_up(measured):
        yield (
            measured.stacks[-1].name if measured.stacks else "",
            f"Norms stand on the residual stream in {update['post']:.0%} of {update['layers']:.0f} layers. The first "
            f"update, at a learning rate of {update['learning_rate']:g}, changes the last layer's output by "
            f"{update['output_change']:.0%} and leaves {update['common_after']:.1%} of it identical at all positions.",
        )


def _missing_final_norm(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report Pre-LN residual streams that no norm reads at their end."""
    for stack in measured.stacks:
        if stack.placement != "pre" or not stack.residual or stack.final_norm:
            continue
        first, last = stack.layers[0], stack.layers[-1]
        # A norm outside the layers that cannot be measured may be the final norm.
        hidden = any(not _is_inside(each.name, stack) for each in measured.unmeasured)
        if math.isfinite(last.activation) and not hidden:
            yield (
                stack.name,
                f"Every layer normalizes its own input, but nothing normalizes the residual stream: its root mean "
                f"square is {last.activation:.3g} after the last layer ({first.activation_in:.3g} before the first), "
                "and no norm that is recognized reads it there.",
            )


def _is_inside(name: str, stack: StackDepth) -> bool:
    return any(name == layer.name or name.startswith(f"{layer.name}.") for layer in stack.layers)


def _unscaled_residual(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a residual stream that grows exponentially with depth."""
    for stack in measured.stacks:
        if not stack.residual or stack.placement == "post" or stack.passes["activation"]:
            continue
        if math.isfinite(stack.growth):
            per_layer = stack.growth ** (1 / max(len(stack.layers) // 2, 1))
            yield (
                stack.name,
                f"The residual stream grows by a factor of {stack.growth:.3g} over the second half of "
                f"{len(stack.layers)} layers, {per_layer:.3g} per layer. Adding branches of equal size gives at most "
                f"2 there; the limit is {LARGEST_GROWTH:g}.",
            )


def _batch_norm_in_eval(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report running moments that differ from those of the batch."""
    off = [
        each
        for each in measured.ranges
        if each.running_offset is not None
        and each.running_ratio is not None
        and math.isfinite(each.running_offset + each.running_ratio)
        and (each.running_offset > OFFSET or not 1 / RATIO <= each.running_ratio <= RATIO)
    ]
    if off:
        norms = "1 batch norm normalizes" if len(off) == 1 else f"{len(off)} batch norms normalize"
        yield (
            ", ".join(each.name for each in off),
            f"{norms} by running moments that are not those of this batch: at {off[0].name} the batch variance is "
            f"{off[0].running_ratio:.3g} times the running variance, and the batch mean is {off[0].running_offset:.3g} "
            "standard deviations away from the running mean.",
        )


def _weights_near_zero(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report norms most of whose weights are close to zero, unless all were initialized to zero."""
    found = [
        each
        for each in measured.ranges
        if each.small_weights is not None
        and each.small_weights > MOST_DEAD
        and each.zero_weights != 1
        and math.isfinite(each.weight_size or 0.0)
    ]
    if not found:
        return
    worst = min(found, key=lambda each: each.weight_size or 0.0)
    evidence = (
        f"{_count(found)}: at {worst.name} {worst.small_weights:.0%} of the weights are below 0.01; their root mean "
        f"square is {worst.weight_size:.2g}."
    )
    if decay := max(each.decay or 0.0 for each in found):
        evidence += f" The optimizer's weight decay on them is {decay:g}."
    yield ", ".join(each.name for each in found), evidence


def _double_norm(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report a norm whose output is read by another norm only."""
    for pair in dict.fromkeys((double.first, double.second) for double in measured.doubles):
        first = next((each for each in measured.gradients if each.name == pair[0]), None)
        second = next((each for each in measured.gradients if each.name == pair[1]), None)
        if first is None or second is None or second.arriving_energy is None:
            continue
        if abs(second.arriving_energy - first.upstream_energy) <= ONLY_READER * first.upstream_energy:
            yield pair[1], f"Its input is the output of {pair[0]}, which receives no gradient from elsewhere."


def _eps_too_small_for_half(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report an eps that is zero in float16 at rows with almost no variance."""
    candidates = [
        (each, each.smallest_variance + each.eps)
        for each in measured.ranges
        if each.precision == "float16" and each.eps is not None and each.smallest_variance is not None
    ]
    # A comparison with NaN is false.
    found = [(each, divisor) for each, divisor in candidates if divisor < SMALLEST_HALF]
    if found:
        each, divisor = min(found, key=lambda pair: pair[1])
        effect = (
            f"The gradient of such a row is multiplied by {divisor**-0.5:.1e}."
            if divisor > 0
            else "Such a row is divided by zero."
        )
        yield (
            ", ".join(norm.name for norm, _ in found),
            f"{_count(found)}: at {each.name} eps is {each.eps:g} and the smallest variance of a row is "
            f"{each.smallest_variance:.2g}; their sum is below the smallest float16 ({SMALLEST_HALF:.1e}). {effect}",
        )


def _overflow(measured: Measured) -> Iterator[tuple[str, str]]:
    """Report finite inputs of norms that the precision cannot represent."""
    found = [each for each in measured.ranges if 1 < each.overflow < math.inf]
    if found:
        worst = max(found, key=lambda each: each.overflow)
        yield (
            ", ".join(each.name for each in found),
            f"{_count(found)}: the largest input entry of {worst.name} is {worst.largest:.3g}, beyond the range of "
            f"{worst.precision}.",
        )
    far = [each for each in measured.ranges if each.squares_overflow and each.overflow <= 1]
    if far:
        worst = max(far, key=lambda each: each.squares_overflow)
        yield (
            ", ".join(each.name for each in far),
            f"{_count(far)}: the squares of {worst.squares_overflow:.0%} of the rows at {worst.name} leave the range "
            "of the statistics, its entries do not: torch's norms return zeros, with zero gradients, for such rows.",
        )


def _count(found: Sized) -> str:
    return "1 norm" if len(found) == 1 else f"{len(found)} norms"


CAUSES: dict[str, Cause] = {
    cause.name: cause
    for cause in (
        Cause(
            name="not_finite",
            title="Numbers are not finite",
            rule=_not_finite,
            remedy="Fix this first; the other findings are unreliable until you do. Usual causes are a learning rate "
            "that was too large, a division by zero, the logarithm of zero, and half precision: try a smaller learning "
            "rate, gradient clipping, or float32 or bfloat16. If only a gradient is not finite, look for the square "
            "root, length or standard deviation of zero (add an eps inside the root), or use loss scaling.",
        ),
        Cause(
            name="post_norm_without_warm_up",
            title="Post-LN without warm-up",
            rule=_post_norm_without_warm_up,
            remedy="Warm the learning rate up linearly over a few thousand steps, or try 100 first; or use the "
            "placement pre (norms inside the branches and a final norm) or deepnorm. A smaller learning rate alone "
            "only delays the problem.",
        ),
        Cause(
            name="missing_final_norm",
            title="No norm after the last layer",
            rule=_missing_final_norm,
            remedy="Add one norm after the last layer, before the head.",
        ),
        Cause(
            name="unscaled_residual",
            title="The residual stream grows exponentially with depth",
            rule=_unscaled_residual,
            remedy="Normalize the input of every branch and the end of the stream (pre), or initialize the last "
            "weights of every branch at 1 / sqrt(2 x layers) of their usual size, or at zero (rezero).",
        ),
        Cause(
            name="batch_norm_in_eval",
            title="Batch norms use moments of other data",
            rule=_batch_norm_in_eval,
            remedy="Call model.train() before training, and check what sets the norms to evaluation mode. If the "
            "moments are frozen on purpose, estimate them on this data first.",
        ),
        Cause(
            name="weights_near_zero",
            title="The weights of a norm are close to zero",
            rule=_weights_near_zero,
            remedy="Exclude the weights of norms from weight decay (two parameter groups), and reset them to one. If "
            "they became small without weight decay, try to remove the layer.",
        ),
        Cause(
            name="double_norm",
            title="A norm follows directly on another norm",
            rule=_double_norm,
            remedy="Remove one of the two. torch's nn.Transformer, and an nn.TransformerEncoder with norm_first=False "
            "and a final norm, end with such a pair.",
        ),
        Cause(
            name="eps_too_small_for_half",
            title="eps is too small for float16",
            rule=_eps_too_small_for_half,
            remedy="Use an eps of 1e-5, compute the norm in float32, or use bfloat16; find out why rows are constant.",
        ),
        Cause(
            name="overflow",
            title="An input or its square overflows",
            rule=_overflow,
            remedy="Use bfloat16 or float32 for the residual stream, scale the branches down, or clip the input.",
        ),
        *RECURRENT_CAUSES,
    )
}
"""Every known cause by its name, in the order of the page."""
