"""Why a published claim stays undecided here: data, a stand-in, time, or the size of the test set."""

from collections.abc import Sequence
from typing import Any

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.cell import Cell
from normscope.results.matching import ArmRuns
from normscope.results.statistics import MOST_SEEDS


def minutes_of(arms: Sequence[ArmRuns]) -> float | None:
    """Return the minutes that one more seed of some arms takes on one worker, or None if a time is unknown.

    They are the medians over the done runs.
    """
    seconds = [arm.median("seconds") for arm in arms]
    known = [each for each in seconds if each is not None]
    return sum(known) / 60 if len(known) == len(seconds) and known else None


def examples_of(arms: Sequence[ArmRuns]) -> int | None:
    """Return the number of test examples of some arms, or None if no run has stored its scores."""
    for arm in arms:
        for seed in arm.values:
            scores = arm.runs[seed].folder.read_examples()
            if scores is not None:
                return len(scores)
    return None


def obstacle(
    judgement: Judgement, *, minutes: float | None, examples: int | None, stand_in: str = ""
) -> dict[str, Any] | None:
    """Describe why a claim is not decided on this machine, and what would do.

    Args:
        judgement: Judgement of a difference, or of a claim that an arm does not train.
        minutes: Minutes that one more seed of both arms takes on one worker; None if unknown.
        examples: Number of test examples in our runs; None if unknown.
        stand_in: Difference of the stand-in from the data of the paper; empty if it is not a stand-in.

    Returns:
        ``{"kind", "words", "minutes", "examples"}``, with None for what does not apply; None if it is decided,
        or not a claim. ``kind`` is ``data``, ``time``, ``examples``, ``training``, ``scorer``, ``size`` or ``curves``.
    """
    cell, verdict = judgement.cell, judgement.verdict
    if not isinstance(cell, Cell) or cell.kind == "value" or verdict in ("reproduced", "not reproduced"):
        return None
    found: dict[str, Any] = {"kind": "time", "minutes": None, "examples": None}
    if verdict == "not run here":
        found |= {"kind": "data", "words": judgement.because}
    elif verdict.endswith("larger test set"):
        found |= {"kind": "examples", "examples": examples_needed(judgement, examples)}
        found["words"] = _examples_words(found["examples"], examples)
    elif judgement.seeds_needed is not None:
        more = max(judgement.seeds_needed - judgement.pairs, 1)
        found["minutes"] = None if minutes is None else more * minutes
        time = "" if minutes is None else f", about {more * minutes:,.0f} minutes on one worker"
        found["words"] = f"{more} more seeds of both arms{time}"
    elif verdict == f"cannot tell: needs over {MOST_SEEDS} seeds":
        found["words"] = f"more than {MOST_SEEDS} seeds" + (
            "" if minutes is None else f", over {MOST_SEEDS * minutes:,.0f} minutes on one worker"
        )
    elif verdict == "cannot tell: cut short":
        found["words"] = f"the runs are too short: {judgement.because}"
    elif "train" in verdict:
        found |= {"kind": "training", "words": judgement.because or verdict.removeprefix("cannot tell: ")}
    else:
        kind = "scorer" if "scorer" in verdict else "curves" if verdict.endswith("times do not decide") else "size"
        found |= {"kind": kind, "words": judgement.because or verdict.removeprefix("cannot tell: ")}
    if stand_in and found["kind"] != "data":
        found["words"] += f"; and on a stand-in: {stand_in}"
    return found


def examples_needed(judgement: Judgement, examples: int | None) -> int | None:
    r"""Return the number of test examples with which the interval over them would exclude zero.

    The interval is as wide as :math:`1 / \sqrt{n}`, so with half-width w and difference d, it takes
    :math:`n (w / d)^2` of n examples; None if it is unknown or infinite.
    """
    if examples is None or judgement.interval_examples is None or not judgement.ours:
        return None
    low, high = judgement.interval_examples
    return max(examples + 1, round(examples * ((high - low) / 2 / abs(judgement.ours)) ** 2))


def _examples_words(needed: int | None, examples: int | None) -> str:
    if needed is None:
        return "the test set is too small, however many seeds there are"
    return f"the test set has {examples:,} examples; a difference like ours takes about {needed:,}"
