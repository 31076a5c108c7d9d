"""What is measured at every step of a recurrent layer, and what follows from it about all steps together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from normscope.inspection.norm_in_model import NormInModel

EDGE = 0.05
"""A sigmoid below this counts as closed, and below it or above one minus it as saturated; a tanh beyond one minus it.

There the derivative of a sigmoid is below 0.0475, a fifth of its largest, and that of a tanh below 0.0975, a tenth.
"""

LOST = 2.0**-23
"""Share of the largest gradient of a step below which the gradient of another step is lost.

It is the epsilon of float32: in the gradient of the weights, a sum over steps, such a step is rounded away.
"""

GATES = {
    "i": "input gate",
    "f": "forget gate",
    "g": "candidate",
    "o": "output gate",
    "out": "read-out of c",
    "r": "reset gate",
    "z": "update gate",
    "n": "candidate",
    "h": "h",
}
"""Names of the nonlinearities of a step."""
SIGMOIDS = frozenset("iforz")

Line = tuple[float | None, ...]
"""One number for every step of the sequence; None where it is unknown or not finite."""


@dataclass(frozen=True, kw_only=True)
class NormSteps:
    """The rows that one norm inside a recurrent layer normalizes, by step; medians over the sequences of the step."""

    name: str
    """Its name in the model."""
    place: str
    """``ih``: of ``W_x x``, or of the sum of both products; ``hh``: of ``W_h h``; ``cell``: of c."""
    mean: Line
    """Absolute mean of a row."""
    deviation: Line
    """Standard deviation of a row before it is normalized."""
    ratio: Line
    """Absolute mean divided by the standard deviation."""
    below_eps: Line
    """Share of rows whose variance (mean square if the norm does not center) is below eps, but for rows of ``W_h h``
    that are zero because a sequence starts at an h of zero without a gradient; None if the norm has no eps."""
    eps: float | None


@dataclass(frozen=True, kw_only=True)
class LayerSteps:
    """One layer and direction of a recurrent layer, step by step, in the order of the sequence.

    Sizes are root mean squares over all entries of a step.
    """

    name: str
    """Name of the module, and of the layer and direction in it, such as ``lstm.l0_reverse``."""
    kind: str
    """``RNN``, ``LSTM`` or ``GRU``."""
    call: int
    """Index among the calls of the module, from 0."""
    reverse: bool
    """Whether it runs from the last step to the first. A layer with batch norm counts steps from where each sequence
    begins in its direction; its steps are in the order in which they run."""
    steps: int
    """T; of the longest sequence if they differ."""
    sequences: int
    h: Line
    """Size of h."""
    c: Line
    """Size of c; empty but for an LSTM."""
    gradient_h: Line
    """Size of the gradient of the loss with respect to h, by all its paths."""
    gradient_c: Line
    """Size of the gradient with respect to c, by all its paths; empty but for an LSTM."""
    gain: Line
    """Length of the gradient with respect to the state before a step, by the path through this step alone, divided by
    that with respect to the state after it. The state is h, of an LSTM h and c."""
    fade: float | None
    """Geometric mean of the gains: the factor on a gradient by each step that it is carried back."""
    growth: float | None
    """Product of the gains of all steps."""
    lost: float
    """Share of steps, of those that a gradient reaches, that run before the step with the largest gradient and whose
    own is below :data:`LOST` times that."""
    overflow: int
    """Number of steps with a gradient that is not finite."""
    saturated: Mapping[str, Line]
    """By the names in :data:`GATES`, the share of entries that are saturated: see :data:`EDGE`."""
    closed: Mapping[str, Line]
    """By gate, the share of entries that are closed."""
    norms: tuple[NormSteps, ...]


@dataclass(kw_only=True)
class Rows:
    """Statistics of the rows that one norm read, one number for each: their means, deviations and what is divided."""

    mean: Tensor
    deviation: Tensor
    divided: Tensor
    """Variance, or mean square if the norm does not center."""

    def split(self, sizes: Sequence[int]) -> "list[Rows]":
        """Split into the rows of each step."""
        parts = [part.split(list(sizes)) for part in (self.mean, self.deviation, self.divided)]
        return [Rows(mean=a, deviation=b, divided=c) for a, b, c in zip(*parts, strict=True)]


def rows_of(norm: NormInModel, x: Tensor) -> Rows:
    """Compute the statistics of the rows ``[..., H]`` of a norm's input."""
    wide = x.detach().flatten(0, -2)
    wide = wide if wide.dtype == torch.float64 else wide.float()
    mean = wide.mean(-1)
    variance = (wide - mean[:, None]).square().mean(-1)
    divided = variance if norm.traits.centers else wide.square().mean(-1)
    return Rows(mean=mean, deviation=variance.sqrt(), divided=divided)


@dataclass(kw_only=True)
class LayerRecord:
    """Measurements of one layer and direction, still on the device: sums of squares, by step and sequence."""

    name: str
    kind: str
    call: int
    reverse: bool
    sizes: list[int]
    """Number of sequences in every step."""
    widths: tuple[int, ...]
    """Of h, and of c in an LSTM."""
    norms: dict[int, tuple[str, NormInModel]]
    """By the identity of the module: its place, and the norm."""
    state: tuple[dict[int, Tensor], ...]
    """By step, of h and c."""
    gradients: tuple[dict[int, Tensor], ...]
    """By step, of the gradients with respect to h and c by all paths."""
    through: tuple[dict[int, Tensor], ...]
    """By step, of the gradients with respect to the h and c before it, by the path through it alone."""
    end: Tensor | None = None
    """Of the gradient with respect to the final c, of all sequences."""
    gates: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """By nonlinearity and step, shares of saturated and closed entries."""
    rows: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    """By norm and step, the four numbers of :class:`NormSteps`."""

    def record_gates(self, t: int, seen: Mapping[str, Tensor], *, squashes: bool) -> None:
        """Record which share of every gate is saturated, and closed; an h without a bound is left out."""
        for gate, value in seen.items():
            if gate == "h" and not squashes:
                continue
            z = value.detach()
            closed = z < EDGE if gate in SIGMOIDS else z < EDGE - 1
            shares = torch.stack([(closed | (z > 1 - EDGE)).double().mean(), closed.double().mean()])
            self.gates.setdefault(gate, {})[t] = shares

    def record_rows(self, t: int, norm: int, rows: Rows, exempt: Tensor | None) -> None:
        """Record statistics of the rows of a norm in one step, without the rows that are exempt from the last one."""
        described = self.norms[norm][1]
        tiny = torch.finfo(rows.deviation.dtype).tiny
        eps = described.eps_at(rows.divided.dtype) or 0.0
        below = rows.divided < (eps if described.traits.eps_place == "variance" else eps**2)
        if exempt is not None:
            below = below & ~exempt
        mean = rows.mean.abs()
        numbers = (mean, rows.deviation, mean / rows.deviation.clamp(min=tiny))
        self.rows.setdefault(norm, {})[t] = torch.stack(
            [*(number.median().double() for number in numbers), below.double().mean()]
        )

    def read(self) -> LayerSteps:
        """Compute the measurements of all steps."""
        steps = range(len(self.sizes))
        sizes, gradients = (
            [
                _line([_size(sums[t], width) if t in sums else None for t in steps])
                for sums, width in zip(part, self.widths, strict=True)
            ]
            for part in (self.state, self.gradients)
        )
        gain = self._gains()
        known = [math.log(each) for each in gain if each]
        names = [(gate, {t: shares.tolist() for t, shares in table.items()}) for gate, table in self.gates.items()]
        return LayerSteps(
            name=self.name,
            kind=self.kind,
            call=self.call,
            reverse=self.reverse,
            steps=len(self.sizes),
            sequences=max(self.sizes),
            h=sizes[0],
            c=sizes[1] if len(sizes) > 1 else (),
            gradient_h=gradients[0],
            gradient_c=gradients[1] if len(gradients) > 1 else (),
            gain=gain,
            fade=math.exp(sum(known) / len(known)) if known else None,
            growth=math.exp(min(sum(known), 700.0)) if known else None,
            lost=_lost(gradients, reverse=self.reverse),
            overflow=sum(
                any(t in sums and not math.isfinite(float(sums[t].sum())) for sums in self.gradients) for t in steps
            ),
            saturated={GATES[gate]: _line([shares[t][0] for t in steps]) for gate, shares in names},
            closed={GATES[gate]: _line([shares[t][1] for t in steps]) for gate, shares in names if gate in SIGMOIDS},
            norms=tuple(self._norm(norm, table) for norm, table in self.rows.items()),
        )

    def _gains(self) -> Line:
        """Return the gain of every step, over sequences that have run a step before it."""
        count = len(self.sizes)
        gains: list[float | None] = []
        for t in range(count):
            before, after = (t + 1, t - 1) if self.reverse else (t - 1, t + 1)
            if not 0 <= before < count or not any(t in part for part in self.through):
                gains.append(None)
                continue
            rows = min(self.sizes[t], self.sizes[before])
            arrives = sum(float(part[t][:rows].sum()) for part in self.through if t in part)
            leaves = float(self.gradients[0][t][:rows].sum()) if t in self.gradients[0] else 0.0
            if len(self.through) > 1:
                # The c after this step is read by the next one, and by what reads the final c.
                goes_on = min(rows, self.sizes[after]) if 0 <= after < count else 0
                if goes_on and after in self.through[1]:
                    leaves += float(self.through[1][after][:goes_on].sum())
                if self.end is not None:
                    leaves += float(self.end[goes_on:rows].sum())
            gains.append(math.sqrt(arrives / leaves) if leaves > 0 else None)
        return _line(gains)

    def _norm(self, norm: int, table: Mapping[int, Tensor]) -> NormSteps:
        place, described = self.norms[norm]
        numbers = [table[t].tolist() if t in table else [None] * 4 for t in range(len(self.sizes))]
        mean, deviation, ratio, below = (_line([each[k] for each in numbers]) for k in range(4))
        return NormSteps(
            name=described.name,
            place=place,
            mean=mean,
            deviation=deviation,
            ratio=ratio,
            below_eps=below if described.eps is not None else (None,) * len(below),
            eps=described.eps,
        )


def squares(tensor: Tensor) -> Tensor:
    """Return the sum of squares of every row in float64, in which the square of 1e-30 is not zero."""
    return tensor.detach().double().square().sum(-1)


def _size(sums: Tensor, width: int) -> float:
    return math.sqrt(float(sums.mean()) / width)


def _lost(gradients: Sequence[Line], *, reverse: bool) -> float:
    """Return the share of steps, of those that a gradient reaches, before the largest, at which all parts are lost."""
    lines = [[each or 0.0 for each in (reversed(line) if reverse else line)] for line in gradients]
    while lines[0] and not any(line[-1] for line in lines):
        lines = [line[:-1] for line in lines]
    if not lines[0]:
        return 0.0
    limits, largest = [LOST * max(line) for line in lines], max(range(len(lines[0])), key=lines[0].__getitem__)
    steps = list(zip(*lines, strict=True))
    lost = sum(all(each <= limit for each, limit in zip(step, limits, strict=True)) for step in steps[:largest])
    return lost / len(steps)


def _line(values: Sequence[float | None]) -> Line:
    """Round to four significant digits; a number that is not finite becomes None."""
    return tuple(None if value is None or not math.isfinite(value) else float(f"{value:.4g}") for value in values)
