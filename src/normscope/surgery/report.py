"""The report of a swap: what it replaced, what it could not, and the undo."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normscope.inspection.norm_in_model import Unreachable


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """One norm or recurrent layer that was replaced."""

    name: str
    """Its place in the model."""
    tied: tuple[str, ...]
    """Its further names if the module is tied."""
    old: str
    """Class of the old module."""
    new: str
    """Class of the new module."""
    parameters_before: int
    parameters_after: int
    kept: tuple[str, ...]
    """What the new module takes over from the old one: eps, weight, bias, hooks, ..."""
    lost: tuple[str, ...]
    """What the old module has and the new one does not."""
    difference: float
    """Largest difference of the outputs on random rows of a size of about one, over the largest old output; 0 for the
    same function. NaN if the new module does not run."""
    difference_when_small: float
    """The same on rows whose size meets the eps of the old or of the new norm; NaN for a recurrent layer."""
    module: nn.Module = field(repr=False)
    """The new module."""


@dataclass(frozen=True, kw_only=True)
class SwapReport:
    """What happened to a model's norms or recurrent layers. ``print(report)`` prints a table.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> report = normscope.swap(model, "layer_norm", "ada_norm")
        >>> report.parameters_before - report.parameters_after, report.replaced[0].lost
        (16, ('weight', 'bias'))
    """

    what: str
    to: str
    model: str
    """The model's class."""
    replaced: tuple[Replaced, ...]
    skipped: tuple[str, ...]
    """Modules of the requested kind that ``where`` excludes."""
    unreachable: tuple[Unreachable, ...]
    """Norms or recurrent layers of any kind that cannot be replaced, with the reason."""
    notes: tuple[str, ...]
    """What else was changed or needs attention."""
    parameters_before: int
    """Of the whole model."""
    parameters_after: int
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Restore the modules, the values of their parameters and moments to the bit, and the optimizer's groups.

        The optimizer's state of these parameters is restored as well, as it belongs to their values. The rest of the
        model keeps what it learned since. The old modules follow the device, dtype, mode and ``requires_grad`` of the
        new ones, and hooks added to the new ones stay. Swaps at different places can be undone in any order.

        Raises:
            RuntimeError: If it was undone before; if another module is in one of the places, such as one of a later
                swap, which must be undone first; if a place or a group of the optimizer no longer exists. Nothing is
                changed then.
        """
        self._undo()

    def unused(self, run: Callable[[], Any]) -> list[str]:
        """Run the model and list the replacements that were not used.

        Args:
            run: Runs the model, such as ``lambda: model(batch)``.

        Returns:
            Names of replacements whose forward was not called; empty if all were.
        """
        called: set[str] = set()
        patched: list[tuple[dict[str, Any], Any, Any]] = []
        for one in self.replaced:
            attributes = vars(one.module)
            before = attributes.get("forward")

            def forward(*args: Any, _one: Replaced = one, _before: Any = before, **named: Any) -> Any:
                called.add(_one.name)
                if _before is not None:
                    return _before(*args, **named)
                return type(_one.module).forward(_one.module, *args, **named)

            # Not a hook: nn.TransformerEncoderLayer, for one, takes another path if there are hooks.
            attributes["forward"] = forward
            patched.append((attributes, before, forward))
        try:
            run()
        finally:
            for attributes, before, forward in patched:
                if attributes.get("forward") is forward:
                    del attributes["forward"]
                    if before is not None:
                        attributes["forward"] = before
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
            lines += ["", f"excluded by where: {', '.join(self.skipped)}"]
        if self.unreachable:
            lines += ["", "unreachable:"]
            lines += [f"  {_place(one)}: {one.why}{f' ({one.where})' if one.where else ''}" for one in self.unreachable]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def _number(difference: float) -> str:
    return "not measured" if math.isnan(difference) else f"{difference:.1e}"


def _place(one: Unreachable) -> str:
    return f"{one.name or 'the model itself'} [{one.what}]"


def _alike(replaced: Sequence[Replaced]) -> list[tuple[str, Replaced]]:
    """Join rows that differ only by the numbers in their names: ``layers.*.norm1 (12)``."""
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
