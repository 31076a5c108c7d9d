"""Exit codes that a script can act on: what ``--gate`` makes of the verdicts of ``judge`` and ``compare``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from normscope.results import ArmSummary, Summary

Decision = Literal["better", "equivalent", "worse", "undecided", "fails"]

EXIT_CODES: dict[Decision, int] = {"better": 0, "equivalent": 10, "worse": 11, "undecided": 12, "fails": 13}
"""Exit code by decision; 1 is an error, 2 unusable input, 130 an interruption."""

_PESSIMISTIC: tuple[Decision, ...] = ("worse", "fails", "undecided", "equivalent", "better")
"""The first of these that any comparison has is that of all of them."""

GATE = Annotated[
    bool,
    Parameter(
        help="end with an exit code for scripts: 0 every arm is better, 10 equivalent, 11 worse, 12 undecided, 13 runs "
        "fail; of several arms the first in the order worse, fails, undecided, equivalent, better counts (1: an error, "
        "2: unusable input)"
    ),
]
"""The option ``--gate``."""

GATE_ARM = Annotated[str | None, Parameter(help="with --gate: the arm whose verdict decides, instead of all arms")]
"""The option ``--gate-arm``."""


def decision(arm: "ArmSummary") -> Decision:
    """Return what the verdict on an arm decides; an exploratory claim has no error rate and decides nothing."""
    from normscope.report.drawing.format import split_verdict, verdict_kind

    failures, rest = split_verdict(arm)
    kind = verdict_kind(rest)
    # Those of the baseline alone are at the beginning of the rest.
    if failures or rest.startswith("the baseline "):
        return "fails"
    return kind if kind in ("better", "worse", "equivalent") and "exploratory" not in rest else "undecided"


def check_gate_arm(labels: Sequence[str], baseline: str, arm: str | None) -> None:
    """Check that an arm for ``--gate-arm`` is one that is compared, before anything is computed.

    Raises:
        ValueError: If it is not.
    """
    others = [label for label in dict.fromkeys(labels) if label != baseline]
    if arm is not None and arm not in others:
        raise ValueError(f"there is no arm {arm!r} for --gate-arm to compare; there are {', '.join(others) or 'none'}")


def gate(summaries: "Sequence[Summary]", arm: str | None = None) -> Decision:
    """Return the decision of all comparisons of some studies, or of one arm in them; undecided without comparisons.

    Args:
        summaries: The summaries.
        arm: Label of the arm; None for all of them.
    """
    arms = [each for summary in summaries for each in summary.arms if each.label != summary.baseline]
    decisions = {decision(each) for each in arms if arm in (None, each.label)}
    for each in _PESSIMISTIC:
        if each in decisions:
            return each
    return "undecided"
