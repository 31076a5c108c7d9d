"""Runs on disk matched to the arms of a study, and paired by seed; needs no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from normscope.results.aggregates import Aggregate
from normscope.results.statistics import paired_differences
from normscope.results.store import RunFolder, StudyFolder

RESAMPLING_SEED = 20191116
"""Seed of all resampling, combined with the label of the arm.

The same folder thus gives a bit-identical summary, and the intervals of an arm do not depend on the other arms.
"""

# What a run must share with its card: the key in run.json, and the key in card.json.
_CARD_WIDE = {
    "task": "task",
    "steps": "steps",
    "batch_size": "batch_size",
    "precision": "precision",
    "preset": "preset",
    "revision": "task_revision",
}
_ARM_WIDE = ("label", "norm", "placement", "arguments", "learning_rate", "warmup", "optimizer", "variant")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run folder with its description and, once it has ended, its result."""

    folder: RunFolder
    description: Mapping[str, Any]
    """run.json; empty for a run that failed before it was described."""
    result: Mapping[str, Any] | None
    """result.json; None while the run has not ended."""

    @cached_property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.path.name


@dataclass(frozen=True, kw_only=True)
class ArmRuns:
    """An arm of a card with its runs."""

    entry: Mapping[str, Any]
    """Entry of the arm in card.json."""
    runs: Mapping[int, StoredRun]
    """Runs by seed."""
    seeds: Sequence[int] = ()
    """Planned seeds."""
    scores: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    """Scores of a baseline by seed, which every arm is paired with, kept so that each file is read once."""

    @cached_property
    def planned(self) -> dict[int, Any]:
        """Names of the planned runs by seed; where the card has no names, something that only this arm has."""
        names = self.entry.get("runs") or {}
        return {seed: names.get(str(seed), (id(self), seed)) for seed in self.seeds}

    def until(self, count: int) -> "ArmRuns":
        """Return the arm with its first ``count`` planned seeds only."""
        if count >= len(self.seeds):
            return self
        seeds = dict.fromkeys(self.seeds[:count])
        return replace(self, runs={seed: run for seed, run in self.runs.items() if seed in seeds}, seeds=tuple(seeds))

    @cached_property
    def ended(self) -> dict[int, float | str]:
        """Values of the runs that ended, by seed; the state of a run that has no value."""
        return {
            seed: run.result["value"] if run.result["state"] == "done" else run.result["state"]
            for seed, run in sorted(self.runs.items())
            if run.result is not None
        }

    @cached_property
    def values(self) -> dict[int, float]:
        """Values of the done runs, by seed."""
        return {seed: value for seed, value in self.ended.items() if not isinstance(value, str)}

    @cached_property
    def resampled(self) -> bool:
        """Whether every seed drew its own split, so that different seeds were tested on different examples."""
        return any(run.description.get("split") == "resampled" for run in self.runs.values())

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds of the done runs; None for fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) >= 2 else None

    def median(self, key: str) -> float | None:
        """Return the median over the done runs of a number in ``result.json``, or None if no run has it."""
        results = [run.result for seed, run in self.runs.items() if seed in self.values and run.result is not None]
        numbers = [result[key] for result in results if result.get(key) is not None]
        return float(np.median(numbers)) if numbers else None

    def measures(self) -> dict[str, float] | None:
        """Return the mean over the done runs of each further result in ``result.json``, or None if there is none."""
        found = [
            run.result.get("measures") or {} for seed, run in self.runs.items() if seed in self.values and run.result
        ]
        names = [name for name in (found[0] if found else ()) if all(name in each for each in found)]
        return {name: float(np.mean([each[name] for each in found])) for name in names} or None

    @cached_property
    def curve(self) -> list[tuple[int, float, float]]:
        """Step, median validation loss and median seconds of every evaluation that all done runs made."""
        evaluations: dict[int, list[tuple[float, float]]] = {}
        for seed in self.values:
            for row in self.runs[seed].folder.read_metrics():
                if row.get("valid_loss") is not None and row.get("seconds") is not None:
                    evaluations.setdefault(row["step"], []).append((row["valid_loss"], row["seconds"]))
        complete = {step: rows for step, rows in sorted(evaluations.items()) if len(rows) == len(self.values)}
        medians = {step: np.median(rows, axis=0) for step, rows in complete.items()}
        return [(step, float(loss), float(seconds)) for step, (loss, seconds) in medians.items()]

    def generator(self) -> np.random.Generator:
        """Return the random generator for resampling this arm, seeded by its label."""
        return np.random.default_rng([RESAMPLING_SEED, *self.entry["label"].encode()])


def read_runs(study: StudyFolder, card: Mapping[str, Any]) -> tuple[list[StoredRun], list[str]]:
    """Read every run folder except those of tuning.

    Returns:
        The runs, and the names of the folders that have no description and are not named by the card.

    Raises:
        ValueError: If a file cannot be read or does not have the shape in docs/guides/studies.md; the message names it.
    """
    runs, foreign = [], []
    wanted = "resampled" if card.get("splits") == "resampled" else "study"
    named = {identity for entry in card["arms"] for identity in (entry.get("runs") or {}).values()}
    for name in study.begun():
        folder = study.run(name)
        description = folder.find_description() or {}
        if not description and name not in named:
            foreign.append(name)
        # A run may fail before it is described; the card knows it by name.
        elif description.get("split", wanted) == wanted:
            runs.append(StoredRun(folder=folder, description=description, result=folder.find_result()))
    return runs, foreign


def read_arms(study: StudyFolder, card: Mapping[str, Any]) -> list[ArmRuns]:
    """Read every arm of a card with its runs, in the order of the card.

    Raises:
        ValueError: As for :func:`read_runs` and :func:`match_runs`.
    """
    runs, _ = read_runs(study, card)
    return [match_runs(card, entry, runs) for entry in card["arms"]]


def match_runs(card: Mapping[str, Any], entry: Mapping[str, Any], runs: Sequence[StoredRun]) -> ArmRuns:
    """Select the runs of one arm of the card; a field that is null or absent in the card matches anything.

    Raises:
        ValueError: If two runs match one seed of the arm.
    """
    wanted = {key: entry.get(key) for key in _ARM_WIDE} | {key: card.get(name) for key, name in _CARD_WIDE.items()}
    wanted["signature"] = card["metric"].get("signature")
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found: dict[int, StoredRun] = {}
    planned = frozenset(card["seeds"])
    seeds = {identity: int(seed) for seed, identity in (entry.get("runs") or {}).items()}
    for run in runs:
        seed = run.description.get("seed", seeds.get(run.name))
        if seeds and seeds.get(run.name) != seed:
            continue
        same = all(run.description.get(key) in (None, value) for key, value in wanted.items())
        if seed not in planned or not same:
            continue
        if seed in found:
            raise ValueError(
                f"arm {entry['label']} has two runs with seed {seed}: {found[seed].folder.path} and {run.folder.path};"
                " move one of them out of the study"
            )
        found[seed] = run
    return ArmRuns(entry=entry, runs=found, seeds=card["seeds"])


def pair_values(arm: ArmRuns, base: ArmRuns) -> np.ndarray:
    """Return arm minus baseline over the seeds that are done in both, ``[P]`` in the order of the card."""
    sides = arm.values, base.values
    seeds = [seed for seed in arm.seeds if all(seed in side for side in sides)]
    ascending = paired_differences(*([(seed, side[seed]) for seed in seeds] for side in sides))
    return ascending[np.argsort(np.argsort(seeds))]


def pair_scores(arm: ArmRuns, base: ArmRuns, aggregate: Aggregate) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scores of all test examples for the pairs that have them, ``[P, E]`` or ``[P, E, K]`` per side.

    None if no pair has them, or every seed has its own test examples: then the pairs carry the noise of the test set.

    Raises:
        ValueError: If the runs have different numbers of examples, or scores contradict the value of their run.
    """
    scores, lengths = compare_scores(arm, base, aggregate)
    if lengths:
        raise ValueError(f"the runs have examples.npy of different lengths: {lengths}")
    return scores


def read_scores(
    arm: ArmRuns, base: ArmRuns, aggregate: Aggregate
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return the scores of the arm and of the baseline by seed, ``[E]`` or ``[E, K]``, for the pairs that have them.

    Raises:
        ValueError: If scores contradict the value of their run.
    """
    sides: tuple[dict[int, np.ndarray], dict[int, np.ndarray]] = ({}, {})
    for seed in sorted(arm.values.keys() & base.values.keys()):
        scores, others = _scores_of(arm, seed, aggregate), _scores_of(base, seed, aggregate)
        if scores is not None and others is not None:
            sides[0][seed], sides[1][seed] = scores, others
            base.scores[seed] = others
    return sides


def compare_scores(
    arm: ArmRuns, base: ArmRuns, aggregate: Aggregate
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Return the scores like :func:`pair_scores`, or describe how the numbers of test examples differ.

    Returns:
        The scores and an empty text; None and an empty text as for :func:`pair_scores`; or None and a text such as
        ``ada_norm on 150 in seed 1, else 200; …``.

    Raises:
        ValueError: If scores contradict the value of their run.
    """
    sides = ({}, {}) if arm.resampled else read_scores(arm, base, aggregate)
    if not sides[0]:
        return None, ""
    lengths = [{seed: len(scores) for seed, scores in side.items()} for side in sides]
    if len({length for side in lengths for length in side.values()}) > 1:
        labels = (arm.entry["label"], base.entry["label"])
        parts = [f"{label} on {_describe(side)}" for label, side in zip(labels, lengths, strict=True)]
        return None, "; ".join(parts)
    return (np.stack([*sides[0].values()]), np.stack([*sides[1].values()])), ""


def _describe(lengths: Mapping[int, int]) -> str:
    """Write ``150 in seed 1, else 200``, or ``200``."""
    (usual, _), *others = Counter(lengths.values()).most_common()
    parts = [
        f"{other} in seed {', '.join(str(seed) for seed, length in lengths.items() if length == other)}"
        for other, _ in others
    ]
    return ", ".join([*parts, f"else {usual}"]) if parts else str(usual)


def _scores_of(arm: ArmRuns, seed: int, aggregate: Aggregate) -> np.ndarray | None:
    if seed in arm.scores:
        return arm.scores[seed]
    folder = arm.runs[seed].folder
    scores = folder.read_examples()
    if scores is None:
        return None
    if not len(scores):
        raise ValueError(f"{folder.examples} must hold one score per test example, got an empty array")
    # The value was computed before the scores were rounded to float32.
    try:
        value = aggregate.value(scores)
    except ValueError as error:
        raise ValueError(f"{folder.examples}: {error}") from error
    size = float(np.abs(scores).max()) if aggregate.width == 1 else abs(value)
    if not abs(value - arm.values[seed]) <= 1e-5 * size + 1e-9:
        raise ValueError(
            f"{folder.examples} has {aggregate.name} {value}, its run has value {arm.values[seed]}: "
            "one of them was changed"
        )
    # One number per example may be stored as a column.
    return scores.reshape(-1) if aggregate.width == 1 else scores
