"""Study folders made from a numpy generator, as ``docs/studies.md`` lays them out; no network is trained."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from normscope.results.store import RunFolder, StudyFolder, write_json

NORMS = ("layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "dyt", "none")
GAIN = (0.0, 0.06, -0.55, 0.42, 0.02, 0.1, -4.1)
"""The true difference of each norm to the baseline, in points of accuracy."""
STEPS = 2000
MARGIN = 0.3
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


@pytest.fixture(scope="session")
def make_study() -> Callable[[Path, Recipe], Path]:
    return write_study


@pytest.fixture(scope="session")
def recipe() -> type[Recipe]:
    return Recipe


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "whole", Recipe(tuned=True, published=True))


def write_study(path: Path, recipe: Recipe) -> Path:
    rng = np.random.default_rng(20191)
    folder = StudyFolder(path)
    seeds = list(range(recipe.seeds))
    labels = [norm + recipe.hostile for norm in NORMS[: recipe.arms]]
    pair_effects = rng.normal(0, 0.35, recipe.seeds)
    arms, untuned = [], []
    for place, label in enumerate(labels):
        runs = [_run(folder, recipe, label, place, seed, pair_effects[seed], rng) for seed in seeds]
        arms.append((label, place, runs))
    finished = [_summarize(arm, arms[0], rng) for arm in arms]
    if recipe.tuned:
        weaker = [(label, place, [run | {"value": run["value"] and run["value"] - 0.5} for run in runs]) for label, place, runs in arms]
        untuned = [_summarize(arm, weaker[0], rng) | {"learning_rate": 1e-3} for arm in weaker]
    metric = {"name": "accuracy" + recipe.hostile, "unit": "%", "higher_is_better": True}
    regime = "a 4-layer post-norm MLP of 87,562 parameters, 1,437 digits, Adam, float32; nothing larger was run." + recipe.hostile
    card = {
        "schema": 1,
        "question": "Does another normalization than LayerNorm help a small network read digits?" + recipe.hostile,
        "task": "digits" + recipe.hostile,
        "metric": metric,
        "margin": MARGIN,
        "alpha": 0.05,
        "baseline": labels[0],
        "arms": [
            {"label": label, "norm": NORMS[place], "placement": "post", "arguments": {}, "learning_rate": 3e-3, "tuned": recipe.tuned}
            for label, place, _ in arms
        ],
        "seeds": seeds,
        "steps": STEPS,
        "batch_size": 64,
        "precision": "float32",
        "device": "cpu",
        "regime": regime,
        "failure": "a loss that is not finite, or a validation accuracy below 20 % after the last step" + recipe.hostile,
        "command": "normscope compare digits --arms layer_norm,ada_norm --seeds 10" + recipe.hostile,
        "published": [_published(recipe)] if recipe.published else [],
        "tuning": {"grid": [3e-4, 1e-3, 3e-3, 1e-2]} if recipe.tuned else None,
    }
    summary = {
        "schema": 1,
        **{key: card[key] for key in ("task", "question", "metric", "baseline", "margin", "alpha", "regime", "command", "published")},
        "complete": not recipe.unfinished,
        "noise": {"sigma": 0.41, "n": 10, "words": "10 runs of the baseline differ by 0.41 points (standard deviation)."},
        "arms": finished,
        "untuned": untuned or None,
        "tuning": _tuning(labels, rng) if recipe.tuned else None,
        "settings": {"optimizer": {"name": "adam", "betas": [0.9, 0.999]}, "schedule": "warm-up 200, cosine", "threads": 2},
        "versions": VERSIONS,
    }
    write_json(folder.card, card)
    write_json(folder.summary, summary)
    head = "label,mean,difference,p_adjusted\n"
    folder.table.write_text(head + "".join(f'"{arm["label"]}",{arm["mean"]},{arm["difference"]},{arm["p_adjusted"]}\n' for arm in finished))
    return path


def _run(folder: StudyFolder, recipe: Recipe, label: str, place: int, seed: int, effect: float, rng: np.random.Generator) -> dict[str, Any]:
    identity = hashlib.sha256(f"{label} {seed}".encode()).hexdigest()[:16]
    if recipe.unfinished and (seed > 5 or (seed == 5 and place > 2)):
        return {"seed": seed, "state": "planned", "value": None, "steps": 0, "id": identity}
    interrupted = recipe.unfinished and seed == 5 and place == 2
    diverged = NORMS[place] == "detach_norm" and seed in (2, 5, 8) and not interrupted
    value = round(97.2 + GAIN[place] + effect + rng.normal(0, 0.16), 4)
    run = RunFolder(folder.run(identity).path)
    environment = VERSIONS | ({"torch": "2.12.1"} if recipe.mixed and seed == 3 else {})
    write_json(
        run.description,
        {
            "schema": 1, "id": identity, "task": "digits", "label": label, "norm": NORMS[place], "arguments": {}, "placement": "post",
            "seed": seed, "steps": STEPS, "learning_rate": 3e-3, "batch_size": 64, "precision": "float32", "device": "cpu",
            "device_name": "AMD EPYC 7B13", "backend": "cpu", "versions": environment,
            "data": {"digits.csv.gz": hashlib.sha256(b"digits").hexdigest()}, "parameters": 87_562 - 1024 * (place in (1, 2, 3)),
        },
    )  # fmt: skip
    stop = int(STEPS * rng.uniform(0.2, 0.7)) if diverged or interrupted else STEPS
    lines = []
    for step in np.linspace(STEPS / recipe.evaluations, STEPS, recipe.evaluations).astype(int):
        if step > stop:
            break
        left = np.exp(-step / (300 + 60 * place))
        jump = np.exp((step - stop) / 60) * 4 if diverged else 0
        lines.append({
            "step": int(step),
            "train_loss": float(2.3 * left * (1 + rng.normal(0, 0.06)) + 0.02 * (1 + rng.normal(0, 0.2)) + 0.004 * place + jump),
            "valid_loss": float(2.3 * left + 0.1),
            "valid_value": float(max(3.0, value - 85 * left + rng.normal(0, 0.25) - 10 * jump)),
            "seconds": float(step * 0.0021),
        })  # fmt: skip
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = "interrupted" if interrupted else "diverged" if diverged else "done"
    if not interrupted:
        write_json(
            run.result,
            {
                "schema": 1, "state": state, "value": None if diverged else value, "valid_value": None if diverged else value + 0.2,
                "selected_step": None if diverged else STEPS, "steps": stop, "step_ms": 2.1 + 0.1 * place + rng.normal(0, 0.02),
                "peak_bytes": None, "saved_bytes": 4_000_000 - 300_000 * place, "seconds": 4.2, "parameters": 87_562,
                "reason": f"training loss is not finite at step {stop}" if diverged else None,
            },
        )  # fmt: skip
    return {"seed": seed, "state": state, "value": value if state == "done" else None, "steps": stop, "id": identity}


def _summarize(arm: tuple[str, int, list[dict]], baseline: tuple[str, int, list[dict]], rng: np.random.Generator) -> dict[str, Any]:
    label, place, runs = arm
    values = {run["seed"]: run["value"] for run in runs if run["value"] is not None}
    partners = {run["seed"]: run["value"] for run in baseline[2] if run["value"] is not None}
    common = sorted(values.keys() & partners.keys())
    apart = np.array([values[seed] - partners[seed] for seed in common])
    first = label == baseline[0]
    content: dict[str, Any] = dict.fromkeys(
        ("difference", "interval", "interval_bca", "interval_examples", "p", "p_adjusted", "p_equivalent", "effect", "improvement", "seeds_needed")
    )
    content["verdict"] = "baseline" if first else "not enough evidence"
    if not first and len(common) > 1:
        mean, error = float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)
        reach = float(stats.t.ppf(0.975, len(apart) - 1)) * error
        p = float(stats.ttest_1samp(apart, 0).pvalue)
        close = float(stats.t.sf((MARGIN - abs(mean)) / error, len(apart) - 1))
        verdict = "better" if mean > 0 else "worse"
        if p * 6 > 0.05:
            verdict = "equivalent" if close < 0.05 else "not enough evidence (about 14 more seeds)"
        content |= {
            "difference": mean, "interval": [mean - reach, mean + reach], "interval_bca": [mean - 0.9 * reach, mean + 0.88 * reach],
            "interval_examples": [mean - 0.35, mean + 0.33], "p": p, "p_adjusted": min(1.0, 6 * p), "p_equivalent": close,
            "effect": mean / float(apart.std(ddof=1)), "improvement": float((apart > 0).mean()),
            "seeds_needed": 14 if verdict.startswith("not") else None, "verdict": verdict,
        }  # fmt: skip
    known = list(values.values())
    return {
        "label": label, "norm": NORMS[place], "placement": "post", "arguments": {}, "learning_rate": 3e-3, "parameters": 87_562 - 1024 * (place in (1, 2, 3)),
        "runs": runs, "mean": float(np.mean(known)) if known else None, "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "worst": min(known) if known else None, "pairs": len(common), "unpaired": sorted(partners.keys() - values.keys()),
        "failures": sum(run["state"] in ("diverged", "failed") for run in runs), **content,
        "step_ms": 2.1 + 0.1 * place, "peak_bytes": None, "saved_bytes": 4_000_000 - 300_000 * place, "seconds": 4.2,
    }  # fmt: skip


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
