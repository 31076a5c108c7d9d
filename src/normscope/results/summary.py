"""A study's numbers, drawn from its folder: which run belongs to which arm, and what the runs say; needs no torch.

``docs/studies.md`` has every field. Nothing here is kept: a summary can be made again from the runs at any time.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from normscope.results.statistics import MOST_SEEDS, Interval, bca_interval, holm, paired_differences, seeds_needed
from normscope.results.store import FINAL_STATES, SCHEMA, RunFolder, StudyFolder, read_json, write_bytes, write_json
from normscope.results.verdict import Evidence, verdict, weigh

RESAMPLING_SEED = 20191116
"""Of every resampled number, together with the arm's label: the same folder gives the same summary to the bit, and an
arm's intervals do not depend on the other arms."""

_SETTINGS = ("device", "device_name", "backend", "precision", "batch_size", "steps", "threads")

# What a run must share with its card; `task_revision` is what the card calls a run's `revision`.
_CARD_WIDE = {"task": "task", "steps": "steps", "batch_size": "batch_size", "precision": "precision"}
_CARD_WIDE |= {"revision": "task_revision"}
_ARM_WIDE = ("label", "norm", "placement", "arguments", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One planned run."""

    seed: int
    """Which pair it belongs to."""
    state: str
    """``done``, ``diverged``, ``failed``, ``interrupted`` or ``planned``."""
    value: float | None
    """The metric on the test set, of a run that is done."""
    steps: int | None
    """Optimizer updates made; of an interrupted run, up to its last evaluation."""
    id: str | None
    """Name of its folder."""


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm against the baseline; what cannot be said is None."""

    label: str
    """Its name on the card."""
    norm: str
    """Which norm."""
    placement: str
    """Where it stands."""
    arguments: Mapping[str, Any]
    """Of the norm."""
    learning_rate: float | None
    """Of its runs."""
    parameters: int | None
    """Trained numbers in its model."""
    runs: tuple[RunSummary, ...]
    """One a planned seed, in the card's order."""
    mean: float | None
    """Over the runs that are done, in the metric's unit; diverged and failed ones are in ``failures``."""
    sd: float | None
    """Over the same runs, n - 1 in the denominator; None below two."""
    worst: float | None
    """Worst value; None also where a run failed, which no value is worse than."""
    pairs: int
    """Seeds that the arm and the baseline both finished."""
    unpaired: tuple[int, ...]
    """Seeds that one of the two finished alone."""
    failures: int
    """Runs that diverged or failed."""
    difference: float | None
    """Mean of arm minus baseline over the pairs."""
    interval: Interval | None
    """t interval at level 1 - alpha: the verdict's."""
    interval_bca: Interval | None
    """Bootstrap interval at the same level; too narrow for few pairs."""
    interval_examples: Interval | None
    """Bootstrap over test examples at the same level."""
    p: float | None
    """Sign-flip test."""
    p_adjusted: float | None
    """The same after Holm over every comparison of the card, the untuned ones included."""
    p_equivalent: float | None
    """Two one-sided tests."""
    effect: float | None
    """Difference in units of the baseline's standard deviation over seeds."""
    improvement: float | None
    """Share of pairs in which the arm is better."""
    seeds_needed: int | None
    """About how many more; see :func:`normscope.results.verdict.weigh`."""
    verdict: str
    """In words; ``baseline`` for the baseline."""
    step_ms: float | None
    """Median over the done runs, like the three below."""
    peak_bytes: int | None
    """Most memory held at once."""
    saved_bytes: int | None
    """Kept from the forward for the backward pass."""
    seconds: float | None
    """Of a whole run."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study's answer."""

    card: Mapping[str, Any]
    """card.json as it was read."""
    baseline: str
    """Label of the arm that the others are compared with."""
    complete: bool
    """Whether every planned run has ended."""
    noise: Mapping[str, Any]
    """The baseline's spread over seeds: ``sigma`` (n - 1 in the denominator), ``n``, ``words``."""
    arms: tuple[ArmSummary, ...]
    """The arms of the question: the tuned ones where the card has any."""
    untuned: tuple[ArmSummary, ...] | None
    """The same at the task's learning rate, against the untuned baseline; None where nothing was tuned."""
    settings: Mapping[str, Any]
    """Every value that occurs among the matched runs, as lists; ``foreign_runs`` names the folders left out."""
    versions: Mapping[str, Sequence[str]]
    """Every version of every package among the matched runs; more than one is worth a warning."""

    def to_dict(self) -> dict[str, Any]:
        """Give the content of ``summary.json``."""
        card = self.card
        return {
            "schema": SCHEMA,
            "task": card["task"],
            "question": card["question"],
            "metric": {key: card["metric"][key] for key in ("name", "unit", "higher_is_better")},
            "baseline": self.baseline,
            "margin": card["margin"],
            "alpha": card["alpha"],
            "complete": self.complete,
            "noise": dict(self.noise),
            "arms": [_plain(arm) for arm in self.arms],
            "untuned": None if self.untuned is None else [_plain(arm) for arm in self.untuned],
            "tuning": card.get("tuning"),
            "regime": card.get("regime"),
            "command": card.get("command"),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "published": card.get("published", []),
        }

    def write(self, directory: Path) -> None:
        """Write ``summary.json`` and ``summary.csv``, each atomically; a number that is not finite is a ValueError."""
        study = StudyFolder(Path(directory))
        write_json(study.summary, self.to_dict())
        write_bytes(study.table, self.to_csv().encode())

    def to_csv(self) -> str:
        """Give ``summary.csv``: a row an arm, a column a number or a seed; what cannot be said is empty."""
        intervals = ("interval", "interval_bca", "interval_examples")
        rows = []
        tuned = "" if self.untuned is None else 1
        for mark, arm in [*((tuned, arm) for arm in self.arms), *((0, arm) for arm in self.untuned or ())]:
            row: dict[str, Any] = {"tuned": mark}
            for name, value in _plain(arm).items():
                if name in intervals:
                    row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
                elif name == "arguments":
                    row[name] = json.dumps(value) if value else ""
                elif name == "unpaired":
                    row[name] = " ".join(map(str, value))
                elif name != "runs":
                    row[name] = value
            row |= {f"seed_{run.seed}": run.state if run.value is None else run.value for run in arm.runs}
            rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run folder that says what it is."""

    folder: RunFolder
    described: Mapping[str, Any]
    result: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """An arm of the card with its runs, by seed."""

    entry: Mapping[str, Any]
    runs: Mapping[int, _Run]

    @property
    def ended(self) -> dict[int, float | None]:
        """Values of the runs that ended; None for one that diverged or failed."""
        return {
            seed: run.result["value"] if run.result["state"] == "done" else None
            for seed, run in sorted(self.runs.items())
            if run.result is not None
        }

    @property
    def values(self) -> dict[int, float]:
        """Values of the runs that are done."""
        return {seed: value for seed, value in self.ended.items() if value is not None}

    @property
    def sd(self) -> float | None:
        """Spread over the seeds that are done."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) >= 2 else None

    def median(self, key: str) -> float | None:
        """Median of a number in ``result.json`` over the runs that are done."""
        results = [run.result for seed, run in self.runs.items() if seed in self.values and run.result is not None]
        numbers = [result[key] for result in results if result.get(key) is not None]
        return float(np.median(numbers)) if numbers else None

    def generator(self) -> np.random.Generator:
        """Source of this arm's resamples."""
        return np.random.default_rng([RESAMPLING_SEED, *self.entry["label"].encode()])


def summarize(directory: Path) -> Summary:
    """Read a study and say what it found.

    A run belongs to an arm if its label, norm, placement, arguments and learning rate are the arm's, its seed is one
    of the card's, and its task, steps, batch size and precision are the card's; where the card names the arm's runs,
    it is one of them. So a run may serve a tuned and an untuned arm with one learning rate. Runs that only chose a
    learning rate are left out. Resampling is seeded by
    :data:`RESAMPLING_SEED`. A folder without a card is a FileNotFoundError; a file that cannot be read, or that
    contradicts the card or another file, is a ValueError that names it.

    Args:
        directory: The study's folder.

    Returns:
        The summary; :meth:`Summary.write` puts it on disk.
    """
    study = StudyFolder(Path(directory))
    card = study.read_card()
    runs, foreign = _read_runs(study, card)
    arms = [_match(card, entry, runs) for entry in card["arms"]]
    groups = [[arm for arm in arms if arm.entry["tuned"]], [arm for arm in arms if not arm.entry["tuned"]]]
    baselines = [_find_baseline(card, group, study.card) for group in groups if group]
    groups = [group for group in groups if group]
    told = _summarize_groups(card, groups, baselines)
    used = {run.folder.path.name for arm in arms for run in arm.runs.values()}
    chosen = [run.described for run in runs if run.folder.path.name in used]
    foreign += [run.folder.path.name for run in runs if run.folder.path.name not in used]
    return Summary(
        card=card,
        baseline=card["baseline"],
        complete=all(run.state in FINAL_STATES for group in told for arm in group for run in arm.runs),
        noise=_noise(card, baselines[0]),
        arms=told[0],
        untuned=told[1] if len(told) > 1 else None,
        settings={
            **{key: _distinct([described.get(key) for described in chosen]) for key in _SETTINGS},
            "data": _distinct_values([described.get("data") for described in chosen]),
            "foreign_runs": sorted(foreign),
        },
        versions=_distinct_values([described.get("versions") for described in chosen]),
    )


def _read_runs(study: StudyFolder, card: Mapping[str, Any]) -> tuple[list[_Run], list[str]]:
    """Read every run folder but tuning's, and name the folders that do not say what they are."""
    runs, foreign = [], []
    home = study.path / "runs"
    named = {identity for entry in card["arms"] for identity in (entry.get("runs") or {}).values()}
    for path in sorted(home.iterdir()) if home.is_dir() else []:
        folder = study.run(path.name)
        if not folder.description.exists() and path.name not in named:
            foreign.append(path.name)
            continue
        # A run may fail before it is described; the card knows it by name.
        described = read_json(folder.description) if folder.description.exists() else {}
        if described.get("split", "study") == "study":
            result = _checked(read_json(folder.result), folder.result) if folder.finished() else None
            runs.append(_Run(folder=folder, described=described, result=result))
    return runs, foreign


def _checked(result: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    state, value = result.get("state"), result.get("value")
    if state not in FINAL_STATES:
        raise ValueError(f"{path} has state {state!r}, expected one of {', '.join(FINAL_STATES)}")
    if state == "done" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{path} is done and needs a value, got {value!r}")
    return result


def _match(card: Mapping[str, Any], entry: Mapping[str, Any], runs: Sequence[_Run]) -> _Arm:
    # What the card leaves open, with null or without the field, matches anything.
    wanted = {key: entry.get(key) for key in _ARM_WIDE} | {key: card.get(name) for key, name in _CARD_WIDE.items()}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found: dict[int, _Run] = {}
    seeds = {identity: int(seed) for seed, identity in (entry.get("runs") or {}).items()}
    for run in runs:
        seed = run.described.get("seed", seeds.get(run.folder.path.name))
        if seeds and seeds.get(run.folder.path.name) != seed:
            continue
        same = all(run.described.get(key, value) == value for key, value in wanted.items())
        if seed is None or seed not in card["seeds"] or not same:
            continue
        if seed in found:
            raise ValueError(
                f"arm {entry['label']} has two runs with seed {seed}: {found[seed].folder.path} and {run.folder.path};"
                " move one of them out of the study"
            )
        found[seed] = run
    return _Arm(entry=entry, runs=found)


def _find_baseline(card: Mapping[str, Any], group: Sequence[_Arm], path: Path) -> _Arm:
    labels = [arm.entry["label"] for arm in group]
    if labels.count(card["baseline"]) != 1 or len(set(labels)) < len(labels):
        raise ValueError(f"{path} needs its baseline {card['baseline']!r} once among different arms, got {labels}")
    return group[labels.index(card["baseline"])]


def _comparisons(card: Mapping[str, Any]) -> int:
    """Count the arms that are compared with a baseline, tuned or not: Holm's family is the card."""
    return sum(entry["label"] != card["baseline"] for entry in card["arms"])


def _summarize_groups(
    card: Mapping[str, Any], groups: Sequence[Sequence[_Arm]], baselines: Sequence[_Arm]
) -> list[tuple[ArmSummary, ...]]:
    couples = [(arm, base) for group, base in zip(groups, baselines, strict=True) for arm in group]
    evidence = [None if arm is base else _weigh(card, arm, base) for arm, base in couples]
    adjusted = iter(holm([each.p for each in evidence if each is not None]))
    told = iter(
        [
            _summarize_arm(card, arm, base, each, None if each is None else next(adjusted))
            for (arm, base), each in zip(couples, evidence, strict=True)
        ]
    )
    return [tuple(next(told) for _ in group) for group in groups]


def _weigh(card: Mapping[str, Any], arm: _Arm, base: _Arm) -> Evidence:
    return weigh(
        _differences(arm, base),
        scores=_scores(arm, base),
        higher_is_better=card["metric"]["higher_is_better"],
        margin=card["margin"],
        alpha=card["alpha"],
        comparisons=_comparisons(card),
        rng=arm.generator(),
    )


def _differences(arm: _Arm, base: _Arm) -> np.ndarray:
    seeds = arm.values.keys() & base.values.keys()
    ours, theirs = ([(seed, side.values[seed]) for seed in seeds] for side in (arm, base))
    return paired_differences(ours, theirs)


def _scores(arm: _Arm, base: _Arm) -> tuple[np.ndarray, np.ndarray] | None:
    # A pair counts only with scores on both sides.
    seeds = sorted(arm.values.keys() & base.values.keys())
    pairs = [(_read_scores(arm, seed), _read_scores(base, seed)) for seed in seeds]
    kept = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    sizes = {len(scores) for pair in kept for scores in pair}
    if len(sizes) > 1:
        names = f"{arm.entry['label']} and {base.entry['label']}"
        raise ValueError(f"the runs of {names} have examples.npy of different lengths, {sorted(sizes)}")
    return (np.stack([ours for ours, _ in kept]), np.stack([theirs for _, theirs in kept])) if kept else None


def _read_scores(arm: _Arm, seed: int) -> np.ndarray | None:
    folder = arm.runs[seed].folder
    scores = folder.read_examples()
    if scores is None:
        return None
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"{folder.examples} must hold one score a test example, got shape {list(scores.shape)}")
    # The value was averaged before the scores were rounded to float32.
    mean, size = float(scores.mean(dtype=np.float64)), float(np.abs(scores).max())
    if not abs(mean - arm.values[seed]) <= 1e-5 * size:
        raise ValueError(f"{folder.examples} has mean {mean}, its run has value {arm.values[seed]}: one was changed")
    return scores


def _summarize_arm(
    card: Mapping[str, Any], arm: _Arm, base: _Arm, evidence: Evidence | None, p_adjusted: float | None
) -> ArmSummary:
    values = list(arm.values.values())
    failures = len(arm.ended) - len(values)
    higher = card["metric"]["higher_is_better"]
    differences = _differences(arm, base)
    words, bca, effect = "baseline", None, None
    if evidence is not None:
        words = verdict(
            evidence,
            p_adjusted=p_adjusted,
            arm=arm.ended,
            baseline=base.ended,
            seeds=card["seeds"],
            higher_is_better=higher,
            margin=card["margin"],
            alpha=card["alpha"],
            comparisons=_comparisons(card),
        )
        if len(differences) >= 2:
            bca = bca_interval(differences, level=1 - card["alpha"], rng=arm.generator())
        if evidence.difference is not None and base.sd:
            effect = evidence.difference / base.sd
    peak_bytes, saved_bytes = arm.median("peak_bytes"), arm.median("saved_bytes")
    return ArmSummary(
        **{key: arm.entry[key] for key in ("label", "norm", "placement", "arguments", "learning_rate")},
        parameters=_parameters(arm),
        runs=tuple(_summarize_run(seed, arm) for seed in card["seeds"]),
        mean=float(np.mean(values)) if values else None,
        sd=arm.sd,
        worst=(min if higher else max)(values) if values and not failures else None,
        pairs=len(differences),
        unpaired=tuple(sorted(arm.values.keys() ^ base.values.keys())),
        failures=failures,
        difference=evidence and evidence.difference,
        interval=evidence and evidence.interval,
        interval_bca=bca,
        interval_examples=evidence and evidence.interval_examples,
        p=evidence and evidence.p,
        p_adjusted=p_adjusted,
        p_equivalent=evidence and evidence.p_equivalent,
        effect=effect,
        improvement=evidence and evidence.improvement,
        seeds_needed=evidence and evidence.seeds_needed,
        verdict=words,
        step_ms=arm.median("step_ms"),
        peak_bytes=None if peak_bytes is None else round(peak_bytes),
        saved_bytes=None if saved_bytes is None else round(saved_bytes),
        seconds=arm.median("seconds"),
    )


def _parameters(arm: _Arm) -> int | None:
    counts = _distinct([run.described.get("parameters") for run in arm.runs.values()])
    if len(counts) > 1:
        raise ValueError(f"the runs of {arm.entry['label']} differ in their number of parameters: {counts}")
    return counts[0] if counts else None


def _summarize_run(seed: int, arm: _Arm) -> RunSummary:
    if seed not in arm.runs:
        return RunSummary(seed=seed, state="planned", value=None, steps=None, id=None)
    run = arm.runs[seed]
    if run.result is not None:
        state, steps = run.result["state"], run.result.get("steps")
    else:
        rows = run.folder.read_metrics()
        state, steps = "interrupted", rows[-1]["step"] if rows else 0
    return RunSummary(seed=seed, state=state, value=arm.values.get(seed), steps=steps, id=run.folder.path.name)


def _noise(card: Mapping[str, Any], base: _Arm) -> dict[str, Any]:
    """Say how far the baseline's runs lie apart, and what that means for the margin.

    Planning takes the two arms as independent, so that a difference has variance 2 sigma squared: pairing only helps.
    """
    name, sigma, count, margin = base.entry["label"], base.sd, len(base.values), card["margin"]
    if sigma is None:
        return {"sigma": None, "n": count, "words": f"unknown: it takes 2 finished runs of {name}, there are {count}"}
    unit = f" {card['metric']['unit']}".rstrip()
    words = f"{name} varies by {sigma:.3g}{unit} (standard deviation over {count} seeds)"
    if margin < sigma / 2:
        strictest = card["alpha"] / max(1, _comparisons(card))
        wanted = seeds_needed(sd=2**0.5 * sigma, effect=margin, alpha=strictest)
        many = f"over {MOST_SEEDS}" if wanted is None else f"about {wanted}"
        words += f"; the margin of {margin:.3g}{unit} is less than half of it: finding it takes {many} seeds"
    return {"sigma": sigma, "n": count, "words": words}


def _distinct(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None}, key=str)


def _distinct_values(mappings: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    names = sorted({name for mapping in mappings for name in mapping or {}})
    return {name: _distinct([(mapping or {}).get(name) for mapping in mappings]) for name in names}


def _plain(arm: ArmSummary) -> dict[str, Any]:
    """Give an arm as JSON has it: lists for tuples."""
    content = {entry.name: getattr(arm, entry.name) for entry in fields(arm)}
    content |= {"runs": [asdict(run) for run in arm.runs], "arguments": dict(arm.arguments)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}
