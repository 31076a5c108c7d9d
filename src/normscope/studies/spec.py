"""The specification of a study, fixed before its first run."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from normscope.arguments import check_arguments
from normscope.placement import PLACEMENTS
from normscope.results.look_plan import LookPlan, Spending
from normscope.results.targets.record import DEFAULT_MARGIN, TargetPlan, parse_targets
from normscope.specs import NormSpec, PlacementSpec, find_task
from normscope.studies.arm import Arm, check_stack
from normscope.studies.looks import check_looks, plan_looks, whole_numbers
from normscope.tasks import TASKS, CustomTask, Recipe, Splits, Task
from normscope.tasks.batching import check_divisible
from normscope.tasks.task import DEFAULT_VARIANT, in_variant

__tracebackhide__ = True


PAPER_NORMS = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "batch_norm")
"""The norms of the AdaNorm paper, and RMSNorm and BatchNorm."""

GRID = (0.3, 1.0, 3.0)
"""Factors of the task's learning rate in the tuning grid, the same for every arm."""

TUNING_SEEDS = (1000,)
"""Seeds reserved for tuning."""


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The specification of a study; equal specifications have the same :attr:`id` and the same folder.

    Example:
        >>> from normscope import make_study
        >>> first = make_study("digits", norms=["layer_norm", "ada_norm(k=0.1)"])
        >>> second = make_study("digits", norms=["layer_norm", "ada_norm"])
        >>> first.id == second.id  # the same content, one study
        True
    """

    question: str
    """A sentence; the title of the report."""
    task: str
    """Key of ``TASKS``, or ``my_file.py:make``."""
    arms: tuple[Arm, ...]
    """The arms, in the order of every table."""
    baseline: int
    """Index of the arm that the others are compared with."""
    margin: float
    """Smallest difference worth having, in the metric's unit."""
    seeds: tuple[int, ...]
    """One run per arm and seed, at most where there are looks; runs of two arms with the same seed are paired."""
    steps: int
    """Number of optimizer updates per run."""
    preset: str = "small"
    """Key of the task's presets: the network, and the rest of its training recipe."""
    alpha: float = 0.05
    """Family-wise error rate of ``better`` and ``worse`` over all arms; equivalence is tested per arm at this level."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    device: str = "cpu"
    """Device in torch's syntax."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the training loss."""
    devices_per_run: int = 1
    """Number of processes, each with its device, that share every batch of a run; not hashed where it is 1."""
    splits: Splits = "published"
    """Whether every seed draws its own split of training, validation and test data, the same for every arm."""
    tune: bool = False
    """Whether each arm's learning rate is first tuned over :data:`GRID`, on a separate split and separate seeds."""
    looks: LookPlan | None = None
    """Numbers of pairs after which the arms are tested, the last of which is the number of seeds; None to test once."""
    stack_seeds: bool = False
    """Whether the seeds of an arm are computed as one stacked model, see :mod:`normscope.training.stacked`."""
    targets: TargetPlan | None = None
    """Targets of the validation metric, the times to which are compared, too."""

    def __post_init__(self) -> None:
        task = find_task(self.task)
        if self.preset not in task.presets:
            raise ValueError(f"preset must be one of {', '.join(task.presets)}, got {self.preset!r}")
        _check_splits(self.task, self.splits)
        if len(self.arms) < 1:
            raise ValueError("a study needs at least one arm")
        if not 0 <= self.baseline < len(self.arms):
            raise ValueError(f"baseline must be 0 to {len(self.arms) - 1}, got {self.baseline}")
        if len(set(self.labels())) < len(self.arms):
            raise ValueError(f"every arm must differ from the others, got {', '.join(self.labels())}")
        object.__setattr__(self, "seeds", whole_numbers(self.seeds))
        if not (math.isfinite(self.margin) and self.margin > 0):
            unit = f"{task.metric.unit} of {task.metric.name}"
            raise ValueError(f"margin must be positive and finite, in {unit}, got {self.margin}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5, got {self.alpha}")
        if self.tune and set(self.seeds) & set(TUNING_SEEDS):
            raise ValueError(f"seeds {list(TUNING_SEEDS)} are reserved for tuning; choose others for the verdict")
        if self.looks is not None:
            check_looks(self.looks, len(self.seeds), alpha=self.alpha, comparisons=self.comparisons)
        for arm in self.arms:
            # Placements from plug-ins act on residual blocks; the preflight checks that they work with the task.
            plugins = {name for name in PLACEMENTS if PLACEMENTS.origin(name)} if "pre" in task.placements else set()
            unsupported = [name for name in arm.placement.names if name not in {*task.placements, *plugins}]
            if unsupported:
                raise ValueError(
                    f"task {self.task} takes the placements {', '.join(task.placements)}, got {unsupported[0]!r}"
                )
            self.task_of(arm).check(self.recipe(arm), tune=self.tune)
            check_divisible(self.task_of(arm), self.devices_per_run)
            if self.stack_seeds:
                if self.devices_per_run > 1:
                    raise ValueError(
                        f"stack_seeds is for runs on one device, got devices_per_run={self.devices_per_run}"
                    )
                check_stack(task, arm.norm, self.recipe(arm))

    def labels(self) -> tuple[str, ...]:
        """Return the shortest distinct labels: the norm, then what differs of placement, warm-up, optimizer, variant.

        Learning rates follow where arms differ in nothing else; those of :meth:`with_learning_rates` change no label.
        """
        several, warmups, optimizers, variants = (
            len({getattr(arm, name) for arm in self.arms}) > 1
            for name in ("placement", "warmup", "optimizer", "variant")
        )
        parts = {(arm.norm.label, arm.placement, arm.warmup, arm.optimizer, arm.variant) for arm in self.arms}
        rates = len(parts) < len(self.arms) and len({arm.learning_rate for arm in self.arms}) > 1
        return tuple(
            arm.norm.label
            + (f"@{arm.placement}" if several else "")
            + (f", warm-up {self.recipe(arm).warmup}" if warmups else "")
            + (f", {self.recipe(arm).optimizer}" if optimizers else "")
            + (f", {arm.variant or DEFAULT_VARIANT}" if variants else "")
            + (f", rate {self.recipe(arm).learning_rate:g}" if rates else "")
            for arm in self.arms
        )

    def recipe(self, arm: Arm) -> Recipe:
        """Return the training recipe of an arm's runs."""
        per_arm = {"learning_rate": arm.learning_rate, "warmup": arm.warmup, "optimizer": arm.optimizer}
        return replace(
            self.task_of(arm).presets[self.preset],
            steps=self.steps,
            precision=self.precision,
            device=self.device,
            compile=self.compile,
            devices_per_run=self.devices_per_run,
            **{name: value for name, value in per_arm.items() if value is not None},
        )

    def task_of(self, arm: Arm) -> Task:
        """Return the task in the variant of an arm.

        Raises:
            UnknownName: If the task has no such variant.
        """
        return in_variant(find_task(self.task), arm.variant)

    @property
    def comparisons(self) -> int:
        """Number of comparisons with a baseline, tuned and untuned: the family of Holm's correction."""
        return (len(self.arms) - 1) * (2 if self.tune else 1)

    @property
    def task_name(self) -> str:
        """Name of the task in results: its key, or ``my_file.py:make`` without the folder."""
        task = find_task(self.task)
        return task.name if task.location else self.task

    @property
    def id(self) -> str:
        """Hash of the specification, the task's revision, the recipes and the tuning grid; names the study's folder."""
        recipes = [self.recipe(arm).content() for arm in self.arms]
        task = find_task(self.task)
        arms = [arm.content() for arm in self.arms]
        content = {**asdict(self), "arms": arms, "task": self.task_name, "revision": task.revision, "recipes": recipes}
        content |= {"targets": self.targets.content()} if self.targets else {}
        content |= {"signature": task.metric.signature} if task.metric.signature else {}
        # Studies from before there was a choice keep their names.
        usual = {"looks": None, "targets": None, "devices_per_run": 1, "splits": "published", "stack_seeds": False}
        content = {name: value for name, value in content.items() if name not in usual or value != usual[name]}
        content |= {"grid": GRID, "tuning_seeds": TUNING_SEEDS} if self.tune else {}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    def with_learning_rates(self, rates: Mapping[str, float]) -> "StudySpec":
        """Return a copy whose arms have the given learning rates, by label."""
        labeled = zip(self.arms, self.labels(), strict=True)
        return replace(self, arms=tuple(replace(arm, learning_rate=rates[label]) for arm, label in labeled))


@check_arguments
def make_study(
    task: str,
    *,
    norms: Sequence[str] = PAPER_NORMS,
    placements: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    looks: Sequence[int] = (),
    until_decided: bool = False,
    max_seeds: int | None = None,
    spending: Spending | None = None,
    targets: Sequence[float | str] = (),
    target_margin: float = DEFAULT_MARGIN,
    warmups: Sequence[int] = (),
    optimizers: Sequence[str] = (),
    variants: Sequence[str] = (),
    steps: int | None = None,
    preset: str = "small",
    margin: float | None = None,
    baseline: str | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    compile: bool = False,
    devices_per_run: int = 1,
    splits: Splits | None = None,
    tune: bool = False,
    stack_seeds: bool = False,
    question: str | None = None,
) -> StudySpec:
    """Build the specification of a study from names; omitted values default to the task's.

    Args:
        task: Key of ``TASKS``, or ``my_file.py:make``, which is read again if it has been edited.
        norms: Norms in the syntax of the command line, such as ``"ada_norm(scale=2.0)"``.
        placements: Placements in the same syntax, such as ``"mix(share=0.5)"``; the task's default if empty.
        seeds: The seeds, one run per arm and seed; an int ``n`` stands for the seeds 0 to n - 1. If None, the first
            ten, or as many as the looks need.
        looks: Numbers of pairs after which the arms are tested; a decided arm costs no further runs. The last one is
            the number of seeds. Empty to test once, when all seeds have ended.
        until_decided: Whether there are looks at :data:`normscope.results.sequential.DEFAULT_LOOKS` if ``looks`` is
            empty.
        max_seeds: Number of seeds at which a study with looks ends at the latest; the last look's if None.
        spending: How alpha is spent over the looks: early (``"pocock"``), late (``"obrien_fleming"``), or in between
            (``"kim_demets"``, the default).
        targets: Values of the validation metric, and ``"baseline"`` for the best one of the baseline's run of each
            seed: the updates that each run takes to them are compared, too. Empty for none.
        target_margin: Times whose ratio lies between 1 / margin and margin are equivalent.
        warmups: Numbers of warm-up updates to compare; the task's if empty.
        optimizers: Optimizers to compare, of ``adam``, ``adam_kiros2015``, ``radam``, ``sgd`` and ``muon``; the task's
            if empty. All use the arm's learning rate.
        variants: Variants of the task to compare, ``"default"`` for the task as it is; only that if empty.
        steps: Number of optimizer updates per run; the preset's if None.
        preset: Key of the task's presets.
        margin: Smallest difference worth having, in the metric's unit; the task's if None.
        baseline: Label of the arm that the others are compared with; if None, the first with ``layer_norm``, or else
            the first arm.
        precision: ``"float32"`` or ``"bfloat16"``.
        device: Device in torch's syntax.
        compile: Whether ``torch.compile`` compiles the training loss.
        devices_per_run: Number of processes, each with its device, that share every batch of a run.
        splits: ``"resampled"`` if every seed draws its own split of training, validation and test data, the same for
            every arm; ``"published"`` for one split; the task's default if None.
        tune: Whether each arm's learning rate is tuned first, with the same budget per arm.
        stack_seeds: Whether the seeds of an arm are trained as one stacked model where that is possible: faster for
            small networks, equal to single runs up to rounding, and without times and memory of their own.
        question: Title of the report; derived from the task if None.

    Raises:
        UnknownName: If a name is not registered.
        LookupError: If a user's file or its function does not exist.
        UserCodeError: If a user's file or function fails.
        TypeError: If a value has the wrong type, such as a string instead of a list, or a float as a seed.
        ValueError: If a value is out of range, or no arm has the baseline's label.

    Example:
        >>> from normscope import make_study
        >>> study = make_study("digits", norms=["layer_norm", "ada_norm(scale=2.0)"], seeds=3)
        >>> study.labels(), study.seeds, study.baseline
        (('layer_norm', 'ada_norm(scale=2.0)'), (0, 1, 2), 0)
    """
    entry = find_task(task, anew=True)
    if isinstance(entry, CustomTask):
        entry.check_given(steps, warmups, optimizers)
    return spec_of_names(
        task,
        norms=norms,
        placements=placements,
        seeds=seeds,
        looks=looks,
        until_decided=until_decided,
        max_seeds=max_seeds,
        spending=spending,
        targets=targets,
        target_margin=target_margin,
        warmups=warmups,
        optimizers=optimizers,
        variants=variants,
        steps=steps,
        preset=preset,
        margin=margin,
        baseline=baseline,
        precision=precision,
        device=device,
        compile=compile,
        devices_per_run=devices_per_run,
        splits=splits,
        tune=tune,
        stack_seeds=stack_seeds,
        question=question,
    )


def spec_of_names(
    task: str,
    *,
    norms: Sequence[str] = PAPER_NORMS,
    placements: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    looks: Sequence[int] = (),
    until_decided: bool = False,
    max_seeds: int | None = None,
    spending: Spending | None = None,
    targets: Sequence[float | str] = (),
    target_margin: float = DEFAULT_MARGIN,
    warmups: Sequence[int] = (),
    optimizers: Sequence[str] = (),
    variants: Sequence[str] = (),
    steps: int | None = None,
    preset: str = "small",
    margin: float | None = None,
    baseline: str | None = None,
    splits: Splits | None = None,
    question: str | None = None,
    **rest: Any,
) -> StudySpec:
    """Build the specification as :func:`make_study` does, without reading a user's file again.

    Raises:
        ValueError: If there is no such preset, or no arm has the baseline's label.
    """
    entry = find_task(task)
    if preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {preset!r}")
    wanted = [PlacementSpec(text) for text in tuple(placements) or entry.placements[:1]]
    parsed = [NormSpec.parse(text) for text in norms]
    usual = entry.presets[preset].optimizer
    chosen: tuple[Any, ...] = tuple(None if each == usual else each for each in optimizers) or (None,)
    arms = tuple(
        Arm(norm=norm, placement=place, warmup=warmup, optimizer=optimizer, variant=variant)
        for place in wanted
        for warmup in (tuple(warmups) or (None,))
        for optimizer in chosen
        for variant in (tuple(None if each == DEFAULT_VARIANT else each for each in variants) or (None,))
        # A placement without norms makes a single arm, whatever the norms are.
        for norm in (parsed if place.has_norms else [NormSpec("none")])
    )
    plan, numbers = plan_looks(
        seeds,
        looks,
        until_decided=until_decided,
        most=max_seeds,
        spending=spending,
        level=StudySpec.alpha / max(1, (len(arms) - 1) * (2 if rest.get("tune") else 1)),
    )
    spec = StudySpec(
        question=question or f"Does the norm matter on {entry.name if entry.location else task}?",
        task=task,
        arms=arms,
        baseline=0,
        margin=entry.margin if margin is None else margin,
        seeds=numbers,
        looks=plan,
        targets=TargetPlan(values=parse_targets(targets), margin=target_margin) if targets else None,
        steps=entry.presets[preset].steps if steps is None else steps,
        preset=preset,
        splits=next(iter(entry.splits)) if splits is None else splits,
        **rest,
    )
    labels = spec.labels()
    if baseline is None:
        layer_norms = [index for index, arm in enumerate(arms) if arm.norm.name == "layer_norm"]
        return replace(spec, baseline=layer_norms[0] if layer_norms else 0)
    if baseline not in labels:
        raise ValueError(f"baseline must be one of the arms {', '.join(labels)}, got {baseline!r}")
    return replace(spec, baseline=labels.index(baseline))


def _check_splits(name: str, splits: str) -> None:
    """Check that a task supports a rule of splits.

    Raises:
        ValueError: If it does not; the message names the tasks that do.
    """
    task = find_task(name)
    if splits not in get_args(Splits):
        raise ValueError(f"splits must be {' or '.join(get_args(Splits))}, got {splits!r}")
    if splits in task.splits:
        return
    if task.location:
        raise ValueError(
            f"{task.name} splits its data itself, so splits={splits!r} would change nothing: its function is given the "
            "seed, and says by Trial(splits_by_seed=True) that it splits by it"
        )
    able = ", ".join(key for key, entry in TASKS.items() if splits in entry.splits)
    raise ValueError(f"{name} has a test set of its own and cannot take splits={splits!r}; tasks that can: {able}")
