"""The check, on a float64 copy, that a model with centered writers and RMS norms computes the same function."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import NormInModel
from normscope.surgery.to_rms_norm.norms import make_exact, nudged, put_rms
from normscope.surgery.to_rms_norm.same_function import (
    Call,
    float64_by_default,
    largest_difference,
    replay,
    scales,
    widened,
)
from normscope.surgery.to_rms_norm.variations import FrequentDraws, redraw
from normscope.surgery.to_rms_norm.writers import find_writers, named, settle, untie

TOLERANCE = 1e-9
"""Relative, in float64: a million roundings."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The changes of a model that keep its function, and the outputs that were compared."""

    writers: Mapping[str, Tensor]
    """From the names of parameters (and buffers) to their centered values, in float64."""
    untied: Sequence[str]
    """Those of them that must be untied."""
    unreached: Sequence[str]
    """Parameters as wide as the stream on which no output depended."""
    same_in_training: bool | None
    """Whether the function in training is the same; None if it was not compared."""
    training: str
    """Why not."""
    before: Sequence[Mapping[str, Tensor]]
    """The outputs in float64, for every call."""
    sizes: Sequence[Mapping[str, float]]
    """Sizes that differences of the outputs are relative to, for every call."""
    difference: float
    """The largest difference of an output."""


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """The conversion of a copy."""

    writers: Mapping[str, tuple[Tensor, int]]
    """Centered tensors of the copy and their axes of features, by name."""
    shared: Collection[str]
    """Names of those that are read for something else as well."""
    untied: Sequence[str]
    unreached: Sequence[str]
    doubts: Sequence[str]
    """What else is in the input of the norms."""
    means: Mapping[str, float]
    """From names of norms that ran to the largest mean of a row, over the divisor of the row."""
    before: Sequence[Mapping[str, Tensor]]
    sizes: Sequence[Mapping[str, float]]
    difference: float
    changed: Collection[str]
    """Outputs that differ."""


class _Training:
    """Runs of a copy in training mode, with the same random numbers, as long as it runs in that mode."""

    def __init__(self, model: nn.Module, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.modes = {name: module.training for name, module in model.named_modules()} if model.training else {}
        self.error = ""
        self.runs: list[list[dict[str, Tensor]]] = []
        self.means: Mapping[str, float] = {}

    def run(self, twin: nn.Module) -> None:
        """Run the copy and record its outputs, or why it does not run."""
        if not self.error:
            try:
                self.runs.append(replay(twin, self.calls, modes=self.modes))
            except Exception as error:
                # A model may need more in training, such as targets; its code may raise anything.
                self.error = f"{type(error).__name__}: {error}"

    def result(self) -> tuple[bool | None, str]:
        """Return whether the function is the same, and why not, from the runs before, with nudged norms and after."""
        if self.error:
            return None, f"not compared, as the model does not run in training mode with these arguments: {self.error}"
        before, nudged, after = self.runs
        difference = _difference(before, after, [scales(*pair) for pair in zip(before, nudged, strict=True)])
        if off := _uncentered(self.means):
            why = (
                f"a dropout, or something else that acts in training, gives rows a mean, which {len(off)} of "
                f"{len(self.means)} norms read: {_few(off)}"
            )
        elif not difference <= TOLERANCE:
            why = f"outputs differ by {difference:.1e} of their size, as something else reads the mean of the stream"
        else:
            return True, ""
        return False, f"another function from the first step: {why}"


def prove(model: nn.Module, chosen: Sequence[NormInModel], calls: Sequence[Call]) -> Proof:
    """Convert copies of a model; check that all norms read rows with a mean of zero and that no output changes.

    The first copy has other parameters, so that nothing is proved by a bias that is still zero or a weight that is
    still one; it is compared in training mode, too. The second has those of the model.

    Args:
        model: A model; it is not changed.
        chosen: Its layer norms.
        calls: Arguments with which the model has run.

    Raises:
        ValueError: If it does not run in float64, the outputs do not depend on the layer norms, or the function would
            differ.
    """
    training = _Training(model, calls)
    try:
        drawn = _trial(model, chosen, calls, training)
        given = _trial(model, chosen, calls, drawn)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the proof needs a copy of {type(model).__name__} that runs in float64, and there was a "
            f"{type(error).__name__}: {error}"
        ) from error
    _check(chosen, drawn, given)
    same, why = training.result()
    return Proof(
        writers={name: tensor.detach() for name, (tensor, _) in given.writers.items()},
        untied=given.untied,
        unreached=[name for name in given.unreached if name in drawn.unreached],
        same_in_training=same,
        training=why,
        before=given.before,
        sizes=given.sizes,
        difference=max(drawn.difference, given.difference),
    )


def _trial(model: nn.Module, chosen: Sequence[NormInModel], calls: Sequence[Call], other: _Training | _Trial) -> _Trial:
    """Convert a copy of a model and compare it with what it was.

    Args:
        model: The model.
        chosen: Its layer norms.
        calls: Arguments with which the model has run.
        other: Runs in training mode, to be made with a copy that has other parameters; or that trial, whose writers
            are centered in this one as well.
    """
    twin, wide = widened(model, calls)
    training, drawn = (other, None) if isinstance(other, _Training) else (None, other)
    if training is not None:
        training.calls = wide
        redraw(twin)
    make_exact(twin, chosen)
    with float64_by_default():
        found = find_writers(twin, chosen, wide)
        widths = {norm.shape[-1] for norm in chosen}
        unreached = [n for n, p in twin.named_parameters() if id(p) not in found.reached and widths & {*p.shape}]
        writers = named(twin, found.sources.writers)
        shared = {name for name, (tensor, _) in writers.items() if id(tensor) in found.shared}
        if drawn is not None:
            tensors = {**dict(twin.named_parameters(remove_duplicate=False)), **dict(twin.named_buffers())}
            writers = {name: (tensors[name], axis) for name, (_, axis) in drawn.writers.items()} | writers
            shared |= {*drawn.shared}

        def run() -> list[dict[str, Tensor]]:
            if training is None:
                return replay(twin, wide)
            with FrequentDraws():
                training.run(twin)
                training.means = _largest(moments)
                return replay(twin, wide)

        moments: Mapping[str, list[float]] = {}
        with torch.no_grad():
            settle(twin, model, writers)
        before = run()
        with nudged(twin, chosen):
            sizes = [scales(*pair) for pair in zip(before, run(), strict=True)]
        untied = untie(twin, writers, {id(writers[name][0]) for name in shared})
        kept = [name for name in writers if name in shared and name not in untied]
        with torch.no_grad():
            for tensor, axis in writers.values():
                tensor.sub_(tensor.mean(axis, keepdim=True))
        moments = put_rms(twin, chosen)
        after = run()
        means = _largest(moments)
        difference = _difference(before, after, sizes)
        doubts = [*found.sources.doubts, *(f"{name} is read for something else by the same module" for name in kept)]
        if _uncentered(means) or not difference <= TOLERANCE:
            with FrequentDraws():
                again = replay(twin, wide, seed=1)
            if not _difference(after, again, sizes) <= TOLERANCE:
                doubts.append("random numbers that the model draws in evaluation, too")
        changed = {
            place
            for one, two, size in zip(before, after, sizes, strict=True)
            for place in one
            if not largest_difference({place: one[place]}, {place: two[place]}, size) <= TOLERANCE
        }
    return _Trial(
        writers=writers,
        shared=shared,
        untied=untied,
        unreached=unreached,
        doubts=doubts,
        means=means,
        before=before,
        sizes=sizes,
        difference=difference,
        changed=changed,
    )


def _check(chosen: Sequence[NormInModel], drawn: _Trial, given: _Trial) -> None:
    """Refuse a conversion that changes the function.

    Raises:
        ValueError: If it does; the message says why.
    """
    if silent := [norm.name for norm in chosen if norm.name not in drawn.means and norm.name not in given.means]:
        raise ValueError(
            f"of layer norms that do not run nothing can be proved. These did not run: {_few(silent)}. Call "
            f"to_rms_norm with inputs that reach them, or leave them out by where="
        )
    trials, worst = (given, drawn), max(given.difference, drawn.difference)
    if _has_nan(drawn.before) and not _has_nan(given.before):
        raise ValueError(
            "nothing is proved for the model once it is trained: a copy with other parameters, each between half and "
            "one and a half times its value, returns NaN"
        )
    start = "the layer norms cannot become RMS norms exactly"
    if not worst <= TOLERANCE:
        start += f": outputs would differ by {worst:.1e} of their size"
        start += " once training has changed weights and biases" * (given.difference <= TOLERANCE)
    why = "; ".join(dict.fromkeys(doubt for trial in trials for doubt in trial.doubts))
    if off := [norm.name for norm in chosen if any(norm.name in _uncentered(trial.means) for trial in trials)]:
        why = why or "something that no weight of the model alone decides"
        raise ValueError(
            f"{start}. What these read has a mean that no weights can be centered to remove: {_few(off)}. In it: {why}"
        )
    if not worst <= TOLERANCE:
        changed = sorted({*given.changed, *drawn.changed} - {""})
        also = [f"see the outputs {_few(changed)}"] * bool(changed) + [why] * bool(why)
        raise ValueError(
            f"{start}. All layer norms read centered rows then, but something else reads its mean, too"
            + f" ({'; '.join(also)})" * bool(also)
        )
    if not any(any(size.values()) for trial in trials for size in trial.sizes):
        raise ValueError(
            "nothing is proved: no output depends on what the layer norms give, whatever the values of the parameters"
        )


def _has_nan(runs: Sequence[Mapping[str, Tensor]]) -> bool:
    return any(bool(one.isnan().any()) for run in runs for one in run.values())


def _difference(
    before: Sequence[Mapping[str, Tensor]], after: Sequence[Mapping[str, Tensor]], sizes: Sequence[Mapping[str, float]]
) -> float:
    return max(largest_difference(*call) for call in zip(before, after, sizes, strict=True))


def _largest(moments: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the largest of the means that were measured in each norm that ran, and forget them."""
    largest = {name: max(seen) for name, seen in moments.items() if seen}
    for seen in moments.values():
        seen.clear()
    return largest


def _uncentered(means: Mapping[str, float]) -> list[str]:
    return [name for name, mean in means.items() if not mean <= TOLERANCE]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
