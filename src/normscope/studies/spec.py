"""A study's question, written down before its first run."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, Literal, TypedDict

from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec, PlacementSpec, find_task
from normscope.tasks import Recipe

__tracebackhide__ = True


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared: a norm with its arguments, a placement, and where these are compared, its own recipe.

    Example:
        >>> from normscope import Arm
        >>> arm = Arm.parse("ada_norm(scale=2.0)", "pre", learning_rate=1e-3)
        >>> arm.norm.label, arm.placement.text, arm.learning_rate
        ('ada_norm(scale=2.0)', 'pre', 0.001)
    """

    norm: NormSpec
    """The norm, or several with their places."""
    placement: PlacementSpec
    """The placement, or several with their layers."""
    learning_rate: float | None = None
    """Its own learning rate where it was tuned or is compared; None for the task's."""
    warmup: int | None = None
    """Its own number of warm-up updates where that is compared; None for the task's."""

    @classmethod
    def parse(
        cls, norm: str, placement: str, *, learning_rate: float | None = None, warmup: int | None = None
    ) -> "Arm":
        """Build an arm from a norm and a placement as the command line writes them.

        Raises:
            UnknownName: If a name is not registered.
            TypeError: If an argument has another type.
            ValueError: If a text has another form, or an argument is not taken.
        """
        return cls(
            norm=NormSpec.parse(norm),
            placement=PlacementSpec(placement),
            learning_rate=learning_rate,
            warmup=warmup,
        )

    def content(self) -> dict[str, Any]:
        """Return what decides its runs, as JSON."""
        return {
            "norm": self.norm.name,
            "placement": self.placement.text,
            "arguments": dict(self.norm.arguments),
            "learning_rate": self.learning_rate,
            "warmup": self.warmup,
        }


PAPER_NORMS = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "batch_norm")
"""The norms of the AdaNorm paper, and the two that everybody asks about next."""

DEFAULT_SEEDS = tuple(range(10))
"""Ten: with five, no sign-flip test can reach 0.05."""

GRID = (0.3, 1.0, 3.0)
"""Factors on the task's learning rate that tuning tries, the same for every arm."""

TUNING_SEEDS = (1000,)
"""Seeds that only tuning uses."""


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study's question. Two specifications of equal content are one study, in one folder.

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
    """What is compared, the order of every table."""
    baseline: int
    """Which arm the others are compared with, by its position."""
    margin: float
    """Smallest difference worth having, in the metric's unit."""
    seeds: tuple[int, ...]
    """One run per arm and seed; runs of two arms with the same seed are a pair."""
    steps: int
    """Optimizer updates of every run."""
    preset: str = "small"
    """Key of the task's presets: the network and everything about its training that is not said here."""
    alpha: float = 0.05
    """Chance of a false ``better`` or ``worse`` that is accepted, over all arms together; equivalence is per arm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    device: str = "cpu"
    """As torch names it."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the training loss."""
    tune: bool = False
    """Whether each arm's learning rate is first tuned over :data:`GRID`, on seeds and a split that only tuning uses."""

    def __post_init__(self) -> None:
        task = find_task(self.task)
        if self.preset not in task.presets:
            raise ValueError(f"preset must be one of {', '.join(task.presets)}, got {self.preset!r}")
        if len(self.arms) < 1:
            raise ValueError("a study needs at least one arm")
        if not 0 <= self.baseline < len(self.arms):
            raise ValueError(f"baseline must be 0 to {len(self.arms) - 1}, got {self.baseline}")
        if len(set(self.labels())) < len(self.arms):
            raise ValueError(f"every arm must differ from the others, got {', '.join(self.labels())}")
        object.__setattr__(self, "seeds", _whole_numbers(self.seeds))
        if not (math.isfinite(self.margin) and self.margin > 0):
            unit = f"{task.metric.unit} of {task.metric.name}"
            raise ValueError(f"margin must be positive and finite, in {unit}, got {self.margin}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5, got {self.alpha}")
        if self.tune and set(self.seeds) & set(TUNING_SEEDS):
            raise ValueError(f"seeds {list(TUNING_SEEDS)} are tuning's own; choose others for the verdict")
        for arm in self.arms:
            # What another package brought has residual blocks; whether they fit, the preflight tells.
            brought = {name for name in PLACEMENTS if PLACEMENTS.origin(name)} if "pre" in task.placements else set()
            strange = [name for name in arm.placement.names if name not in {*task.placements, *brought}]
            if strange:
                raise ValueError(
                    f"task {self.task} takes the placements {', '.join(task.placements)}, got {strange[0]!r}"
                )
            recipe = self.recipe(arm)
            task.check(recipe, tune=self.tune)

    def labels(self) -> tuple[str, ...]:
        """Name every arm as briefly as keeps them apart: norm, arguments, and what else several are compared in."""
        several = len({arm.placement for arm in self.arms}) > 1
        warmups = len({arm.warmup for arm in self.arms}) > 1
        return tuple(
            arm.norm.label
            + (f"@{arm.placement}" if several else "")
            + (f", warm-up {self.recipe(arm).warmup}" if warmups else "")
            for arm in self.arms
        )

    def recipe(self, arm: Arm) -> Recipe:
        """Give the recipe of an arm's runs."""
        own = {"learning_rate": arm.learning_rate, "warmup": arm.warmup}
        return replace(
            find_task(self.task).presets[self.preset],
            steps=self.steps,
            precision=self.precision,
            device=self.device,
            compile=self.compile,
            **{name: value for name, value in own.items() if value is not None},
        )

    @property
    def task_name(self) -> str:
        """What the task is called in results: its key, or ``my_file.py:make`` without the folder."""
        task = find_task(self.task)
        return task.name if task.location else self.task

    @property
    def id(self) -> str:
        """Hash of the content and of what the task and tuning add to it: the name of the study's folder."""
        recipes = [asdict(self.recipe(arm)) for arm in self.arms]
        task = find_task(self.task)
        arms = [arm.content() for arm in self.arms]
        content = {**asdict(self), "arms": arms, "task": self.task_name, "revision": task.revision, "recipes": recipes}
        signature = task.metric.signature
        content |= {"signature": signature} if signature else {}
        content |= {"grid": GRID, "tuning_seeds": TUNING_SEEDS} if self.tune else {}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    def with_learning_rates(self, rates: Mapping[str, float]) -> "StudySpec":
        """Give the card whose arms have these learning rates, by label."""
        arms = tuple(
            replace(arm, learning_rate=rates[label]) for arm, label in zip(self.arms, self.labels(), strict=True)
        )
        return replace(self, arms=arms)


class StudyOptions(TypedDict, total=False):
    """Keyword arguments of :func:`make_study`."""

    norms: Sequence[str]
    placements: Sequence[str]
    seeds: int | Sequence[int]
    warmups: Sequence[int]
    steps: int | None
    preset: str
    margin: float | None
    baseline: str | None
    precision: Literal["float32", "bfloat16"]
    device: str
    compile: bool
    tune: bool
    question: str | None


def make_study(
    task: str,
    *,
    norms: Sequence[str] = PAPER_NORMS,
    placements: Sequence[str] = (),
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    warmups: Sequence[int] = (),
    steps: int | None = None,
    preset: str = "small",
    margin: float | None = None,
    baseline: str | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    compile: bool = False,
    tune: bool = False,
    question: str | None = None,
) -> StudySpec:
    """Build a study's question from names, with the task's defaults for what is left out.

    Args:
        task: Key of ``TASKS``, or ``my_file.py:make``, which is read again if it has been edited.
        norms: As the command line writes them, such as ``"ada_norm(scale=2.0)"``.
        placements: As the command line writes them, such as ``"mix(share=0.5)"``; the task's default where empty.
        seeds: The seeds, one run per arm and seed; a number ``n`` for the seeds 0 to n - 1.
        warmups: Numbers of warm-up updates to compare; the task's where empty.
        steps: Optimizer updates; the preset's where None.
        preset: Key of the task's presets.
        margin: Smallest difference worth having; the task's where None.
        baseline: The label of the arm to compare with; ``layer_norm`` where None, or else the first arm.
        precision: ``"float32"`` or ``"bfloat16"``.
        device: As torch names it.
        compile: Whether ``torch.compile`` compiles the training loss.
        tune: Whether each arm's learning rate is tuned first, all with the same budget.
        question: The report's title; made from the names where None.

    Raises:
        UnknownName: If a name is not registered.
        FileNotFoundError: If a user's file does not exist.
        UserCodeError: If a user's file or function fails.
        TypeError: If a value has another type: a string for a list, a fraction for a seed.
        ValueError: If a value is out of range, or the baseline is no arm.

    Example:
        >>> from normscope import make_study
        >>> study = make_study("digits", norms=["layer_norm", "ada_norm(scale=2.0)"], seeds=3)
        >>> study.labels(), study.seeds, study.baseline
        (('layer_norm', 'ada_norm(scale=2.0)'), (0, 1, 2), 0)
    """
    entry = find_task(task, anew=True)
    if preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {preset!r}")
    for name, given in (("norms", norms), ("placements", placements)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of names, got the text {given!r}")
    wanted = [PlacementSpec(text) for text in tuple(placements) or entry.placements[:1]]
    parsed = [NormSpec.parse(text) for text in norms]
    arms = tuple(
        Arm(norm=norm, placement=place, warmup=warmup)
        for place in wanted
        for warmup in (tuple(warmups) or (None,))
        # A placement that has no place for a norm is one arm, whatever the norms are.
        for norm in (parsed if place.has_norms else [NormSpec("none")])
    )
    card = StudySpec(
        question=question or f"Does the norm matter on {entry.name if entry.location else task}?",
        task=task,
        arms=arms,
        baseline=0,
        margin=entry.margin if margin is None else margin,
        seeds=_whole_numbers(seeds),
        steps=entry.presets[preset].steps if steps is None else steps,
        preset=preset,
        precision=precision,
        device=device,
        compile=compile,
        tune=tune,
    )
    labels = card.labels()
    if baseline is None:
        found = [index for index, arm in enumerate(arms) if arm.norm.name == "layer_norm"]
        return replace(card, baseline=found[0] if found else 0)
    if baseline not in labels:
        raise ValueError(f"baseline must be one of the arms {', '.join(labels)}, got {baseline!r}")
    return replace(card, baseline=labels.index(baseline))


def _whole_numbers(seeds: int | Iterable[int]) -> tuple[int, ...]:
    given = (seeds,) if isinstance(seeds, bool) else tuple(range(seeds) if isinstance(seeds, int) else seeds)
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in given):
        raise TypeError(f"seeds must be whole numbers, got {list(given)}")
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0 up, got {list(given)}")
    return tuple(int(seed) for seed in given)
