"""What a study writes down before its first run: ``card.json``, all that a reader of results needs to know."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from normscope.catalogue import find_task
from normscope.names import parse_norm
from normscope.results.disk import SCHEMA
from normscope.study.arm import Arm
from normscope.study.card import Card
from normscope.study.plan import spec_for

FAILURE = (
    "a run diverges if its training or validation loss is not finite at any step, and fails if it ends with an error; "
    "both are counted, never dropped"
)


def record(card: Card, *, command: str, tuned: Card | None, tuning: Mapping[str, Any] | None) -> dict[str, Any]:
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
                    {"norm": norm, "arguments": arguments, "value": value}
                    for (norm, arguments), value in (
                        (parse_norm(text), value) for text, value in published.rows.items()
                    )
                ],
                "note": published.note,
                "signature": published.signature,
            }
            for published in task.published
        ],
        "tuning": dict(tuning) if tuning is not None else None,
    }


def _arm(card: Card, arm: Arm, label: str, *, tuned: bool) -> dict[str, Any]:
    return {
        "label": label,
        "norm": arm.norm,
        "placement": arm.placement,
        "arguments": dict(arm.arguments),
        "learning_rate": card.recipe(arm).learning_rate,
        "warmup": card.recipe(arm).warmup,
        "tuned": tuned,
        "runs": {str(seed): spec_for(card, arm, label, seed=seed, split="study").id for seed in card.seeds},
    }
