"""Which run of a study's folder belongs to which arm, and the numbers of its pairs; needs no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.results.aggregates import Aggregate
from normscope.results.statistics import paired_differences
from normscope.results.store import RunFolder, StudyFolder

RESAMPLING_SEED = 20191116
"""Of every resampled number, together with the arm's label: the same folder gives the same summary to the bit, and an
arm's intervals do not depend on the other arms."""

# What a run must share with its card; `task_revision` is what the card calls a run's `revision`.
_CARD_WIDE = {
    "task": "task",
    "steps": "steps",
    "batch_size": "batch_size",
    "precision": "precision",
    "preset": "preset",
}
_CARD_WIDE |= {"revision": "task_revision"}
_ARM_WIDE = ("label", "norm", "placement", "arguments", "learning_rate", "warmup")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder that says what it is."""

    folder: RunFolder
    described: Mapping[str, Any]
    result: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm of the card with its runs, by seed."""

    entry: Mapping[str, Any]
    runs: Mapping[int, Run]

    @property
    def ended(self) -> dict[int, float | str]:
        """Values of the runs that ended; the state of one that has none."""
        return {
            seed: run.result["value"] if run.result["state"] == "done" else run.result["state"]
            for seed, run in sorted(self.runs.items())
            if run.result is not None
        }

    @property
    def values(self) -> dict[int, float]:
        """Values of the runs that are done."""
        return {seed: value for seed, value in self.ended.items() if not isinstance(value, str)}

    @property
    def sd(self) -> float | None:
        """Spread over the seeds that are done."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) >= 2 else None

    def median(self, key: str) -> float | None:
        """Median of a number in ``result.json`` over the runs that are done."""
        results = [run.result for seed, run in self.runs.items() if seed in self.values and run.result is not None]
        numbers = [result[key] for result in results if result.get(key) is not None]
        return float(np.median(numbers)) if numbers else None

    def curve(self) -> list[tuple[int, float, float]]:
        """Give step, validation loss and seconds of every evaluation that all done runs made: the median run."""
        looks: dict[int, list[tuple[float, float]]] = {}
        for seed in self.values:
            for row in self.runs[seed].folder.read_metrics():
                if row.get("valid_loss") is not None and row.get("seconds") is not None:
                    looks.setdefault(row["step"], []).append((row["valid_loss"], row["seconds"]))
        whole = {step: np.median(found, axis=0) for step, found in looks.items() if len(found) == len(self.values)}
        return [(step, float(whole[step][0]), float(whole[step][1])) for step in sorted(whole)]

    def generator(self) -> np.random.Generator:
        """Source of this arm's resamples."""
        return np.random.default_rng([RESAMPLING_SEED, *self.entry["label"].encode()])


def read_runs(study: StudyFolder, card: Mapping[str, Any]) -> tuple[list[Run], list[str]]:
    """Read every run folder but tuning's, and name the folders that do not say what they are.

    Raises:
        ValueError: If a file cannot be read, or has another shape than docs/guides/studies.md says; it is named.
    """
    runs, foreign = [], []
    home = study.path / "runs"
    named = {identity for entry in card["arms"] for identity in (entry.get("runs") or {}).values()}
    for path in sorted(home.iterdir()) if home.is_dir() else []:
        folder = study.run(path.name)
        if not folder.description.exists() and path.name not in named:
            foreign.append(path.name)
            continue
        # A run may fail before it is described; the card knows it by name.
        described = folder.read_description() if folder.description.exists() else {}
        if described.get("split", "study") == "study":
            result = folder.read_result() if folder.finished() else None
            runs.append(Run(folder=folder, described=described, result=result))
    return runs, foreign


def match_runs(card: Mapping[str, Any], entry: Mapping[str, Any], runs: Sequence[Run]) -> Arm:
    """Find the runs of one of the card's arms; what the card leaves open, by null or absence, matches anything.

    Raises:
        ValueError: If two runs claim one seed of the arm.
    """
    wanted = {key: entry.get(key) for key in _ARM_WIDE} | {key: card.get(name) for key, name in _CARD_WIDE.items()}
    wanted["signature"] = card["metric"].get("signature")
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found: dict[int, Run] = {}
    seeds = {identity: int(seed) for seed, identity in (entry.get("runs") or {}).items()}
    for run in runs:
        seed = run.described.get("seed", seeds.get(run.folder.path.name))
        if seeds and seeds.get(run.folder.path.name) != seed:
            continue
        same = all(run.described.get(key) in (None, value) for key, value in wanted.items())
        if seed is None or seed not in card["seeds"] or not same:
            continue
        if seed in found:
            raise ValueError(
                f"arm {entry['label']} has two runs with seed {seed}: {found[seed].folder.path} and {run.folder.path};"
                " move one of them out of the study"
            )
        found[seed] = run
    return Arm(entry=entry, runs=found)


def pair_values(arm: Arm, base: Arm) -> np.ndarray:
    """Give arm minus baseline over the seeds that both finished, ``[P]`` in ascending order of the seeds."""
    seeds = arm.values.keys() & base.values.keys()
    ours, theirs = ([(seed, side.values[seed]) for seed in seeds] for side in (arm, base))
    return paired_differences(ours, theirs)


def pair_scores(arm: Arm, base: Arm, aggregate: Aggregate) -> tuple[np.ndarray, np.ndarray] | None:
    """Give both sides' scores of every test example, ``[P, E]`` or ``[P, E, K]`` each, of pairs that have them.

    Raises:
        ValueError: If their lengths differ, or one contradicts the value of its run.
    """
    scores, lengths = compare_scores(arm, base, aggregate)
    if lengths:
        raise ValueError(f"the runs have examples.npy of different lengths: {lengths}")
    return scores


def compare_scores(arm: Arm, base: Arm, aggregate: Aggregate) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Give both sides' scores as :func:`pair_scores` does, or in words which runs have how many.

    Returns:
        The scores and no words; or None, and words where the numbers of test examples differ.

    Raises:
        ValueError: If one contradicts the value of its run.
    """
    seeds = sorted(arm.values.keys() & base.values.keys())
    pairs = {seed: (_scores_of(arm, seed, aggregate), _scores_of(base, seed, aggregate)) for seed in seeds}
    kept = {seed: (ours, theirs) for seed, (ours, theirs) in pairs.items() if ours is not None and theirs is not None}
    if not kept:
        return None, ""
    ours, theirs = ({seed: pair[side] for seed, pair in kept.items()} for side in (0, 1))
    lengths = [{seed: len(scores) for seed, scores in side.items()} for side in (ours, theirs)]
    if len({length for side in lengths for length in side.values()}) > 1:
        told = [f"{one.entry['label']} on {_in_words(side)}" for one, side in zip((arm, base), lengths, strict=True)]
        return None, "; ".join(told)
    return (np.stack([*ours.values()]), np.stack([*theirs.values()])), ""


def _in_words(lengths: Mapping[int, int]) -> str:
    """Write ``150 in seed 1, else 200``, or ``200``."""
    (usual, _), *others = Counter(lengths.values()).most_common()
    parts = [
        f"{other} in seed {', '.join(str(seed) for seed, length in lengths.items() if length == other)}"
        for other, _ in others
    ]
    return ", ".join([*parts, f"else {usual}"]) if parts else str(usual)


def _scores_of(arm: Arm, seed: int, aggregate: Aggregate) -> np.ndarray | None:
    folder = arm.runs[seed].folder
    scores = folder.read_examples()
    if scores is None:
        return None
    if not len(scores):
        raise ValueError(f"{folder.examples} must hold one score a test example, got none")
    # The value was computed before the scores were rounded to float32.
    try:
        value = aggregate.value(scores)
    except ValueError as error:
        raise ValueError(f"{folder.examples}: {error}") from error
    size = float(np.abs(scores).max()) if aggregate.width == 1 else abs(value)
    if not abs(value - arm.values[seed]) <= 1e-5 * size + 1e-9:
        what = "mean" if aggregate.name == "mean" else aggregate.name
        raise ValueError(f"{folder.examples} has {what} {value}, its run has value {arm.values[seed]}: one was changed")
    # One number an example may stand in a column.
    return scores.reshape(-1) if aggregate.width == 1 else scores
