"""Curves of runs for tests of times to a target: written into a study, or as they are."""

import json

from normscope.results.targets.times import Curve


def write_curve(study, label, seed, values, *, every=10, state="done", seconds=True):
    """Write a run of a study with validation values at steps ``every``, ``2 * every``, and so on."""
    run = study.run(label, seed, 5.0 + 0.01 * seed if state == "done" else None, state=state)
    rows = [
        {"step": every * n, "valid_value": value} | ({"seconds": 0.5 * n} if seconds else {})
        for n, value in enumerate(values, 1)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def reaching(step, *, target=1.0, steps=100, every=10):
    """Return validation values that reach the target at a step; None to stay above it."""
    return [target - 0.1 if step is not None and at >= step else target + 1.0 for at in range(every, steps + 1, every)]


def curve(values, *, seed=0, every=10, state="done", higher_is_better=False):
    """Return the curve of a run with one second for each evaluation."""
    rows = tuple((every * n, float(value), float(n)) for n, value in enumerate(values, 1))
    return Curve(seed=seed, state=state, rows=rows, higher_is_better=higher_is_better)
