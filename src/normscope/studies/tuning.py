"""Learning-rate tuning with the same budget per arm: one grid, on a separate split and separate seeds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from normscope.results.store import SCHEMA, StudyFolder, write_json
from normscope.specs import find_task
from normscope.studies.engines.engine import Engine, RunEvent
from normscope.studies.plan import RunSpec, plan
from normscope.studies.spec import GRID, TUNING_SEEDS, StudySpec

__tracebackhide__ = True


def tuning_plan(study_spec: StudySpec) -> list[RunSpec]:
    """List the tuning trials: one per arm, learning rate of the grid, and tuning seed."""
    return [
        spec
        for rate in _rates(study_spec)
        for spec in plan(_with_rate(study_spec, rate), seeds=TUNING_SEEDS, split="tune")
    ]


def tune(
    study_spec: StudySpec, study: StudyFolder, engine: Engine, callback: Callable[[RunEvent], None]
) -> dict[str, Any]:
    """Select the learning rate of every arm by the validation metric on the tuning split.

    The validation loss breaks ties, which are common if the metric counts errors. Diverged and failed trials rank
    last. If all trials of an arm fail, it keeps the task's learning rate.

    Args:
        study_spec: Specification of the study; its seeds are not used.
        study: Folder of the study; the trials are stored in its subfolder ``tuning``.
        engine: Engine that computes the trials.
        callback: Called with the events of the trials.

    Returns:
        ``{"grid", "seeds", "arms": {label: {"chosen", "curve": [{"learning_rate", "values", "losses"}]}}}``.
    """
    folder = StudyFolder(study.path / "tuning")
    content = {
        "schema": SCHEMA,
        "grid": _rates(study_spec),
        "seeds": list(TUNING_SEEDS),
        "arms": list(study_spec.labels()),
    }
    write_json(folder.path / "tuning.json", content)
    engine.run(tuning_plan(study_spec), folder, callback)
    sign = -1.0 if find_task(study_spec.task).valid_metric.higher_is_better else 1.0
    arms = {}
    for index, label in enumerate(study_spec.labels()):
        curve = []
        for rate in _rates(study_spec):
            specs = plan(_with_rate(study_spec, rate), seeds=TUNING_SEEDS, split="tune")[index :: len(study_spec.arms)]
            values, losses = zip(*(_value_and_loss(folder, spec) for spec in specs), strict=True)
            curve.append({"learning_rate": rate, "values": list(values), "losses": list(losses)})
        chosen = min(curve, key=lambda point: (_cost(point["values"], sign), _cost(point["losses"], 1.0)))
        finished = math.isfinite(_cost(chosen["values"], sign))
        arms[label] = {
            "chosen": chosen["learning_rate"] if finished else _task_rate(study_spec),
            "curve": curve,
        }
    return {"grid": content["grid"], "seeds": content["seeds"], "arms": arms}


def _rates(study_spec: StudySpec) -> list[float]:
    return [_task_rate(study_spec) * factor for factor in GRID]


def _task_rate(study_spec: StudySpec) -> float:
    return find_task(study_spec.task).presets[study_spec.preset].learning_rate


def _with_rate(study_spec: StudySpec, rate: float) -> StudySpec:
    return study_spec.with_learning_rates(dict.fromkeys(study_spec.labels(), rate))


def _value_and_loss(folder: StudyFolder, spec: RunSpec) -> tuple[float | None, float | None]:
    run = folder.run(spec.id)
    result = run.read_result()
    losses = {row["step"]: row.get("valid_loss") for row in run.read_metrics()}
    return result["value"], losses.get(result.get("selected_step"))


def _cost(values: Sequence[float | None], sign: float) -> float:
    return sum(math.inf if value is None else sign * value for value in values)
