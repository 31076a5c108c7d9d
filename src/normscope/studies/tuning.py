"""The same tuning budget for every arm: one grid of learning rates, on seeds and a split that nothing else uses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from normscope.results.store import SCHEMA, StudyFolder, write_json
from normscope.specs import find_task
from normscope.studies.engines.engine import Engine, RunEvent
from normscope.studies.plan import RunSpec, plan
from normscope.studies.spec import GRID, TUNING_SEEDS, StudySpec

__tracebackhide__ = True


def tuning_plan(card: StudySpec) -> list[RunSpec]:
    """List the trials of a card: every arm, every learning rate of the grid, every tuning seed."""
    return [spec for rate in _rates(card) for spec in plan(_at(card, rate), seeds=TUNING_SEEDS, split="tune")]


def tune(card: StudySpec, study: StudyFolder, engine: Engine, callback: Callable[[RunEvent], None]) -> dict[str, Any]:
    """Choose every arm's learning rate by its validation value on the tuning split.

    Equal values, which are common where the metric counts errors, are parted by the validation loss. A trial that
    diverged or failed counts as worst. An arm none of whose trials finished keeps the task's rate.

    Args:
        card: The question; its seeds are not used here.
        study: The study's folder; trials are kept in ``tuning/`` inside it.
        engine: Computes the trials.
        callback: Takes events.

    Returns:
        ``{"grid", "seeds", "arms": {label: {"chosen", "curve": [{"learning_rate", "values", "losses"}]}}}``.
    """
    folder = StudyFolder(study.path / "tuning")
    question = {"schema": SCHEMA, "grid": _rates(card), "seeds": list(TUNING_SEEDS), "arms": list(card.labels())}
    write_json(folder.path / "tuning.json", question)
    engine.run(tuning_plan(card), folder, callback)
    sign = -1.0 if find_task(card.task).valid_metric.higher_is_better else 1.0
    arms = {}
    for index, label in enumerate(card.labels()):
        curve = []
        for rate in _rates(card):
            specs = plan(_at(card, rate), seeds=TUNING_SEEDS, split="tune")[index :: len(card.arms)]
            values, losses = zip(*(_value_and_loss(folder, spec) for spec in specs), strict=True)
            curve.append({"learning_rate": rate, "values": list(values), "losses": list(losses)})
        chosen = min(curve, key=lambda point: (_cost(point["values"], sign), _cost(point["losses"], 1.0)))
        finished = math.isfinite(_cost(chosen["values"], sign))
        arms[label] = {
            "chosen": chosen["learning_rate"] if finished else _own_rate(card),
            "curve": curve,
        }
    return {"grid": question["grid"], "seeds": question["seeds"], "arms": arms}


def _rates(card: StudySpec) -> list[float]:
    return [_own_rate(card) * factor for factor in GRID]


def _own_rate(card: StudySpec) -> float:
    return find_task(card.task).presets[card.preset].learning_rate


def _at(card: StudySpec, rate: float) -> StudySpec:
    return card.with_learning_rates(dict.fromkeys(card.labels(), rate))


def _value_and_loss(folder: StudyFolder, spec: RunSpec) -> tuple[float | None, float | None]:
    run = folder.run(spec.id)
    result = run.read_result()
    losses = {row["step"]: row.get("valid_loss") for row in run.read_metrics()}
    return result["value"], losses.get(result.get("selected_step"))


def _cost(values: Sequence[float | None], sign: float) -> float:
    return sum(math.inf if value is None else sign * value for value in values)
