"""From a card to its runs, each named by the hash of everything that decides its numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from normscope.placement import LayeredNorm, NormFactory
from normscope.results.store import SCHEMA
from normscope.specs import NormSpec, PlacementSpec, find_task
from normscope.studies.spec import Arm, StudySpec
from normscope.tasks import TASKS, Recipe, Split, Task, UserFile
from normscope.training.randomness import initialize

__tracebackhide__ = True


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run. Two specs that differ only in their arm are a pair."""

    task: str
    """Key of ``TASKS``, or ``my_file.py:make``, without its folder."""
    revision: int
    """Of the task."""
    label: str
    """The arm's name in its study; no part of the hash."""
    norm: NormSpec
    """The norm of its arm."""
    placement: PlacementSpec
    """The placement of its arm."""
    seed: int
    """Source of every random stream."""
    recipe: Recipe
    """How it is trained."""
    split: Split
    """``"study"`` or ``"tune"``."""
    preset: str = "small"
    """Key of the task's presets."""
    file: str = ""
    """Where ``my_file.py:make`` lies on this machine; no part of the hash."""

    @property
    def id(self) -> str:
        """Hash of the content: the name of the run's folder."""
        content = {key: value for key, value in self.to_json().items() if key not in ("label", "file")}
        signature = TASKS[self.task].metric.signature if self.task in TASKS else ""
        # Another version of a scorer is another run: figures of the two are never put together.
        content |= {"signature": signature} if signature else {}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Give what ``run.json`` says of it."""
        content = self.to_json()
        recipe = content.pop("recipe")
        del content["file"]
        return {"id": self.id, **content, **recipe}

    def to_json(self) -> dict[str, Any]:
        """Give the spec as JSON, for another process."""
        norm = {"norm": self.norm.name, "arguments": dict(self.norm.arguments), "placement": self.placement.text}
        return {**{name: norm.get(name, value) for name, value in asdict(self).items()}, **norm}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "RunSpec":
        """Read what :meth:`to_json` gave."""
        rest = {key: value for key, value in content.items() if key != "arguments"}
        norm = NormSpec(content["norm"], content["arguments"])
        placement = PlacementSpec(content["placement"])
        return RunSpec(**{**rest, "norm": norm, "placement": placement, "recipe": Recipe(**content["recipe"])})

    def begin(self) -> Task:
        """Give the task; of a user's file one of this run's own.

        Raises:
            UserFileChanged: If the file is not the one that the study began with.
        """
        task = find_task(self.file or self.task, revision=self.revision)
        if self.file and task.revision != self.revision:
            # This process has read the file when it was another one.
            UserFile.named(self.file).expect(self.revision)
            task = find_task(self.file, anew=True)
        return task.for_run(self.seed, self.split)

    def build(self, task: Task | None = None) -> nn.Module:
        """Build the model with its first weights.

        Args:
            task: As :meth:`begin` gave it; one that nobody else has where None.

        Raises:
            ValueError: If the norm changed nothing in the network: an arm without effect is a mistake.
        """
        task = self.begin() if task is None else task
        norm, counters = _counted(self.norm.factory)
        placement = self.placement.build()
        model = task.network(norm, placement, self.preset)
        absent = [part for part, counter in zip(self.norm.parts, counters, strict=True) if not counter.placed]
        if absent and absent[0] != "none" and not self.norm.parametrization:
            raise ValueError(
                f"arm {self.label} placed {absent[0]} nowhere in the network of {self.task}: it would change nothing"
            )
        nowhere = [part.where.text for part in placement.parts if not part.used]
        if nowhere:
            raise ValueError(f"arm {self.label} has a placement for {nowhere[0]}, which {self.task} has not")
        if not task.brings_weights:
            initialize(model, self.seed)
        if self.norm.parametrization:
            self.norm.parametrization(model)
        return model


class _Counted:
    """Makes norms and counts them."""

    def __init__(self, norm: NormFactory) -> None:
        self.norm = norm
        self.placed = 0

    def __call__(self, width: int) -> nn.Module:
        """Make the norm of a width; whatever it draws, what is drawn after it stays equal in all arms."""
        self.placed += 1
        with torch.random.fork_rng(devices=[]):
            return self.norm(width)


def _counted(norm: NormFactory) -> tuple[NormFactory, list[_Counted]]:
    """Count one norm, or every one of several by its own, in the order in which they are written."""
    if not isinstance(norm, LayeredNorm):
        counter = _Counted(norm)
        return counter, [counter]
    rest, chosen = _Counted(norm.rest), [(where, _Counted(made)) for where, made in norm.chosen]
    return LayeredNorm(rest=rest, chosen=tuple(chosen)), [rest, *(counter for _, counter in chosen)]


def plan(card: StudySpec, *, seeds: Sequence[int] | None = None, split: Split = "study") -> list[RunSpec]:
    """List the runs of a card, seed by seed, so that pairs end together and the machine's drift meets every arm."""
    return [
        spec_for(card, arm, label, seed=seed, split=split)
        for seed in (card.seeds if seeds is None else seeds)
        for arm, label in zip(card.arms, card.labels(), strict=True)
    ]


def spec_for(card: StudySpec, arm: Arm, label: str, *, seed: int, split: Split) -> RunSpec:
    """Give the run of one arm and one seed."""
    task = find_task(card.task)
    return RunSpec(
        task=card.task_name,
        file=task.location,
        revision=task.revision,
        label=label,
        norm=arm.norm,
        placement=arm.placement,
        seed=seed,
        recipe=card.recipe(arm),
        split=split,
        preset=card.preset,
    )


FAILURE = (
    "a run diverges if its training or validation loss is not finite at any step, and fails if it ends with an error; "
    "both are counted, never dropped"
)


def record(
    card: StudySpec, *, command: str, tuned: StudySpec | None, tuning: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Give the content of ``card.json``.

    Args:
        card: The question.
        command: What makes the study again.
        tuned: The same card with every arm's own learning rate, where they were tuned.
        tuning: How they were tuned.
    """
    task = find_task(card.task)
    recipe = card.recipe(card.arms[0])
    return {
        "schema": SCHEMA,
        "id": card.id,
        "question": card.question,
        "task": card.task_name,
        "task_description": task.description,
        "task_revision": task.revision,
        "metric": asdict(task.metric),
        "valid_metric": asdict(task.valid_metric),
        "margin": card.margin,
        "alpha": card.alpha,
        "baseline": card.labels()[card.baseline],
        "arms": [
            _arm(one, arm, label, tuned=one is tuned)
            for one in ([card] if tuned is None else [tuned, card])
            for arm, label in zip(one.arms, one.labels(), strict=True)
        ],
        "seeds": list(card.seeds),
        "preset": card.preset,
        "steps": card.steps,
        "batch_size": recipe.batch_size,
        "evaluations": recipe.evaluations,
        "precision": card.precision,
        "device": card.device,
        "compile": card.compile,
        "tune": card.tune,
        "regime": f"{task.regime}; {card.steps:,} updates of {recipe.batch_size:,} {task.batch_unit}, {card.precision}",
        "failure": FAILURE,
        "command": command,
        "published": [
            {
                "label": published.source,
                "source": published.source,
                "rows": [
                    {"norm": norm.name, "arguments": dict(norm.arguments), "value": value}
                    for norm, value in ((NormSpec.parse(text), value) for text, value in published.rows.items())
                ],
                "note": published.note,
                "signature": published.signature,
            }
            for published in task.published
        ],
        "tuning": dict(tuning) if tuning is not None else None,
    }


def _arm(card: StudySpec, arm: Arm, label: str, *, tuned: bool) -> dict[str, Any]:
    return {
        "label": label,
        "norm": arm.norm.name,
        "placement": arm.placement.text,
        "arguments": dict(arm.norm.arguments),
        "learning_rate": card.recipe(arm).learning_rate,
        "warmup": card.recipe(arm).warmup,
        "tuned": tuned,
        "runs": {str(seed): spec_for(card, arm, label, seed=seed, split="study").id for seed in card.seeds},
    }
