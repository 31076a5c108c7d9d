"""A study folder as its page needs it: card, summary, and every run of the arms with its evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from normscope.arguments import check_arguments
from normscope.results.per_arm import RunSummary
from normscope.results.pictures import Picture, read_pictures
from normscope.results.schema import FINAL_STATES, RunState
from normscope.results.store import StudyFolder
from normscope.results.summary import Summary, read_summary
from normscope.results.verdict import FAILURES

MOST_DRAWN = 2000
"""Number of runs that a page draws, all arms together; more lines hide each other and make a page of many megabytes."""

_FEWEST_SEEDS = 20
"""Number of seeds of every arm that a page draws at least."""


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """One run of an arm with everything that it recorded."""

    label: str
    """Label of its arm."""
    seed: int
    """Seed, shared with the runs that it is paired with."""
    state: RunState
    """How far it came."""
    value: float | None
    """Metric on the test set; None if the run has no value."""
    description: Mapping[str, Any]
    """run.json; empty for a planned run."""
    result: Mapping[str, Any]
    """result.json of a run that ended without a value; else empty."""
    metrics: tuple[Mapping[str, Any], ...]
    """Evaluations in the order of the steps; empty for a run that is not drawn."""
    pictures: tuple[Picture, ...] = ()
    """Pictures of the tested model, of the first run of an arm that has any."""

    @property
    def broke(self) -> bool:
        """Whether the run ended without a value."""
        return self.state in FAILURES


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """Everything that the page of a study shows."""

    directory: Path
    """Study folder."""
    card: Mapping[str, Any]
    """card.json."""
    summary: Summary
    """summary.json."""
    runs: tuple[RunHistory, ...]
    """Every run of ``summary.arms``, in their order."""
    seeds: frozenset[int]
    """Seeds that are drawn: all, or the first ones of a study with more runs than :data:`MOST_DRAWN`."""
    untuned_runs: tuple[RunHistory, ...]
    """Every run of ``summary.untuned``, in their order; one that is also among ``runs`` is left out."""
    table: str | None
    """summary.csv, or None if there is no such file."""

    @cached_property
    def drawn(self) -> dict[str, list[RunHistory]]:
        """Runs that are drawn by arm, in the order of the arms; without an arm that has none."""
        groups: dict[str, list[RunHistory]] = {}
        for run in self.runs:
            if run.seed in self.seeds:
                groups.setdefault(run.label, []).append(run)
        return groups

    def of(self, label: str) -> list[RunHistory]:
        """Return the runs of one arm that are drawn."""
        return self.drawn.get(label, [])

    @property
    def left_out(self) -> str:
        """What the pictures leave out, in a sentence; empty if they show every run."""
        count = len(self.card["seeds"])
        if len(self.seeds) >= count:
            return ""
        return (
            f"The pictures show the first {len(self.seeds):,} of {count:,} seeds and their medians; all other numbers "
            "are over all seeds."
        )

    @cached_property
    def last_step(self) -> int:
        """Number of updates of a run: that of the card, or else the last one that a run recorded."""
        steps = [row["step"] for run in self.runs for row in run.metrics]
        return self.card.get("steps") or max(steps, default=1)


@check_arguments
def read_study(directory: Path) -> StudyRecord:
    """Read a study folder (``docs/guides/studies.md``).

    Raises:
        FileNotFoundError: If card.json or summary.json does not exist, or a file of a run that ended is missing.
        ValueError: If a file is not valid JSON or has another shape, or card and summary belong to different studies.
    """
    folder = StudyFolder(directory)
    card = folder.read_card()
    summary = read_summary(directory)
    for key in ("question", "baseline", "margin"):
        if card[key] != getattr(summary, key):
            raise ValueError(
                f"{directory}: card.json has {key} {card[key]!r}, summary.json has {getattr(summary, key)!r};"
                " they are not about the same study"
            )
    seeds = frozenset(card["seeds"][: max(_FEWEST_SEEDS, MOST_DRAWN // len(summary.arms))])
    runs = tuple(_read_run(folder, arm.label, run, drawn=run.seed in seeds) for arm in summary.arms for run in arm.runs)
    runs = tuple(_add_pictures(folder, summary, runs, seeds))
    tuned = {run.id for arm in summary.arms for run in arm.runs}
    others = ((arm.label, run) for arm in summary.untuned or () for run in arm.runs)
    untuned = tuple(
        _read_run(folder, label, run, drawn=False) for label, run in others if run.id is None or run.id not in tuned
    )
    table = folder.table.read_text(encoding="utf-8") if folder.table.exists() else None
    return StudyRecord(
        directory=directory, card=card, summary=summary, runs=runs, seeds=seeds, untuned_runs=untuned, table=table
    )


def _add_pictures(
    folder: StudyFolder, summary: Summary, runs: Sequence[RunHistory], seeds: frozenset[int]
) -> Iterator[RunHistory]:
    """Read the pictures of the first run of every arm that has any; those of all runs would make a large page."""
    identities = [run.id for arm in summary.arms for run in arm.runs]
    shown: set[str] = set()
    for identity, run in zip(identities, runs, strict=True):
        wanted = run.state == "done" and run.seed in seeds and run.label not in shown
        path = None if identity is None or not wanted else folder.run(identity).pictures
        if path is not None and path.exists():
            shown.add(run.label)
            yield replace(run, pictures=tuple(read_pictures(path)))
        else:
            yield run


def _read_run(folder: StudyFolder, label: str, run: RunSummary, *, drawn: bool) -> RunHistory:
    """Read the files of one run of the summary, its evaluations only if they are drawn.

    Raises:
        FileNotFoundError: If the run has ended and its run.json or result.json is missing.
    """
    description: Mapping[str, Any] = {}
    result: Mapping[str, Any] = {}
    metrics: list[dict[str, Any]] = []
    if run.id is not None:
        files = folder.run(run.id)
        description = files.find_description() or {}
        metrics = files.read_metrics() if drawn and description else []
        result = files.find_result() or {}
    if run.state in FINAL_STATES and not (description and result):
        missing = "run.json" if not description else "result.json"
        raise FileNotFoundError(
            f"{folder.path}: the run of {label} with seed {run.seed} is {run.state} in summary.json,"
            f" but its {missing} (runs/{run.id}) is not there"
        )
    return RunHistory(
        label=label,
        seed=run.seed,
        state=run.state,
        value=run.value,
        description=description,
        result=result if run.state in FAILURES else {},
        metrics=tuple(metrics),
    )
