"""The causes that are named: each a small rule on measured numbers, with its threshold and the reason for it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from normscope.diagnostics.depth.profile import LARGEST_GROWTH, StackDepth
from normscope.diagnostics.depth.watch import DoubleNorm
from normscope.diagnostics.gradients.at_norms import LostGradient, NormGradients
from normscope.diagnostics.numeric_range import NormRange
from normscope.inspection.norms_in import Unreached

REPLACED = 0.5
"""Relative change of the last layer's output by the first update from which the update replaces the function.

At 12 Post-LN layers it is 0.7 at a learning rate of 3e-4 and 1.1 at 1e-3, where training without warm-up stayed at
the frequencies of the tokens; a hundredth of the rate, the first step of a warm-up, gives below 0.05.
"""

ALIKE = 0.99
"""Share that all rows have in common, after that update, from which the positions count as one.

Of 18 runs of 6, 8 and 12 layers without warm-up at 1e-3, 150 steps each, the 8 that are named by it ended at losses of
1.97 to 2.18 (the frequencies of the tokens give 2.05), the 10 others at 1.68 to 1.95.
"""

SMALLEST_HALF = 2.0**-24
"""The smallest positive float16: variance plus eps below it is zero where the norm is computed in float16.

Where it is computed wider, gradients are multiplied there by more than 4096, on top of a loss scale of 2^16.
"""

OFFSET, RATIO = 1.0, 4.0
"""Batch norms: running moments that are off by a deviation, or a factor 4 in the variance, are of other data.

A batch of 16 positions has a variance within a factor 2 of the true one, and the median over features is taken.
"""

MOST_DEAD = 0.5
"""Share of dead gains (below a hundredth) from which a norm counts as decayed; trained models stay far below."""

ONLY_READER = 1e-3
"""Relative difference of two gradient energies up to which a norm is the only reader of another's output."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One named cause."""

    cause: str
    """One of :data:`CAUSES`."""
    where: str
    """The norm or the stack; empty for the whole model."""
    evidence: str
    """The numbers, in words."""
    advice: str
    """What to try."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that the rules look at."""

    gradients: Sequence[NormGradients]
    stacks: Sequence[StackDepth]
    doubles: Sequence[DoubleNorm]
    ranges: Sequence[NormRange]
    first_update: Mapping[str, float] | None = None
    """Of :func:`~normscope.diagnostics.warmup.warmup_features`, at the rate of the first step."""
    warmup: int | None = None
    """Steps; None if it was not told, and then nothing is said about it."""
    loss: float | None = None
    """None if it was not measured."""
    lost: Sequence[LostGradient] = ()
    """Calls of norms that have no usable gradient."""
    unmeasured: Sequence[Unreached] = ()
    """What may be a norm and was not measured, and norms that forwards compute themselves."""
    not_tried: str | None = None
    """Why there is no ``first_update``."""


def name_causes(measured: Measured) -> list[Finding]:
    """Run every rule; the order is that of :data:`CAUSES`."""
    return [finding for rule in CAUSES.values() for finding in rule(measured)]


def _not_finite(measured: Measured) -> list[Finding]:
    """A loss, a gradient at a norm or an activation that is no number any more."""
    where, words = _first_not_finite(measured)
    lost = [each.name for each in measured.lost if each.why == "not finite"]
    loss = measured.loss is not None and not math.isfinite(measured.loss)
    if not (words or lost or loss):
        return []
    evidence = f"The loss is {measured.loss}. " if loss else ""
    evidence += words
    if not words and loss:
        evidence += "Nothing that was measured before it is: it begins behind the last layer and the last norm. "
    if lost:
        evidence += f"The gradient is not finite at {_count(dict.fromkeys(lost))}"
        evidence += f"; on its way back it is so first at {lost[-1] or 'the model'}. "
        where = where if words or loss else lost[-1]
    advice = "Look there first: what else is told of this model is of little use. "
    if words or loss:
        advice += "Usual causes are a learning rate that was too large, a division by or a logarithm of zero, and half "
        advice += "precision: try a smaller rate, clip gradients, or compute in float32 or bfloat16."
    else:
        advice += (
            "A finite loss with such a gradient comes from a square root, a length or a deviation of zero, or from "
        )
        advice += "half precision without loss scaling: add an eps inside of the root."
    return [Finding(cause="not_finite", where=where, evidence=evidence.strip(), advice=advice)]


def _first_not_finite(measured: Measured) -> tuple[str, str]:
    """Give the place where a forward pass first is not finite, and say it; nothing where it is not known."""
    norms = [each.name for each in measured.ranges if not math.isfinite(each.largest)]
    for stack in measured.stacks:
        for layer in stack.layers:
            if math.isfinite(layer.activation):
                continue
            # The size of an input of whole numbers, as of tokens, is none either.
            told = math.isfinite(layer.activation_in)
            words = f"What {'leaves' if told else 'reaches or leaves'} {layer.name} is the first of the layers' "
            words += f"{'outputs' if told else 'inputs and outputs'} that is not finite"
            inside = next((name for name in norms if name.startswith(f"{layer.name}.")), None)
            if inside is not None and told:
                return inside, f"{words}; inside, it is so at {inside} already. "
            words += f"; of the norms, {norms[0]} is the first in the model's order. " if norms else ". "
            return layer.name, words
    if norms:
        return norms[0], f"{norms[0] or 'The model'} is the first norm, in the model's order, that is reached by it. "
    return "", ""


def lacks_warm_up(measured: Measured) -> bool:
    """Return whether norms stand on the stream and the first update both replaces the function and makes positions one.

    Only where the warm-up was told.
    """
    told = measured.first_update
    if told is None or measured.warmup is None or told["post"] <= 0.5:
        return False
    return told["output_change"] >= REPLACED and told["common_after"] >= ALIKE


def _post_norm_without_warm_up(measured: Measured) -> list[Finding]:
    """Post-LN and a first update that is too large for it."""
    told = measured.first_update
    if told is None or not lacks_warm_up(measured):
        return []
    rate = told["learning_rate"]
    evidence = (
        f"Norms stand on the residual stream in {told['post']:.0%} of {told['layers']:.0f} layers. The "
        "first update, at "
        f"a learning rate of {rate:g}, changes the last layer's output by {told['output_change']:.0%} of itself and "
        f"leaves {told['common_after']:.1%} of it the same at all positions."
    )
    advice = (
        "Warm the learning rate up linearly over some thousand steps, or try 100 first; or move the norms into the "
        "branches (pre, with a norm at the end), or take deepnorm; a smaller learning rate alone only slows it down."
    )
    return [Finding(cause="post_norm_without_warm_up", where=_last(measured), evidence=evidence, advice=advice)]


def _eps_too_small_for_half(measured: Measured) -> list[Finding]:
    """An eps that is nothing in float16, and rows that need one."""
    found = [
        (each, each.smallest_variance + each.eps)
        for each in measured.ranges
        if each.precision == "float16" and each.eps is not None and each.smallest_variance is not None
    ]
    # A comparison with what is not a number is false.
    found = [(each, divisor) for each, divisor in found if divisor < SMALLEST_HALF]
    if not found:
        return []
    each, divisor = min(found, key=lambda pair: pair[1])
    evidence = f"{_count(found)}: at {each.name} eps is {each.eps:g} and the smallest variance of a row is "
    evidence += f"{each.smallest_variance:.2g}; together they are below the smallest float16 ({SMALLEST_HALF:.1e}). "
    evidence += (
        f"The gradient of such a row is multiplied by {divisor**-0.5:.1e}."
        if divisor > 0
        else "Such a row is divided by zero."
    )
    advice = "Take an eps of 1e-5, compute the norm in float32, or use bfloat16; look where constant rows come from."
    where = ", ".join(each.name for each, _ in found)
    return [Finding(cause="eps_too_small_for_half", where=where, evidence=evidence, advice=advice)]


def _overflow(measured: Measured) -> list[Finding]:
    """An input that the precision cannot hold."""
    found = [each for each in measured.ranges if 1 < each.overflow < math.inf]
    if not found:
        return []
    worst = max(found, key=lambda each: each.overflow)
    evidence = f"{_count(found)}: the largest entry that reaches {worst.name} is {worst.largest:.3g}, which "
    evidence += f"{worst.precision} cannot hold."
    advice = "Use bfloat16 or float32 for the residual stream, scale the branches down, or clip what comes in."
    where = ", ".join(each.name for each in found)
    return [Finding(cause="overflow", where=where, evidence=evidence, advice=advice)]


def _missing_final_norm(measured: Measured) -> list[Finding]:
    """A Pre-LN stream that leaves the last stack as it is."""
    stack = measured.stacks[-1] if measured.stacks else None
    if stack is None or stack.placement != "pre" or not stack.residual or stack.final_norm:
        return []
    last = stack.layers[-1]
    if not math.isfinite(last.activation) or any(not _stands_inside(each.name, stack) for each in measured.unmeasured):
        # A norm that cannot be measured may be the one that is missed.
        return []
    evidence = (
        f"Every layer normalizes its own input and none the stream; behind the last layer it has a size of "
        f"{last.activation:.3g} ({stack.layers[0].activation_in:.3g} at the first), and no norm follows."
    )
    advice = "Put one norm behind the last layer, before the head."
    return [Finding(cause="missing_final_norm", where=stack.name, evidence=evidence, advice=advice)]


def _stands_inside(name: str, stack: StackDepth) -> bool:
    return any(name == layer.name or name.startswith(f"{layer.name}.") for layer in stack.layers)


def _batch_norm_in_eval(measured: Measured) -> list[Finding]:
    """Running moments that are not those of the batch."""
    off = [
        each
        for each in measured.ranges
        if each.running_offset is not None
        and each.running_ratio is not None
        and math.isfinite(each.running_offset + each.running_ratio)
        and (each.running_offset > OFFSET or not 1 / RATIO <= each.running_ratio <= RATIO)
    ]
    if not off:
        return []
    worst = off[0]
    evidence = (
        f"{len(off)} batch norms normalize by running moments that are not this batch's: in {worst.name} "
        "the variance is "
        f"{worst.running_ratio:.3g} times the running one and the mean {worst.running_offset:.3g} deviations away."
    )
    advice = (
        "Call model.train() before training, and check what sets the norms to evaluation; if the moments are frozen on "
        "purpose, estimate them on this data first."
    )
    return [Finding(cause="batch_norm_in_eval", where=", ".join(e.name for e in off), evidence=evidence, advice=advice)]


def _gains_near_zero(measured: Measured) -> list[Finding]:
    """Gains that nearly all are tiny, though none was set to zero."""
    found = [
        each
        for each in measured.ranges
        if each.dead_gains is not None
        and each.dead_gains > MOST_DEAD
        and each.zero_gains != 1
        and math.isfinite(each.gain_size or 0.0)
    ]
    if not found:
        return []
    worst = min(found, key=lambda each: each.gain_size or 0.0)
    evidence = (
        f"{_count(found)}: in {worst.name} {worst.dead_gains:.0%} of the gains are below 0.01, and their size is "
    )
    evidence += f"{worst.gain_size:.2g}."
    decay = max(each.decay or 0.0 for each in found)
    if decay > 0:
        evidence += f" The optimizer decays them by {decay:g}."
    advice = (
        "Take the gains of norms out of weight decay (two parameter groups), and start them again at one; where they "
        "went to zero without decay, the layer may be dropped."
    )
    where = ", ".join(each.name for each in found)
    return [Finding(cause="gains_near_zero", where=where, evidence=evidence, advice=advice)]


def _double_norm(measured: Measured) -> list[Finding]:
    """A norm whose only reader is another norm."""
    found = []
    for pair in dict.fromkeys((double.first, double.second) for double in measured.doubles):
        first = next((each for each in measured.gradients if each.name == pair[0]), None)
        second = next((each for each in measured.gradients if each.name == pair[1]), None)
        if first is None or second is None or second.arriving_energy is None:
            continue
        if abs(second.arriving_energy - first.upstream_energy) > ONLY_READER * first.upstream_energy:
            continue
        evidence = f"Its input is the output of {pair[0]}, and nothing else reads that."
        advice = (
            "Remove one of the two. torch's nn.Transformer, and an encoder with norm_first=False and a "
            "norm of its own, "
            "have such a pair at their end."
        )
        found.append(Finding(cause="double_norm", where=pair[1], evidence=evidence, advice=advice))
    return found


def _unscaled_residual(measured: Measured) -> list[Finding]:
    """A residual stream that grows by a factor a layer."""
    found = []
    for stack in measured.stacks:
        if not stack.residual or stack.placement == "post" or stack.passes["activation"]:
            continue
        if not math.isfinite(stack.growth):
            continue
        per_layer = stack.growth ** (1 / max(len(stack.layers) // 2, 1))
        evidence = (
            f"The stream grows {stack.growth:.3g} times over the second half of {len(stack.layers)} "
            f"layers, {per_layer:.3g} "
            f"times a layer; sums of equal branches grow at most 2 times there, and {LARGEST_GROWTH:g} is allowed."
        )
        advice = (
            "Normalize what goes into each branch (pre) and the end, or begin the branches' last weights "
            "at 1 / sqrt(2 x "
            "layers) of their size, or at zero (rezero)."
        )
        found.append(Finding(cause="unscaled_residual", where=stack.name, evidence=evidence, advice=advice))
    return found


def _count(found: Collection[object]) -> str:
    return "1 norm" if len(found) == 1 else f"{len(found)} norms"


def _last(measured: Measured) -> str:
    return measured.stacks[-1].name if measured.stacks else ""


CAUSES: dict[str, Callable[[Measured], list[Finding]]] = {
    "not_finite": _not_finite,
    "post_norm_without_warm_up": _post_norm_without_warm_up,
    "missing_final_norm": _missing_final_norm,
    "unscaled_residual": _unscaled_residual,
    "batch_norm_in_eval": _batch_norm_in_eval,
    "gains_near_zero": _gains_near_zero,
    "double_norm": _double_norm,
    "eps_too_small_for_half": _eps_too_small_for_half,
    "overflow": _overflow,
}
"""The rules by the name of their cause."""
