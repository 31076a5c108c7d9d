"""From a card to its runs, each named by the hash of everything that decides its numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from normscope.catalogue import NORMS, PARAMETRIZATIONS, PLACEMENTS, TASKS
from normscope.study.arm import Arm
from normscope.study.card import Card
from normscope.train import Recipe, initialize


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run. Two specs that differ only in their arm are a pair."""

    task: str
    """Key of ``TASKS``."""
    revision: int
    """Of the task."""
    label: str
    """The arm's name in its study; no part of the hash."""
    norm: str
    """Key of ``NORMS`` or ``PARAMETRIZATIONS``."""
    arguments: Mapping[str, Any]
    """Of the norm."""
    placement: str
    """Key of ``PLACEMENTS``."""
    seed: int
    """Source of every random stream."""
    recipe: Recipe
    """How it is trained."""
    split: str
    """``"study"`` or ``"tune"``."""

    @property
    def id(self) -> str:
        """Hash of the content: the name of the run's folder."""
        content = {key: value for key, value in asdict(self).items() if key != "label"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Give what ``run.json`` says of it."""
        content = asdict(self)
        recipe = content.pop("recipe")
        return {"id": self.id, **content, **recipe}

    def to_json(self) -> dict[str, Any]:
        """Give the spec as JSON, for another process."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "RunSpec":
        """Read what :meth:`to_json` gave."""
        return RunSpec(**{**content, "recipe": Recipe(**content["recipe"])})

    def build(self) -> nn.Module:
        """Build the model with its first weights.

        Raises:
            ValueError: If the norm changed nothing in the network: an arm without effect is a mistake.
        """
        placed = 0

        def norm(width: int) -> nn.Module:
            nonlocal placed
            placed += 1
            if self.norm in PARAMETRIZATIONS:
                return NORMS["none"](width)
            return NORMS[self.norm](width, **self.arguments)

        model = TASKS[self.task].network(norm, PLACEMENTS[self.placement])
        if placed == 0:
            raise ValueError(f"arm {self.label} placed no norm in the network of {self.task}: it would change nothing")
        initialize(model, self.seed)
        if self.norm in PARAMETRIZATIONS:
            PARAMETRIZATIONS[self.norm](model)
        return model


def plan(card: Card, *, seeds: Sequence[int] | None = None, split: str = "study") -> list[RunSpec]:
    """List the runs of a card, seed by seed, so that pairs end together and the machine's drift meets every arm."""
    return [
        spec_for(card, arm, label, seed=seed, split=split)
        for seed in (card.seeds if seeds is None else seeds)
        for arm, label in zip(card.arms, card.labels(), strict=True)
    ]


def spec_for(card: Card, arm: Arm, label: str, *, seed: int, split: str) -> RunSpec:
    """Give the run of one arm and one seed."""
    return RunSpec(
        task=card.task,
        revision=TASKS[card.task].revision,
        label=label,
        norm=arm.norm,
        arguments=dict(arm.arguments),
        placement=arm.placement,
        seed=seed,
        recipe=card.recipe(arm),
        split=split,
    )
