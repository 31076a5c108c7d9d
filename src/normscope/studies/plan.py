"""The runs of a study, each identified by the hash of everything that determines its results."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn

from normscope.arguments import check_arguments
from normscope.placement import LayeredNorm, NormFactory
from normscope.results.store import SCHEMA, StudyFolder
from normscope.specs import NormSpec, PlacementSpec, find_task
from normscope.studies.arm import Arm
from normscope.studies.spec import StudySpec
from normscope.tasks import TASKS, CustomTask, Recipe, Split, Task, UserFile
from normscope.tasks.recipe import OPTIMIZER_NAMES
from normscope.tasks.task import in_variant, split_of
from normscope.training.randomness import initialize
from normscope.training.ranks import check_norms

__tracebackhide__ = True


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The specification of one training run; two that differ only in their arm are paired."""

    task: str
    """Key of ``TASKS``, or ``my_file.py:make``, without its folder."""
    revision: int
    """Revision of the task."""
    label: str
    """Label of the arm in its study; not hashed."""
    norm: NormSpec
    """Norm of the arm."""
    placement: PlacementSpec
    """Placement of the arm."""
    seed: int
    """Seed of every random stream."""
    recipe: Recipe
    """Training recipe."""
    split: Split
    """Split of the data, by the rule of the study; another one for tuning trials."""
    preset: str = "small"
    """Key of the task's presets."""
    variant: str | None = None
    """Variant of the task; left out of the hash where it is None."""
    stacked: bool = False
    """Whether the run is computed in one stack with other seeds of its arm; left out of the hash where it is not."""
    file: str = ""
    """Location of ``my_file.py:make`` on this machine; not hashed."""
    unknown: tuple[str, ...] = ()
    """Settings of the recipe that the run does not follow, so that its description leaves them out; not hashed."""

    @cached_property
    def id(self) -> str:
        """Hash of the specification; names the run's folder."""
        content = {key: value for key, value in self.to_json().items() if key not in ("label", "file", "unknown")}
        for name in self._unused():
            del content[name]
        signature = TASKS[self.task].metric.signature if self.task in TASKS else ""
        # Scores of two versions of a scorer are never mixed: each version makes another run.
        content |= {"signature": signature} if signature else {}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _unused(self) -> list[str]:
        """Return the fields that runs from before they existed do not have."""
        return [name for name, is_used in (("variant", self.variant), ("stacked", self.stacked)) if not is_used]

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify the run in ``run.json``."""
        content = self.to_json()
        recipe = content.pop("recipe")
        del content["file"], content["unknown"]
        for name in self._unused():
            del content[name]
        return {"id": self.id, **content, **{key: value for key, value in recipe.items() if key not in self.unknown}}

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON, to be sent to another process."""
        norm = {"norm": self.norm.name, "arguments": dict(self.norm.arguments), "placement": self.placement.text}
        norm["recipe"] = self.recipe.content()
        return {**{each.name: norm.get(each.name, getattr(self, each.name)) for each in fields(self)}, **norm}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "RunSpec":
        """Read the output of :meth:`to_json`."""
        rest = {key: value for key, value in content.items() if key != "arguments"}
        norm = NormSpec(content["norm"], content["arguments"])
        placement = PlacementSpec(content["placement"])
        given = {"norm": norm, "placement": placement, "recipe": Recipe(**content["recipe"])}
        return RunSpec(**{**rest, **given, "unknown": tuple(content.get("unknown", ()))})

    def begin(self) -> Task:
        """Return the task; for a custom task, a new instance for this run.

        Raises:
            UserFileChanged: If the file was edited after the study began.
        """
        task = find_task(self.file or self.task, revision=self.revision)
        if self.file and task.revision != self.revision:
            # This process has loaded another version of the file.
            UserFile.named(self.file).expect(self.revision)
            task = find_task(self.file, anew=True)
        return in_variant(task, self.variant).for_run(self.seed, self.split)

    def build(self, task: Task | None = None) -> nn.Module:
        """Build the model with its initial weights.

        Args:
            task: Task that :meth:`begin` returned; if None, a new one.

        Raises:
            ValueError: If a norm or a placement of the arm is used nowhere in the network, or processes that share a
                batch cannot compute a norm.
        """
        task = self.begin() if task is None else task
        norm, counters = _counted(self.norm.factory)
        placement = self.placement.build()
        model = task.network(norm, placement, self.preset)
        absent = [part for part, counter in zip(self.norm.parts, counters, strict=True) if not counter.placed]
        if absent and absent[0] != "none" and not self.norm.parametrization:
            raise ValueError(
                f"arm {self.label} placed {absent[0]} nowhere in the network of {self.task}: it would have no effect"
            )
        nowhere = [part.where.text for part in placement.parts if not part.used]
        if nowhere:
            raise ValueError(f"arm {self.label} has a placement for {nowhere[0]}, which does not occur in {self.task}")
        check_norms(model, self.recipe.devices_per_run)
        if not task.brings_weights:
            initialize(model, self.seed)
        if self.norm.parametrization:
            self.norm.parametrization(model)
        return model


class _Counted:
    """A norm factory that counts the norms that it builds."""

    def __init__(self, norm: NormFactory) -> None:
        self.norm = norm
        self.placed = 0

    def __call__(self, width: int) -> nn.Module:
        """Build a norm without advancing torch's random state, so that later draws are equal in all arms."""
        self.placed += 1
        with torch.random.fork_rng(devices=[]):
            return self.norm(width)


def _counted(norm: NormFactory) -> tuple[NormFactory, list[_Counted]]:
    """Wrap a factory, or each factory of a layered norm, in a counter; the counters are in the order of the norms."""
    if not isinstance(norm, LayeredNorm):
        counter = _Counted(norm)
        return counter, [counter]
    rest, chosen = _Counted(norm.rest), [(where, _Counted(factory)) for where, factory in norm.chosen]
    return LayeredNorm(rest=rest, chosen=tuple(chosen)), [rest, *(counter for _, counter in chosen)]


@check_arguments
def plan(
    study_spec: StudySpec, *, seeds: Sequence[int] | None = None, split: Literal["study", "tune"] = "study"
) -> list[RunSpec]:
    """List the runs of a study seed by seed: paired runs finish together, and machine drift affects all arms alike."""
    firsts = [
        spec_for(study_spec, arm, label, seed=0, split=split)
        for arm, label in zip(study_spec.arms, study_spec.labels(), strict=True)
    ]
    return [replace(first, seed=seed) for seed in (study_spec.seeds if seeds is None else seeds) for first in firsts]


def spec_for(study_spec: StudySpec, arm: Arm, label: str, *, seed: int, split: Literal["study", "tune"]) -> RunSpec:
    """Return the run of one arm and one seed."""
    task, recipe = study_spec.task_of(arm), study_spec.recipe(arm)
    return RunSpec(
        task=study_spec.task_name,
        file=task.location,
        revision=task.revision,
        label=label,
        norm=arm.norm,
        placement=arm.placement,
        seed=seed,
        recipe=recipe,
        split=split_of(study_spec.splits, tune=split == "tune"),
        preset=study_spec.preset,
        variant=arm.variant,
        # Tuning has one seed.
        stacked=study_spec.stack_seeds and split == "study",
        unknown=unknown_settings(task, recipe),
    )


def unknown_settings(task: Task, recipe: Recipe) -> tuple[str, ...]:
    """Return the settings of a recipe that a custom task neither follows nor was told, in alphabetical order."""
    return tuple(sorted(task.unknown(recipe))) if isinstance(task, CustomTask) else ()


def describe_training(study_spec: StudySpec, *, batches: bool = True) -> str:
    """Return how every arm is trained, as far as it is known: ``100 updates of 32 examples``; empty if it is not.

    Args:
        study_spec: Specification of the study.
        batches: Whether to include the batch size.
    """
    task, recipe = find_task(study_spec.task), study_spec.recipe(study_spec.arms[0])
    unknown = unknown_settings(task, recipe)
    if "steps" in unknown:
        return ""
    size = f" of {recipe.batch_size:,} {task.batch_unit}" if batches and "batch_size" not in unknown else ""
    return f"{recipe.steps:,} updates{size}"


MOST_STACKED = 8
"""Number of runs of a stack at most: more are no faster on a core, and are lost together with a worker."""


def stacked_with(spec: RunSpec, waiting: Sequence[RunSpec], study: StudyFolder, workers: int) -> list[RunSpec]:
    """Return the runs to compute in one stack with a run: its arm's among those that wait, a fair share per worker.

    Args:
        spec: The run.
        waiting: Runs without a worker.
        study: Their folder.
        workers: Number of workers among which the runs are shared.
    """
    if not spec.stacked:
        return []
    alike = [one for one in waiting if replace(one, seed=spec.seed) == spec]
    most = min(MOST_STACKED, max(1, -(-(1 + len(waiting)) // workers)))
    stacks = -(-(1 + len(alike)) // most)
    # Files are looked at for as many runs only as the stack takes.
    unfinished = (one for one in alike if not study.run(one.id).finished())
    return [*islice(unfinished, -(-(1 + len(alike)) // stacks) - 1)]


_CARD_SETTINGS = ("steps", "batch_size", "evaluations", "precision", "device", "compile")
"""Settings of the recipe in card.json that are the same for all arms; null if they are unknown."""

FAILURE = (
    "a run diverges if its training or validation loss or a weight is not finite at an evaluation, cannot be scored if "
    "only a score is not finite, and fails if it ends with an error; all are counted, never dropped"
)


def record(
    study_spec: StudySpec, *, command: str, tuned: StudySpec | None, tuning: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the content of ``card.json``.

    Args:
        study_spec: Specification of the study.
        command: Command that repeats the study.
        tuned: The same specification with the tuned learning rate of every arm, if they were tuned.
        tuning: Grid and results of the tuning, as :func:`normscope.studies.tuning.tune` returns them.
    """
    task = find_task(study_spec.task)
    recipe = study_spec.recipe(study_spec.arms[0])
    unknown = unknown_settings(task, recipe)
    known = {name: None if name in unknown else getattr(recipe, name) for name in _CARD_SETTINGS}
    training = [part for part in (_regime(study_spec), describe_training(study_spec), known["precision"]) if part]
    return {
        "schema": SCHEMA,
        "id": study_spec.id,
        "question": study_spec.question,
        "task": study_spec.task_name,
        "task_description": task.description,
        "task_revision": task.revision,
        "metric": asdict(task.metric),
        "valid_metric": asdict(task.valid_metric),
        "margin": study_spec.margin,
        "alpha": study_spec.alpha,
        "baseline": study_spec.labels()[study_spec.baseline],
        "arms": [
            _arm(side, arm, label, tuned=side is tuned)
            for side in ([study_spec] if tuned is None else [tuned, study_spec])
            for arm, label in zip(side.arms, side.labels(), strict=True)
        ],
        "seeds": list(study_spec.seeds),
        **({} if study_spec.looks is None else {"looks": asdict(study_spec.looks)}),
        **({} if study_spec.targets is None else {"targets": study_spec.targets.content()}),
        "splits": study_spec.splits,
        "generalizes": task.splits[study_spec.splits],
        **({"stack_seeds": True} if study_spec.stack_seeds else {}),
        "preset": study_spec.preset,
        **known,
        **({} if study_spec.devices_per_run == 1 else {"devices_per_run": study_spec.devices_per_run}),
        "batch_unit": None if known["batch_size"] is None else task.batch_unit,
        "tune": study_spec.tune,
        "regime": "; ".join([training[0], *([", ".join(training[1:])] if training[1:] else [])]),
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


def _regime(study_spec: StudySpec) -> str:
    """Return the task's regime with the optimizers of the arms in the place of its own."""
    task = find_task(study_spec.task)
    usual = OPTIMIZER_NAMES[task.presets[study_spec.preset].optimizer]
    names = list(dict.fromkeys(OPTIMIZER_NAMES[study_spec.recipe(arm).optimizer] for arm in study_spec.arms))
    if names == [usual]:
        return task.regime
    words = " and ".join(names)
    found = re.sub(rf"\b{usual}\b", words, task.regime)
    return found if found != task.regime else f"{task.regime}, optimizer: {words}"


def _arm(study_spec: StudySpec, arm: Arm, label: str, *, tuned: bool) -> dict[str, Any]:
    recipe = study_spec.recipe(arm)
    unknown = unknown_settings(find_task(study_spec.task), recipe)
    first = spec_for(study_spec, arm, label, seed=0, split="study")
    return {
        "label": label,
        "norm": arm.norm.name,
        "placement": arm.placement.text,
        "arguments": dict(arm.norm.arguments),
        "learning_rate": None if "learning_rate" in unknown else recipe.learning_rate,
        "warmup": None if "warmup" in unknown else recipe.warmup,
        "optimizer": None if "optimizer" in unknown else recipe.optimizer,
        **({} if arm.variant is None else {"variant": arm.variant}),
        "tuned": tuned,
        "runs": {str(seed): replace(first, seed=seed).id for seed in study_spec.seeds},
    }
