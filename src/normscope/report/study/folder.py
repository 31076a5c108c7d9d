"""A study folder as its page needs it: card, summary, and every run of the arms with its evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normscope.arguments import check_arguments
from normscope.results.per_arm import RunSummary
from normscope.results.pictures import Picture, read_pictures
from normscope.results.schema import FINAL_STATES, RunState
from normscope.results.store import StudyFolder
from normscope.results.summary import Summary, read_summary
from normscope.results.verdict import FAILURES


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
    """result.json; empty for a run that has not ended."""
    metrics: tuple[Mapping[str, Any], ...]
    """Evaluations in the order of the steps."""
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
    untuned_runs: tuple[RunHistory, ...]
    """Every run of ``summary.untuned``, in their order; one that is also among ``runs`` is left out."""
    table: str | None
    """summary.csv, or None if there is no such file."""

    @property
    def last_step(self) -> int:
        """Number of updates of a run: that of the card, or else the last one that a run recorded."""
        steps = [row["step"] for run in self.runs for row in run.metrics]
        return self.card.get("steps") or max(steps, default=1)

    def of(self, label: str) -> list[RunHistory]:
        """Return the runs of one arm."""
        return [run for run in self.runs if run.label == label]


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
    runs = tuple(_read_run(folder, arm.label, run) for arm in summary.arms for run in arm.runs)
    runs = tuple(_add_pictures(folder, summary, runs))
    tuned = {run.id for arm in summary.arms for run in arm.runs}
    others = ((arm.label, run) for arm in summary.untuned or () for run in arm.runs)
    untuned = tuple(_read_run(folder, label, run) for label, run in others if run.id is None or run.id not in tuned)
    table = folder.table.read_text(encoding="utf-8") if folder.table.exists() else None
    return StudyRecord(directory=directory, card=card, summary=summary, runs=runs, untuned_runs=untuned, table=table)


def _add_pictures(folder: StudyFolder, summary: Summary, runs: Sequence[RunHistory]) -> Iterator[RunHistory]:
    """Read the pictures of the first run of every arm that has any; those of all runs would make a large page."""
    identities = [run.id for arm in summary.arms for run in arm.runs]
    shown: set[str] = set()
    for identity, run in zip(identities, runs, strict=True):
        path = None if identity is None or run.label in shown else folder.run(identity).pictures
        if path is not None and run.state == "done" and path.exists():
            shown.add(run.label)
            yield replace(run, pictures=tuple(read_pictures(path)))
        else:
            yield run


def _read_run(folder: StudyFolder, label: str, run: RunSummary) -> RunHistory:
    """Read the files of one run of the summary.

    Raises:
        FileNotFoundError: If the run has ended and its run.json or result.json is missing.
    """
    description: Mapping[str, Any] = {}
    result: Mapping[str, Any] = {}
    metrics: list[dict[str, Any]] = []
    if run.id is not None:
        files = folder.run(run.id)
        if files.description.exists():
            description = files.read_description()
            metrics = files.read_metrics()
        if files.finished():
            result = files.read_result()
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
        result=result,
        metrics=tuple(metrics),
    )
