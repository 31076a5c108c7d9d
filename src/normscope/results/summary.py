"""The summary of a study: made from its runs, written to summary.json, and read back; needs no torch.

The fields of :class:`Summary` are those of summary.json and define its shape; ``docs/guides/studies.md`` describes
them. A summary can be made again from the runs at any time.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from normscope.arguments import check_arguments
from normscope.files import write_atomically
from normscope.results.look_state import LookState, read_plan
from normscope.results.looks import LookPath
from normscope.results.matching import ArmRuns, match_runs, read_arms, read_runs
from normscope.results.per_arm import ArmSummary, stand_once, summarize_arm
from normscope.results.schema import CARD, METRIC, POSITIVE, TUNING, Between, check, from_json, shape_of
from normscope.results.seeding import SHARED, describe_shared, shared
from normscope.results.statistics import MOST_SEEDS, seeds_needed
from normscope.results.store import SCHEMA, StudyFolder, read_json, write_json
from normscope.results.targets import TargetPlan, judge_targets
from normscope.results.verdict import exploratory

_SETTINGS = ("device", "device_name", "backend", "precision", "batch_size", "steps", "threads")
_LEFT_OUT = ("looks", "changes", "targets", "warnings", "splits", "generalizes")
_NOT_ALWAYS = ("optimizer", "variant", "measures")
_INTERVALS = ("interval", "interval_bca", "interval_examples")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The answer of a study, as summary.json has it.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize
        >>> summary = summarize(Path("runs/digits"))  # a study that compare() made
        >>> summary.task, summary.alpha, len(summary.arms)
        ('digits', 0.05, 7)
        >>> [arm.label for arm in summary.arms if arm.verdict == "worse"]
        ['none', 'detach_norm']
    """

    task: str
    """Name of the task."""
    question: str
    """Question of the card."""
    metric: Annotated[Mapping[str, Any], METRIC]
    """``name``, ``unit``, ``higher_is_better``, and where given ``aggregate`` and ``signature``."""
    baseline: str
    """Label of the arm that the others are compared with."""
    margin: Annotated[float, POSITIVE]
    """Smallest difference worth having, in the metric's unit."""
    alpha: Annotated[float, Between(0, 0.5)]
    """Accepted probability of any false claim."""
    complete: bool
    """Whether every planned run has ended."""
    noise: Annotated[Mapping[str, Any] | None, (None, {"words": str})]
    """The baseline's spread over seeds: ``sigma`` (n - 1 in the denominator), ``n``, ``words``."""
    arms: Annotated[tuple[ArmSummary, ...], [shape_of(ArmSummary), ...]]
    """The arms of the question: the tuned ones if the card has any."""
    untuned: tuple[ArmSummary, ...] | None = None
    """The same arms at the task's learning rate, against the untuned baseline; None if nothing was tuned."""
    tuning: Annotated[Mapping[str, Any] | None, TUNING] = None
    """Learning rates that were tried, and the chosen ones."""
    regime: str
    """Scope of the claims: the size of the network, the data, the optimizer."""
    splits: Annotated[str, ("published", "resampled")] = ""
    """Rule of the splits: ``resampled`` if every seed draws its own; empty on cards from before there was a choice."""
    generalizes: str = ""
    """What a claim generalizes over: seeds and, where every seed has its own split, splits; or test examples."""
    command: str
    """Command that repeats the study."""
    settings: Annotated[Mapping[str, Any], {"foreign_runs?": [str]}] = field(default_factory=dict)
    """Distinct values of each setting among the runs; ``foreign_runs`` names the folders that are left out."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Distinct versions of each package among the runs."""
    published: Annotated[tuple[Mapping[str, Any], ...], CARD["published?"]] = ()
    """Published tables of the card."""
    warnings: tuple[str, ...] = ()
    """Sentences on what the numbers leave out, such as randomness that all seeds share."""
    looks: LookState | None = None
    """Its planned looks and how far it came; None for a fixed number of seeds."""
    changes: tuple[int, ...] = ()
    """``changes`` of the card: not empty if its plan was changed after a result; then its p values are exploratory."""
    targets: TargetPlan | None = None
    """Its targets of the validation metric; None if it has none."""

    @property
    def caution(self) -> str:
        """Why the p values are exploratory; empty if they are not."""
        if not self.changes and self.looks is not None and self.looks.continues is not None:
            earlier = self.looks.continues
            return f"{earlier.caution}, but for differences, which are tested at the conditional level"
        return exploratory(self.changes, self._seeds)

    @property
    def progress(self) -> dict[str, tuple[int, int]]:
        """Numbers of done and of planned runs by label; the untuned runs of an arm count with its tuned ones."""
        runs = {(arm.label, side, run.seed): run for side, arm in enumerate(self._every_arm) for run in arm.runs}
        # A run that serves the tuned and the untuned arm counts once.
        single = {(label, run.id or (side, seed)): run for (label, side, seed), run in runs.items()}
        done = Counter(label for (label, _), run in single.items() if run.state == "done")
        return {label: (done[label], count) for label, count in Counter(label for label, _ in single).items()}

    def noise_of(self, arms: Sequence[ArmSummary]) -> Mapping[str, Any] | None:
        """Return ``noise``, or, if ``arms`` are the untuned ones, the same of the untuned baseline."""
        if tuple(arms) != self.untuned:
            return self.noise
        base = next(arm for arm in arms if arm.label == self.baseline)
        comparisons = sum(arm.label != self.baseline for arm in self._every_arm)
        alpha = self.alpha / max(1, comparisons)
        return describe_noise(base, self.metric["unit"], self.splits, margin=self.margin, alpha=alpha)

    @property
    def _seeds(self) -> int:
        return len(self.arms[0].runs) if self.looks is None else self.looks.pairs[-1]

    @property
    def _every_arm(self) -> tuple[ArmSummary, ...]:
        return (*self.arms, *(self.untuned or ()))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``summary.json``; what only some studies have is left out where it is empty."""
        content = {"schema": SCHEMA, **_lists(asdict(self))}
        absent = ("looks", "decided_at") if self.looks is None else ()
        absent += ("targets",) if self.targets is None else ("steps_to_baseline", "seconds_to_baseline")
        for arm in (*content["arms"], *(content["untuned"] or ())):
            for name in (*absent, *(each for each in _NOT_ALWAYS if arm[each] is None)):
                del arm[name]
        return {name: value for name, value in content.items() if value or name not in _LEFT_OUT}

    def write(self, directory: Path) -> None:
        """Write ``summary.json`` and ``summary.csv``, each atomically.

        Raises:
            ValueError: If a number is not finite.
        """
        study = StudyFolder(Path(directory))
        write_json(study.summary, self.to_dict())
        write_atomically(study.table, self.to_csv().encode())

    def to_csv(self) -> str:
        """Render ``summary.csv``: one row per arm, one column per statistic or seed; undefined cells are empty."""
        rows = []
        tuned = "" if self.untuned is None else 1
        for mark, arm in [*((tuned, arm) for arm in self.arms), *((0, arm) for arm in self.untuned or ())]:
            row: dict[str, Any] = {"tuned": mark}
            for name, value in asdict(arm).items():
                if name in _INTERVALS:
                    row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
                elif name == "arguments" or (name == "measures" and value):
                    row[name] = json.dumps(value) if value else ""
                elif name == "unpaired":
                    row[name] = " ".join(map(str, value))
                elif name in ("looks", "targets"):
                    row |= {} if getattr(self, name) is None else {name: json.dumps(_lists(value)) if value else ""}
                elif (
                    name != "runs"
                    and not (name in _NOT_ALWAYS and value is None)
                    and (name != "decided_at" or self.looks is not None)
                    and not (name.endswith("_to_baseline") and self.targets is not None)
                ):
                    row[name] = value
            row |= {f"seed_{run.seed}": run.state if run.value is None else run.value for run in arm.runs}
            rows.append(row)
        text = io.StringIO()
        # With looks, an arm has the seeds up to its last one only.
        names = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


SUMMARY = shape_of(Summary)
"""Shape of summary.json."""


@check_arguments
def read_summary(directory: Path) -> Summary:
    """Read ``summary.json`` of a study folder.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not valid JSON, has another shape, or has no arm that is the baseline.
    """
    study = StudyFolder(Path(directory))
    if not study.summary.exists():
        raise FileNotFoundError(f"{directory} has no summary.json: run `normscope report {directory}` to make it")
    content = read_json(study.summary)
    check(content, SUMMARY, study.summary)
    summary = from_json(Summary, content)
    labels = [arm.label for arm in summary.arms]
    if summary.baseline not in labels:
        raise ValueError(f"{study.summary}: the baseline {summary.baseline!r} is not among the arms {labels}")
    return summary


@check_arguments
def summarize(directory: Path, *, workers: int = 1) -> Summary:
    """Compute the summary of a study from its runs.

    A run belongs to an arm if its label, norm, placement, arguments and learning rate are the arm's, its seed is on the
    card, and its task, steps, batch size and precision are the card's; if the card names the arm's runs, it must be one
    of them. A run may thus serve a tuned and an untuned arm with the same learning rate. Runs that only served to
    choose a learning rate are excluded.

    Args:
        directory: Study folder.
        workers: Number of runs that are computed at a time, for the time that the next look takes.

    Returns:
        The summary; :meth:`Summary.write` writes it to disk.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If a file cannot be read, or contradicts the card or another file; the message names it.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize
        >>> summary = summarize(Path("runs/digits"))  # a study that compare() made
        >>> summary.metric["name"], summary.baseline, summary.complete
        ('test error', 'layer_norm', True)
        >>> [(arm.label, round(arm.mean, 2)) for arm in summary.arms[:2]]
        [('none', 7.92), ('layer_norm', 6.29)]
    """
    study = StudyFolder(Path(directory))
    card = study.read_card()
    runs, foreign = read_runs(study, card)
    arms = [match_runs(card, entry, runs) for entry in card["arms"]]
    couples, plan = _couples(card, arms, study.card), read_plan(card, study.card)
    path = None if plan is None else LookPath(card=card, plan=plan, couples=couples, workers=workers)
    if path is None:
        standings = stand_once(card, couples, comparisons=_comparisons(card), open_runs=_count_open(arms))
    else:
        standings = list(path.standings())
    shared = min(len(standing.arm.seeds) for standing in standings)
    sides = [(standing.planned, standing.base) for standing in standings]
    looked = None if path is None else path.looked()
    targets, times = judge_targets(card, sides, plan=plan, open_runs=_count_open(arms), looked=looked)
    every = [
        summarize_arm(card, standing, shared=shared, targets=reached)
        for standing, reached in zip(standings, times, strict=True)
    ]
    tuned = sum(standing.arm.entry["tuned"] for standing in standings)
    summaries = [group for group in (tuple(every[:tuned]), tuple(every[tuned:])) if group]
    used = {run.name for arm in arms for run in arm.runs.values()}
    descriptions = [run.description for run in runs if run.name in used]
    foreign += [run.name for run in runs if run.name not in used]
    return Summary(
        **{name: card[name] for name in ("task", "question", "baseline", "margin", "alpha", "regime", "command")},
        metric={
            name: card["metric"][name]
            for name in ("name", "unit", "higher_is_better", "aggregate", "signature")
            if name == "unit" or card["metric"].get(name, "") != ""
        },
        complete=(not _count_open(arms) and not (card.get("tune") and card.get("tuning") is None))
        if path is None
        else path.state.ended is not None,
        noise=describe_noise(
            next(arm for arm in summaries[0] if arm.label == card["baseline"]),
            card["metric"]["unit"],
            card.get("splits") or "",
            margin=card["margin"],
            alpha=card["alpha"] / max(1, _comparisons(card)),
        ),
        arms=summaries[0],
        untuned=summaries[1] if len(summaries) > 1 else None,
        tuning=card.get("tuning"),
        settings={
            **{key: _distinct([description.get(key) for description in descriptions]) for key in _SETTINGS},
            "data": _distinct_values([description.get("data") for description in descriptions]),
            "foreign_runs": sorted(foreign),
        },
        versions=_distinct_values([description.get("versions") for description in descriptions]),
        published=tuple(card.get("published") or ()),
        warnings=_warnings(card, arms),
        splits=card.get("splits") or "",
        looks=None if path is None else path.state,
        changes=tuple(card.get("changes") or ()),
        generalizes=card.get("generalizes") or "",
        targets=targets,
    )


def _warnings(card: Mapping[str, Any], arms: Sequence[ArmRuns]) -> tuple[str, ...]:
    """Return the card's warnings, and one about what all seeds share: as checked before, and as runs recorded it."""
    found = set(card.get("shared") or ())
    for arm in arms:
        results = [run.result for run in arm.runs.values() if run.result is not None]
        found |= set(shared([result["seeds"] for result in results if result.get("seeds")]))
    words = describe_shared([key for key in SHARED if key in found])
    return (*(card.get("warnings") or ()), *((f"{words[0].upper()}{words[1:]}.",) if words else ()))


def _couples(card: Mapping[str, Any], arms: Sequence[ArmRuns], path: Path) -> list[tuple[ArmRuns, ArmRuns]]:
    """Return every arm with its baseline, baselines included, the tuned ones first.

    Raises:
        ValueError: If a side does not have the baseline once among different arms.
    """
    couples = []
    for side in (True, False):
        group = [arm for arm in arms if arm.entry["tuned"] is side]
        labels = [arm.entry["label"] for arm in group]
        if group and (labels.count(card["baseline"]) != 1 or len(set(labels)) < len(labels)):
            raise ValueError(f"{path} needs its baseline {card['baseline']!r} once among different arms, got {labels}")
        couples += [(arm, group[labels.index(card["baseline"])]) for arm in group]
    return couples


@check_arguments
def runs_to_look(directory: Path, *, keep_going: bool = False) -> list[str]:
    """List the runs that the next look of a study needs and that have not ended; none if the study has ended.

    Args:
        directory: Study folder whose card has looks.
        keep_going: Whether arms go on although a decision is unlikely.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: As for :func:`summarize`.
    """
    study = StudyFolder(Path(directory))
    card = study.read_card()
    plan = read_plan(card, study.card)
    couples = _couples(card, read_arms(study, card), study.card)
    return [] if plan is None else [*LookPath(card=card, plan=plan, couples=couples, keep_going=keep_going).needed]


def _comparisons(card: Mapping[str, Any]) -> int:
    """Count the comparisons with a baseline, tuned and untuned: the family of Holm's correction is the card."""
    return sum(entry["label"] != card["baseline"] for entry in card["arms"])


def _count_open(arms: Sequence[ArmRuns]) -> int:
    """Count the planned runs that have not ended; one that serves a tuned and an untuned arm counts once."""
    return len({run for arm in arms for seed, run in arm.planned.items() if seed not in arm.ended})


def describe_noise(base: ArmSummary, unit: str, splits: str, *, margin: float, alpha: float) -> dict[str, Any]:
    """Describe the spread of a baseline over seeds, relative to the margin.

    The number of seeds assumes independent arms, so that a difference has variance 2 sigma squared; pairing only helps.
    It is left out where every seed has its own split, since most of the spread of the splits is that of both arms.

    Args:
        base: The baseline.
        unit: Unit of the metric.
        splits: Rule of the splits.
        margin: Smallest difference worth having.
        alpha: Size of the strictest test, that of Holm's first step.

    Returns:
        ``sigma``, ``n`` and ``words``, as in summary.json.
    """
    name, sigma, count = base.label, base.sd, sum(run.value is not None for run in base.runs)
    if sigma is None:
        return {"sigma": None, "n": count, "words": f"unknown: it takes 2 finished runs of {name}, there are {count}"}
    unit = f" {unit}".rstrip()
    if splits == "resampled":
        words = f"{name} varies by {sigma:.3g}{unit} (standard deviation over {count} seeds with their splits)"
        return {"sigma": sigma, "n": count, "words": f"{words}; pairs share their split, so differences vary less"}
    words = f"{name} varies by {sigma:.3g}{unit} (standard deviation over {count} seeds)"
    if margin < sigma / 2:
        wanted = seeds_needed(sd=2**0.5 * sigma, effect=margin, alpha=alpha)
        many = f"over {MOST_SEEDS}" if wanted is None else f"about {wanted}"
        words += f"; the margin of {margin:.3g}{unit} is less than half of it: finding it takes {many} seeds"
    return {"sigma": sigma, "n": count, "words": words}


def _distinct(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None}, key=str)


def _distinct_values(mappings: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    names = sorted({name for mapping in mappings for name in mapping or {}})
    return {name: _distinct([(mapping or {}).get(name) for mapping in mappings]) for name in names}


def _lists(content: Any) -> Any:
    """Replace tuples by lists, as in JSON."""
    if isinstance(content, Mapping):
        return {key: _lists(value) for key, value in content.items()}
    return [_lists(each) for each in content] if isinstance(content, list | tuple) else content
