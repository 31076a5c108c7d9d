"""Study folders made from a numpy generator, as ``docs/guides/studies.md`` lays them out; no network is trained."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normscope.report import write_report
from normscope.results import summarize
from normscope.results.store import StudyFolder, write_json

NORMS = ("layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "dyt", "none")
GAIN = (0.0, 0.06, -0.55, 0.42, 0.02, 0.1, -4.1)
"""The true difference of each norm to the baseline, in points of accuracy."""
STEPS = 2000
HOSTILE = "<script>alert(1)</script>\"'&$x$]]>--><!--"
"""Ends tags, attributes, comments, and begins mathematics: none of it may happen."""
MARGIN = 0.3
EXAMPLES = 10_000
VERSIONS = {"normscope": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.1", "python": "3.12.3"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What kind of study to make."""

    arms: int = 7
    seeds: int = 10
    evaluations: int = 40
    tuned: bool = False
    published: bool = False
    unfinished: bool = False
    mixed: bool = False
    hostile: str = ""
    looks: tuple[int, ...] = ()
    """Pairs at the planned looks; ``seeds`` have been run."""


@pytest.fixture(scope="session")
def make_study() -> Callable[[Path, Recipe], Path]:
    return write_study


@pytest.fixture(scope="session")
def recipe() -> type[Recipe]:
    return Recipe


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "whole", Recipe(tuned=True, published=True))


@pytest.fixture(scope="session")
def whole_page(whole_study: Path) -> str:
    return write_report(whole_study).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def half_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_study(tmp_path_factory.mktemp("study") / "half", Recipe(unfinished=True, mixed=True))
    write_report(path)
    return path


@pytest.fixture(scope="session")
def looks_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has reached its first look: some arms are decided, one has runs that failed, others go on."""
    recipe = Recipe(seeds=12, evaluations=10, looks=(10, 15, 20))
    path = write_study(tmp_path_factory.mktemp("study") / "looks", recipe)
    write_report(path)
    return path


@pytest.fixture(scope="session")
def hostile_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(arms=3, seeds=4, evaluations=10, tuned=True, published=True, hostile=HOSTILE)
    path = write_study(tmp_path_factory.mktemp("study") / "hostile", recipe)
    write_report(path)
    return path


def write_study(path: Path, recipe: Recipe) -> Path:
    rng = np.random.default_rng(20191)
    folder = StudyFolder(path)
    odd = recipe.hostile
    labels = [norm + odd for norm in NORMS[: recipe.arms]]
    effects = rng.normal(0, 0.35, recipe.seeds)
    arms = [
        _arm(label, place, tuned)
        for tuned in ([True, False] if recipe.tuned else [False])
        for place, label in enumerate(labels)
    ]
    for arm in arms:
        for seed in range(recipe.seeds):
            _write_run(folder, recipe, arm, seed, effects[seed], rng)
    card = {
        "schema": 1,
        "question": "Does another normalization than LayerNorm help a small network read digits?" + odd,
        "task": "digits" + odd,
        "metric": {"name": "accuracy" + odd, "unit": "%", "higher_is_better": True},
        "margin": MARGIN,
        "alpha": 0.05,
        "baseline": labels[0],
        "arms": arms,
        "seeds": list(range(recipe.looks[-1] if recipe.looks else recipe.seeds)),
        "steps": STEPS,
        "batch_size": 64,
        "precision": "float32",
        "device": "cpu",
        "regime": "a 4-layer post-norm MLP of 87,562 parameters, 1,437 digits, Adam, float32; nothing larger was run"
        + odd,
        "failure": "a run fails if its loss is not finite at any step; failures are counted, never dropped" + odd,
        "command": "normscope compare digits --arms layer_norm,ada_norm --seeds 10" + odd,
        "published": [_published(recipe)] if recipe.published else [],
        "tuning": _tuning(labels, rng) if recipe.tuned else None,
    }
    if recipe.looks:
        card["looks"] = {"pairs": list(recipe.looks), "spending": "pocock"}
    write_json(folder.card, card)
    summarize(path).write(path)
    return path


def _arm(label: str, place: int, tuned: bool) -> dict[str, Any]:
    rate = 3e-3 if tuned else 1e-3
    return {
        "label": label,
        "norm": NORMS[place],
        "placement": "post",
        "arguments": {},
        "learning_rate": rate,
        "tuned": tuned,
    }


def _write_run(
    folder: StudyFolder, recipe: Recipe, arm: dict[str, Any], seed: int, effect: float, rng: np.random.Generator
) -> None:
    place = NORMS.index(arm["norm"])
    identity = hashlib.sha256(f"{arm} {seed}".encode()).hexdigest()[:16]
    if recipe.unfinished and (seed > 5 or (seed == 5 and place > 2)):
        return
    interrupted = recipe.unfinished and seed == 5 and place == 2
    diverged = arm["norm"] == "detach_norm" and seed in (2, 5, 8) and not interrupted
    value = 97.2 + GAIN[place] + effect + rng.normal(0, 0.16) - 0.5 * (recipe.tuned and not arm["tuned"])
    run = folder.run(identity)
    scores = np.where(_difficulty(rng) < EXAMPLES * value / 100, 100, 0).astype(np.float32)
    value = float(scores.mean(dtype=np.float64))
    described = {key: arm[key] for key in ("label", "norm", "arguments", "placement", "learning_rate")}
    described |= {"schema": 1, "id": identity, "task": "digits" + recipe.hostile, "seed": seed, "steps": STEPS}
    described |= {"batch_size": 64, "precision": "float32", "device": "cpu", "backend": "cpu"}
    described |= {"device_name": "AMD EPYC 7B13", "parameters": 87_562 - 1024 * (place in (1, 2, 3))}
    described["versions"] = VERSIONS | ({"torch": "2.12.1"} if recipe.mixed and seed == 3 else {})
    described["data"] = {"digits.csv.gz": hashlib.sha256(b"digits").hexdigest()}
    write_json(run.description, described)
    stop = int(STEPS * rng.uniform(0.2, 0.7)) if diverged or interrupted else STEPS
    lines = []
    for step in np.linspace(STEPS / recipe.evaluations, STEPS, recipe.evaluations).astype(int):
        if step > stop:
            break
        left = np.exp(-step / (150 + 30 * place))
        jump = np.exp((step - stop) / 60) * 4 if diverged else 0.0
        loss = 2.3 * left * (1 + rng.normal(0, 0.06)) + 0.02 * (1 + rng.normal(0, 0.2)) + 0.004 * place + jump
        seen = max(3.0, value - 85 * left + rng.normal(0, 0.25) - 10 * jump)
        line = {"step": int(step), "train_loss": loss, "valid_loss": loss + 0.1, "valid_value": seen}
        takes = {"norms.0": [0.02 + 0.01 * place, 0.1 * left], "norms.1": [0.02, 0.05]}
        lines.append(line | {"seconds": step / 500, "gradient": takes})
    run.metrics.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    if interrupted:
        return
    result = {"schema": 1, "state": "done", "value": value, "valid_value": value + 0.2, "selected_step": STEPS}
    result |= {"steps": stop, "step_ms": 2.1 + 0.1 * place + rng.normal(0, 0.02), "peak_bytes": None}
    result |= {"saved_bytes": 4_000_000 - 300_000 * place, "seconds": 4.2, "parameters": 87_562, "reason": None}
    if diverged:
        result |= dict.fromkeys(("value", "valid_value", "selected_step"))
        result |= {"state": "diverged", "reason": f"training loss is not finite at step {stop}"}
    else:
        np.save(run.examples, scores)
    write_json(run.result, result)


def _difficulty(rng: np.random.Generator) -> np.ndarray:
    # Every run stumbles over much the same examples.
    shared = np.random.default_rng(7).random(EXAMPLES)
    return (shared + rng.normal(0, 0.004, EXAMPLES)).argsort().argsort()


def _tuning(labels: list[str], rng: np.random.Generator) -> dict[str, Any]:
    grid = [3e-4, 1e-3, 3e-3, 1e-2]
    height = [95.8, 96.8, 97.3, 96.1]
    curves = {}
    for place, label in enumerate(labels):
        curve = [
            {"learning_rate": rate, "values": [float(value + GAIN[place] + noise) for noise in rng.normal(0, 0.3, 2)]}
            for rate, value in zip(grid, height, strict=True)
        ]
        if place == 2:
            curve[-1]["values"][1] = None
        curves[label] = {"chosen": 3e-3, "curve": curve}
    return {"grid": grid, "seeds": [1000, 1001], "arms": curves}


def _published(recipe: Recipe) -> dict[str, Any]:
    rows = [("layer_norm", 98.1), ("layer_norm_simple", 98.3), ("ada_norm", 98.5), ("batch_norm", 98.0), ("dyt", None)]
    return {
        "label": "Xu et al. 2019, Table 2, MNIST" + recipe.hostile,
        "source": "arXiv:1911.07013",
        "rows": [{"norm": norm, "value": value} for norm, value in rows],
        "note": "One run each, MNIST instead of digits: the order may be compared, the values may not.",
    }
