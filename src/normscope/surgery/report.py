"""What a swap did, what it could not do, and the way back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normscope.inspection.find import Unreached


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """One norm that is another now."""

    name: str
    """Where it stands."""
    tied: tuple[str, ...]
    """Its further names, where the module is tied."""
    old: str
    """Class of what stood there."""
    new: str
    """Class of what stands there."""
    parameters_before: int
    parameters_after: int
    kept: tuple[str, ...]
    """What of the old one the new one has: eps, gain, bias, hooks, ..."""
    lost: tuple[str, ...]
    """What of the old one has no place in the new."""
    difference: float
    """Largest difference of the outputs on random rows, over the largest old output: 0 is the same function. NaN where
    the new one cannot be run in float64 on a CPU."""
    module: nn.Module = field(repr=False)
    """What stands there."""


@dataclass(frozen=True, kw_only=True)
class SwapReport:
    """What became of a model's norms. ``print(report)`` is a table."""

    what: str
    to: str
    model: str
    """The model's class."""
    replaced: tuple[Replaced, ...]
    skipped: tuple[str, ...]
    """Norms of the kind that was asked for which ``where`` left out."""
    unreached: tuple[Unreached, ...]
    """Norms that stay what they are, for a reason that is told; whatever their kind."""
    notes: tuple[str, ...]
    """What else was changed, or is to be known."""
    parameters_before: int
    """Of the whole model."""
    parameters_after: int
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put everything back: modules, the values of their parameters and moments to the bit, an optimizer's groups.

        The optimizer's state of these parameters becomes what it was at the swap, too, for it belongs to the values.
        What training did meanwhile to the rest of the model stays. What was done to the new norms' device, dtype, mode
        and ``requires_grad`` is done to the old ones, and hooks that came to the new ones stay. Swaps at different
        places can be undone in any order.

        Raises:
            RuntimeError: If it was undone before, or something else stands in a place now, such as a later swap,
                which is to be undone first, or the place itself or a group of the optimizer is gone. Nothing is changed
                then.
        """
        self._undo()

    def unused(self, run: Callable[[], Any]) -> list[str]:
        """Run the model and tell which of the replacements had no part in it.

        Args:
            run: Runs the model, such as ``lambda: model(batch)``.

        Returns:
            Names of replacements whose forward was not called; none when every swap was felt.
        """
        called: set[str] = set()
        found: list[tuple[dict[str, Any], Any, Any]] = []
        for one in self.replaced:
            own = vars(one.module)
            before = own.get("forward")

            def forward(*args: Any, _one: Replaced = one, _before: Any = before, **named: Any) -> Any:
                called.add(_one.name)
                if _before is not None:
                    return _before(*args, **named)
                return type(_one.module).forward(_one.module, *args, **named)

            # Not a hook: modules look at hooks to choose between paths, as nn.TransformerEncoderLayer does.
            own["forward"] = forward
            found.append((own, before, forward))
        try:
            run()
        finally:
            for own, before, forward in found:
                if own.get("forward") is forward:
                    del own["forward"]
                    if before is not None:
                        own["forward"] = before
        return [one.name for one in self.replaced if one.name not in called]

    def __str__(self) -> str:
        """Return a table of at most 120 columns, unless a name is longer."""
        change = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters"
        lines = [f"{self.model}: {self.what} -> {self.to}, {len(self.replaced)} replaced, {change}", ""]
        rows = [("name", "old", "new", "parameters", "difference", "kept", "lost")]
        for names, one in _alike(self.replaced):
            count = f"{one.parameters_before} -> {one.parameters_after}"
            shown = (one.old, one.new, count, _number(one.difference))
            rows.append((names, *shown, ", ".join(one.kept) or "-", ", ".join(one.lost) or "-"))
        lines += _columns(rows)
        if self.skipped:
            lines += ["", f"left out by where: {', '.join(self.skipped)}"]
        if self.unreached:
            lines += ["", "not reached:"]
            lines += [f"  {_place(one)}: {one.why}{f' ({one.where})' if one.where else ''}" for one in self.unreached]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def _number(difference: float) -> str:
    return "not measured" if math.isnan(difference) else f"{difference:.1e}"


def _place(one: Unreached) -> str:
    return f"{one.name or 'the model itself'} [{one.what}]"


def _alike(replaced: Sequence[Replaced]) -> list[tuple[str, Replaced]]:
    """Join rows that differ by the numbers in their names alone: ``layers.*.norm1 (12)``."""
    rows: dict[tuple[Any, ...], list[Replaced]] = {}
    for one in replaced:
        pattern = ".".join("*" if part.isdecimal() else part for part in one.name.split("."))
        facts = (one.old, one.new, one.parameters_before, one.parameters_after, one.kept, one.lost, bool(one.tied))
        rows.setdefault((pattern, *facts), []).append(one)
    joined = []
    for ones in rows.values():
        worst = max(ones, key=lambda one: math.inf if math.isnan(one.difference) else one.difference)
        parts = zip(*(one.name.split(".") for one in ones), strict=True)
        pattern = ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts)
        name = f"{pattern} ({len(ones)})" if len(ones) > 1 else pattern
        tied = f" = {' = '.join(ones[0].tied)}" if len(ones) == 1 and ones[0].tied else ""
        joined.append((name + tied, worst))
    return joined


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
