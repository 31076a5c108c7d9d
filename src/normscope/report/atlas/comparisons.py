"""Every comparison of a folder of studies, one by one: nothing is merged, averaged or guessed."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normscope.arguments import check_arguments
from normscope.report.drawing.format import OUTCOMES, outcome
from normscope.results.per_arm import ArmSummary
from normscope.results.statistics import fewest_pairs
from normscope.results.store import StudyFolder
from normscope.results.summary import Summary, read_summary

SCHEMA = 1
"""Version of the atlas as JSON."""

NETWORKS = {
    **dict.fromkeys(("digits",), "residual perceptron"),
    **dict.fromkeys(("mnist_mlp", "mnist_mlp_batch4"), "perceptron"),
    **dict.fromkeys(("mnist_cnn", "cifar10", "cifar10_part"), "convolutional network"),
    **dict.fromkeys(("sequential_mnist", "permuted_mnist", "tiny_shakespeare_lstm"), "LSTM"),
    **dict.fromkeys(("omniglot_strokes", "kanji_strokes", "iam_ondb"), "LSTM"),
    **dict.fromkeys(("sequential_mnist_gru", "permuted_mnist_gru", "tiny_shakespeare_gru"), "GRU"),
    **dict.fromkeys(("multi30k_order", "coco_order", "novels_skip_thoughts", "book_corpus_skip_thoughts"), "GRU"),
    **dict.fromkeys(("novels_cloze", "cnn_cloze", "draw_mnist"), "LSTM"),
    **dict.fromkeys(("ud_ewt", "ud_ewt_las", "ptb", "ptb_las", "ptb_wsj_sample"), "perceptron of a parser"),
    **dict.fromkeys(("rt", "sst5", "cr", "subj", "mpqa"), "transformer encoder"),
    **dict.fromkeys(("enwiki_small", "enwik8", "tiny_shakespeare"), "Transformer-XL"),
    **dict.fromkeys(("multi30k_de_en", "iwslt14_de_en_sample", "iwslt14_de_en"), "encoder-decoder transformer"),
    **dict.fromkeys(("iwslt15_en_vi", "evbnews_en_vi"), "encoder-decoder transformer"),
    **dict.fromkeys(("wmt14_en_de", "wmt_en_de_10k"), "encoder-decoder transformer"),
}
"""Kind of network by task. summary.json has it only as a part of the sentence ``regime``."""

OPTIMIZER = "adam"
"""Optimizer of every task in :data:`NETWORKS`, for arms that name none."""

BASELINE, UNFINISHED, NO_CLAIM = "baseline", "unfinished", "with too few seeds for a claim"
CONDITIONAL = "at the conditional level"
ALL_OUTCOMES = (*OUTCOMES, NO_CLAIM, UNFINISHED, BASELINE)
"""Outcomes of a comparison, in the order in which a sentence names them."""

_OF_A_STUDY = ("task", "question", "metric", "baseline", "margin", "alpha", "complete")
_OF_A_STUDY += ("regime", "generalizes", "command", "warnings")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm of one study against the baseline of that study, or the baseline itself."""

    study: str
    """Folder of the study, relative to that of the atlas."""
    has_page: bool
    """Whether the study's report.html exists."""
    summary: Summary
    """Summary of the study."""
    arm: ArmSummary
    """The arm."""
    baseline: ArmSummary
    """The baseline of its group: a tuned arm is compared with the tuned baseline."""
    tuned: bool | None
    """Whether its learning rate was tuned; None if the study tuned nothing."""

    @property
    def norm(self) -> str:
        """Norm with its arguments, such as ``ada_norm(k=0.3)``, and the task's variant: each is a row of its own."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arm.arguments.items())
        norm = f"{self.arm.norm}({arguments})" if arguments else self.arm.norm
        return f"{norm}, {self.arm.variant}" if self.arm.variant else norm

    @property
    def network(self) -> str | None:
        """Kind of network; None if the task is not in :data:`NETWORKS`."""
        return NETWORKS.get(self.summary.task)

    @property
    def optimizer(self) -> str | None:
        """Optimizer; None if neither the arm nor the task determines it."""
        return self.arm.optimizer or (OPTIMIZER if self.network else None)

    @property
    def limits(self) -> dict[str, str]:
        """Reasons why there is no claim, or only a weaker one, by the name of the limit."""
        found = limits(self.summary)
        if self.arm.decided_at is not None:
            # No later run changes a decision; and a change of the plan only those that its verdict says.
            found.pop(UNFINISHED, None)
            if "exploratory" not in self.arm.verdict:
                found.pop("exploratory", None)
        if CONDITIONAL in self.arm.verdict:
            found[CONDITIONAL] = f"tested {CONDITIONAL}: the plan was changed at a look"
        return found

    @property
    def outcome(self) -> str:
        """One of :data:`ALL_OUTCOMES`; failures, and decisions at a look, come before the limits of the study."""
        if self.arm.verdict == BASELINE:
            return BASELINE
        found = outcome(self.arm)
        if found in OUTCOMES[:3] or self.arm.decided_at is not None:
            return found
        return next((each for each in (UNFINISHED, NO_CLAIM) if each in self.limits), found)

    def times(self, field: str) -> float | None:
        """Return a cost as a multiple of the baseline's; None if either is not known, or for the baseline itself."""
        ours, theirs = getattr(self.arm, field), getattr(self.baseline, field)
        return None if self.arm is self.baseline or ours is None or not theirs else ours / theirs

    @property
    def memory(self) -> str:
        """Field with the memory: the peak where it was measured, else what autograd saves for the backward pass."""
        return "saved_bytes" if self.arm.peak_bytes is None else "peak_bytes"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON: the numbers of summary.json, and how they were grouped."""
        arm = asdict(self.arm)
        runs = arm.pop("runs")
        if self.arm.looks is None:
            del arm["looks"], arm["decided_at"]
        for name in ("targets", "measures"):
            if getattr(self.arm, name) is None:
                del arm[name]
        return {
            "study": self.study,
            "task": self.summary.task,
            "outcome": self.outcome,
            "tuned": self.tuned,
            "network": self.network,
            **arm,
            "optimizer": self.optimizer,
            "seeds": [run["seed"] for run in runs],
            "step_ratio": self.times("step_ms"),
            "memory_ratio": self.times(self.memory),
        }


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """Every comparison of a folder of studies."""

    comparisons: tuple[Comparison, ...]
    """By folder, and within a folder in the order of its summary."""

    @property
    def tasks(self) -> list[str]:
        """Tasks: those of one kind of network side by side, others last."""
        kinds = list(dict.fromkeys(NETWORKS.values()))
        place = {task: kinds.index(kind) for task, kind in NETWORKS.items()}
        return sorted({each.summary.task for each in self.comparisons}, key=lambda task: (place.get(task, 99), task))

    @property
    def norms(self) -> list[str]:
        """Norms: baselines first, then those measured on the most tasks; one with arguments after itself without."""
        first = {each.arm.norm for each in self.comparisons if each.outcome == BASELINE}
        tasks = Counter(norm for norm, _ in {(each.arm.norm, each.summary.task) for each in self.comparisons})
        names = {each.norm: each.arm.norm for each in self.comparisons}
        return sorted(names, key=lambda norm: (names[norm] not in first, -tasks[names[norm]], names[norm], norm))

    def at(self, norm: str, task: str) -> list[Comparison]:
        """Return the comparisons of one cell."""
        return [each for each in self.comparisons if (each.norm, each.summary.task) == (norm, task)]

    def values(self, of: Callable[[Comparison], str | None]) -> list[str | None]:
        """Return the distinct values of a property of the comparisons, in alphabetic order, None last."""
        return sorted({of(each) for each in self.comparisons}, key=lambda value: (value is None, value or ""))

    def counts(self, norm: str) -> list[tuple[str, list[str]]]:
        """Return the outcomes that a norm has, in the order of :data:`ALL_OUTCOMES`, each with its tasks."""
        row = [each for each in self.comparisons if each.norm == norm]
        place = {task: number for number, task in enumerate(self.tasks)}
        row.sort(key=lambda each: place[each.summary.task])
        return [
            (kind, tasks)
            for kind in ALL_OUTCOMES
            if (tasks := [each.summary.task for each in row if each.outcome == kind])
        ]

    def sentence(self, norm: str) -> str:
        """Write what the cells of a norm say: the number of comparisons with each outcome, and their tasks."""
        parts = [f"{len(tasks)} {phrase(kind)} ({name_tasks(tasks)})" for kind, tasks in self.counts(norm)]
        return f"{norm}: {', '.join(parts)}."

    def to_dict(self) -> dict[str, Any]:
        """Return the atlas as JSON."""
        return {
            "schema": SCHEMA,
            "tasks": self.tasks,
            "norms": [{"norm": norm, "sentence": self.sentence(norm)} for norm in self.norms],
            "studies": [
                {
                    "study": name,
                    "page": f"{name}/report.html" if first.has_page else None,
                    "limits": limits(first.summary),
                    **{field: getattr(first.summary, field) for field in _OF_A_STUDY},
                    "looks": first.summary.looks and asdict(first.summary.looks),
                }
                for name, first in {each.study: each for each in reversed(self.comparisons)}.items()
            ][::-1],
            "comparisons": [each.to_dict() for each in self.comparisons],
        }


@check_arguments
def read_atlas(directory: Path) -> Atlas:
    """Read every study in a folder and below it.

    Args:
        directory: Folder that is, or contains at any depth, folders with a summary.json.

    Raises:
        FileNotFoundError: If there is no summary.json.
        ValueError: If one has another shape than :class:`normscope.results.Summary`; the message names it.
    """
    directory = Path(directory)
    folders = sorted((path.parent for path in directory.rglob(StudyFolder(directory).summary.name)), key=str)
    if not folders:
        found = "has no summary.json in it or below it" if directory.is_dir() else "is no folder"
        raise FileNotFoundError(
            f"{directory} {found}: an atlas needs at least one study, which `normscope compare` makes and "
            "`normscope report DIR` summarizes"
        )
    return Atlas(comparisons=tuple(each for folder in folders for each in _read(folder, directory)))


def _read(folder: Path, directory: Path) -> list[Comparison]:
    summary = read_summary(folder)
    groups = [(summary.arms, None if summary.untuned is None else True)]
    groups += [] if summary.untuned is None else [(summary.untuned, False)]
    return [
        Comparison(
            study=folder.relative_to(directory).as_posix(),
            has_page=StudyFolder(folder).report.exists(),
            summary=summary,
            arm=arm,
            baseline=next(each for each in arms if each.label == summary.baseline),
            tuned=tuned,
        )
        for arms, tuned in groups
        for arm in arms
    ]


def limits(summary: Summary) -> dict[str, str]:
    """Return what keeps a study from a full claim: its name, and why."""
    found = {}
    if not summary.complete:
        found[UNFINISHED] = "unfinished: not every planned run has ended"
    comparisons = sum(arm.label != summary.baseline for arm in (*summary.arms, *(summary.untuned or ())))
    if not comparisons:
        found["alone"] = f"no comparison: {summary.baseline} is the only arm"
    seeds = len(summary.arms[0].runs) if summary.looks is None else summary.looks.pairs[-1]
    if comparisons and seeds < fewest_pairs(summary.alpha / comparisons):
        many = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
        found[NO_CLAIM] = f"no claim: {seeds} {'seed' if seeds == 1 else 'seeds'} cannot support one in {many}"
    if summary.caution:
        found["exploratory"] = summary.caution
    return found


def name_tasks(tasks: Sequence[str]) -> str:
    """Write tasks with a comma between them, and how often one comes if it comes more than once."""
    return ", ".join(
        task if many == 1 else f"{task} \N{MULTIPLICATION SIGN}{many}" for task, many in Counter(tasks).items()
    )


def phrase(kind: str) -> str:
    """Return an outcome as it follows a number in a sentence."""
    return "as the baseline" if kind == BASELINE else kind
