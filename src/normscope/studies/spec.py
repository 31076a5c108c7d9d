"""A study's question, written down before its first run."""

import hashlib
import inspect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

from normscope.registry import NORMS, ORIGINS, PARAMETRIZATIONS, find_task
from normscope.specs import (
    canonical_placement,
    parse_norm,
    placements_in,
    resolve_norm,
    resolve_placement,
    split_places,
    write_call,
)
from normscope.tasks import CustomTask, Recipe

__tracebackhide__ = True

_NOT_ASKED = ("device", "dtype")
"""What the network decides, not the arm, beside the width, which comes first."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared. Arguments that equal the norm's defaults are left out: they make no other arm."""

    norm: str
    """Key of ``NORMS`` or ``PARAMETRIZATIONS``, or several with their places: :mod:`normscope.names`."""
    placement: str
    """Key of ``PLACEMENTS``, with arguments, or several with their places."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the norm, beside its width."""
    learning_rate: float | None = None
    """Its own learning rate where it was tuned or is compared; None for the task's."""
    warmup: int | None = None
    """Its own number of warm-up updates where that is compared; None for the task's."""

    def __post_init__(self) -> None:
        resolve_norm(self.norm, {})
        resolve_placement(self.placement)
        arguments = _checked(self.norm, self.arguments)
        object.__setattr__(self, "norm", _canonical(self.norm))
        object.__setattr__(self, "placement", canonical_placement(self.placement))
        object.__setattr__(self, "arguments", arguments)


def _checked(norm: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments in the type of the norm's defaults, without those that equal them.

    Raises:
        TypeError: If one has another type.
        ValueError: If the norm takes no argument of that name, or not this value.
    """
    if norm in PARAMETRIZATIONS or "+" in norm:
        if arguments:
            raise ValueError(f"{norm} takes no arguments, got {dict(arguments)}")
        return {}
    _, *parameters = inspect.signature(NORMS[norm]).parameters.items()
    known = {name: entry for name, entry in parameters if name not in _NOT_ASKED}
    strange = [name for name in arguments if name not in known]
    if strange:
        takes = ", ".join(f"{name}={entry.default!r}" for name, entry in known.items()) or "no arguments"
        raise ValueError(f"{norm} has no argument {strange[0]!r}; it takes {takes}")
    given = {name: _typed(f"{norm}: {name}", value, known[name]) for name, value in arguments.items()}
    try:
        made = NORMS[norm](8, **given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{norm}: {error}") from error
    if "eps" in given and not hasattr(made, "eps"):
        raise ValueError(f"{norm} has no eps in its equation: an arm with eps={given['eps']} would be no other arm")
    return {name: value for name, value in given.items() if value != known[name].default}


def _canonical(norm: str) -> str:
    """Write a norm in one way; of several, each without arguments that equal their defaults."""
    rest, *chosen = split_places(norm)
    if not chosen:
        return norm
    parts = [(rest, "")] + [(call, f":{where}") for call, _, where in (part.rpartition(":") for part in chosen)]
    named = [(*parse_norm(call), where) for call, where in parts]
    return "+".join(write_call(name, _checked(name, arguments)) + where for name, arguments, where in named)


def _typed(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    choices = get_args(parameter.annotation)
    if value is None and type(None) in choices:
        return None
    if isinstance(parameter.default, bool):
        wanted, fits = "True or False", isinstance(value, bool)
    elif isinstance(parameter.default, str) or any(get_origin(choice) is Literal for choice in choices):
        wanted, fits = "a word", isinstance(value, str)
    elif type(parameter.default) is int:
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    else:
        wanted, fits = "a number", False
    if not fits:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
    return value


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
    """A study's question. Two cards of equal content are one study, in one folder."""

    question: str
    """In words; the title of the report."""
    task: str
    """Key of ``TASKS``, or ``my_file.py:make``."""
    arms: tuple[Arm, ...]
    """What is compared, the order of every table."""
    baseline: int
    """Which arm the others are compared with, by its position."""
    margin: float
    """Smallest difference worth having, in the metric's unit."""
    seeds: tuple[int, ...]
    """One run an arm and seed; two arms with one seed are a pair."""
    steps: int
    """Optimizer updates of every run."""
    preset: str = "small"
    """Key of the task's presets: the network and everything about its training that is not said here."""
    alpha: float = 0.05
    """Chance of a false ``better`` or ``worse`` that is accepted, over all arms together; equivalence is per arm."""
    precision: str = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    device: str = "cpu"
    """As torch names it."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the training loss."""
    tune: bool = False
    """Whether every arm's learning rate is first chosen from :data:`GRID`, on seeds and a split of its own."""

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
            brought = {name for group, name in ORIGINS if group == "placements"} if "pre" in task.placements else set()
            strange = [name for name in placements_in(arm.placement) if name not in {*task.placements, *brought}]
            if strange:
                raise ValueError(
                    f"task {self.task} takes the placements {', '.join(task.placements)}, got {strange[0]!r}"
                )
            recipe = self.recipe(arm)
            if isinstance(task, CustomTask):
                task.check(recipe, tune=self.tune)

    def labels(self) -> tuple[str, ...]:
        """Name every arm as briefly as keeps them apart: norm, arguments, and what else several are compared in."""
        several = len({arm.placement for arm in self.arms}) > 1
        warmups = len({arm.warmup for arm in self.arms}) > 1
        return tuple(
            arm.norm
            + (f"({', '.join(f'{key}={value!r}' for key, value in arm.arguments.items())})" if arm.arguments else "")
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
        return task.name if isinstance(task, CustomTask) else self.task

    @property
    def id(self) -> str:
        """Hash of the content and of what the task and tuning add to it: the name of the study's folder."""
        recipes = [asdict(self.recipe(arm)) for arm in self.arms]
        task = find_task(self.task)
        content = {**asdict(self), "task": self.task_name, "revision": task.revision, "recipes": recipes}
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


def make_study(
    task: str,
    *,
    norms: Sequence[str] = PAPER_NORMS,
    placements: Sequence[str] = (),
    seeds: Sequence[int] = DEFAULT_SEEDS,
    warmups: Sequence[int] = (),
    steps: int | None = None,
    preset: str = "small",
    margin: float | None = None,
    baseline: str | None = None,
    precision: str = "float32",
    device: str = "cpu",
    compile: bool = False,
    tune: bool = False,
    question: str | None = None,
) -> StudySpec:
    """Write a card from names, with the task's own defaults for what is left out.

    Args:
        task: Key of ``TASKS``, or ``my_file.py:make``, which is read again if it has been edited.
        norms: As the command line writes them, such as ``"ada_norm(scale=2.0)"``.
        placements: As the command line writes them, such as ``"mix(share=0.5)"``; the task's default where empty.
        seeds: One run an arm and seed.
        warmups: Numbers of warm-up updates to compare; the task's where empty.
        steps: Optimizer updates; the preset's where None.
        preset: Key of the task's presets.
        margin: Smallest difference worth having; the task's where None.
        baseline: The label of the arm to compare with; ``layer_norm`` where None, or else the first arm.
        precision: ``"float32"`` or ``"bfloat16"``.
        device: As torch names it.
        compile: Whether ``torch.compile`` compiles the training loss.
        tune: Whether every arm's learning rate is chosen first.
        question: The report's title; made from the names where None.

    Raises:
        LookupError: If a name is not in the catalogue, or a user's file not there.
        UserCodeError: If a user's file or function fails.
        TypeError: If a value is of another kind: a text for a list, a fraction for a seed.
        ValueError: If a value is out of range, or the baseline is no arm.
    """
    entry = find_task(task, anew=True)
    if preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {preset!r}")
    for name, given in (("norms", norms), ("placements", placements)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of names, got the text {given!r}")
    wanted = tuple(placements) or entry.placements[:1]
    parsed = [parse_norm(text) for text in norms]
    arms = tuple(
        Arm(norm=name, placement=place, arguments=arguments, warmup=warmup)
        for place in wanted
        for warmup in (tuple(warmups) or (None,))
        # A placement that has no place for a norm is one arm, whatever the norms are.
        for name, arguments in (parsed if _has_norms(place) else [("none", {})])
    )
    card = StudySpec(
        question=question or f"Does the norm matter on {entry.name if isinstance(entry, CustomTask) else task}?",
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
        found = [index for index, arm in enumerate(arms) if arm.norm == "layer_norm"]
        return replace(card, baseline=found[0] if found else 0)
    if baseline not in labels:
        raise ValueError(f"baseline must be one of the arms {', '.join(labels)}, got {baseline!r}")
    return replace(card, baseline=labels.index(baseline))


def _has_norms(placement: str) -> bool:
    return placement == "preactivation" or resolve_placement(placement).has_norms


def _whole_numbers(seeds: Iterable[int]) -> tuple[int, ...]:
    given = tuple(seeds)
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in given):
        raise TypeError(f"seeds must be whole numbers, got {list(given)}")
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0 up, got {list(given)}")
    return tuple(int(seed) for seed in given)
