"""The committed calibration of warm-up, recomputed from its runs: labels, accuracies and text; and a small new one."""

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from normscope.diagnostics import readings
from normscope.results.store import read_json

pytestmark = pytest.mark.usefixtures("small_data")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "results" / "warmup"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("warmup_calibration", ROOT / "benchmarks" / "warmup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CALIBRATION = load()
CONTENT = read_json(FOLDER / "calibration.json")
TINY = CALIBRATION.Size(steps=3, warmup=2, window=8, batch=2, seeds=1)


def configuration(placement: str = "post", rate: float = 1e-3) -> Any:
    return CALIBRATION.Configuration(placement=placement, layers=2, width=8, learning_rate=rate)


def test_every_configuration_was_trained_twice_from_every_seed() -> None:
    size = CALIBRATION.Size(**CONTENT["size"])
    wanted = {
        (one.placement, one.layers, one.width, one.learning_rate, seed)
        for one, seed in itertools.product(CALIBRATION.CONFIGURATIONS, range(size.seeds))
    }
    assert len(CALIBRATION.CONFIGURATIONS) >= 24
    assert size == CALIBRATION.Size()
    assert len(CONTENT["runs"]) == len(wanted)
    assert {CALIBRATION.key(run, run["seed"]) for run in CONTENT["runs"]} == wanted
    assert all(run[arm] is None or 0 < run[arm] < 20 for run in CONTENT["runs"] for arm in ("with_warmup", "without"))


def test_the_page_is_what_the_runs_give() -> None:
    assert (FOLDER / "README.md").read_text() == CALIBRATION.page(CONTENT)


def test_labels_are_those_of_the_losses() -> None:
    rows = CALIBRATION.rows_of(CONTENT)
    for row in rows:
        which = vars(row.configuration)
        runs = [run for run in CONTENT["runs"] if all(run[name] == value for name, value in which.items())]
        losses = np.array([[run["without"], run["with_warmup"]] for run in runs], dtype=float)
        assert row.needed == bool((losses[:, 0] - losses[:, 1]).mean() > 0.1)
        changes = [run["features"]["output_change"] for run in runs]
        assert row.features["output_change"] == pytest.approx(np.mean(changes))
        assert CALIBRATION.on_stream(row) == (which["placement"] != "pre")
    assert 0 < sum(row.needed for row in rows) < len(rows)


def test_in_every_fold_the_predictor_is_the_best_of_its_rules() -> None:
    rows = CALIBRATION.rows_of(CONTENT)
    needed = np.array([row.needed for row in rows])
    post = np.array([row.configuration.placement != "pre" for row in rows])
    values = np.array([[row.features[name] for name in CALIBRATION.FEATURES] for row in rows])
    told = CALIBRATION.left_out(rows, CALIBRATION.PREDICTOR)
    for place, row in enumerate(rows):
        kept = np.arange(len(rows)) != place
        best = 0
        for column in values.T:
            for threshold in [*column[kept], math.inf]:
                for side in (column >= threshold, column < threshold):
                    best = max(best, *((said == needed)[kept].sum() for said in (side, side & post)))
        others = [other for other in rows if other is not row]
        rule = CALIBRATION.PREDICTOR(others)
        assert sum(rule(other) == other.needed for other in others) == best
        assert told[place] == rule(row)


def test_trivial_rules_by_hand() -> None:
    rows = CALIBRATION.rows_of(CONTENT)
    needed = np.array([row.needed for row in rows])
    found = CALIBRATION.outcome_of(CONTENT)
    without_one = (needed.sum() - needed) * 2 > len(rows) - 1
    assert found.trivial["most of the others"] == without_one.tolist()
    assert found.trivial["Post-LN needs it, others do not"] == [r.configuration.placement == "post" for r in rows]
    for row, told in zip(rows, found.trivial["most of the same placement"], strict=True):
        same = [r.needed for r in rows if r is not row and r.configuration.placement == row.configuration.placement]
        assert told == (np.mean(same) > 0.5)


def test_the_sign_test_is_the_binomial_one() -> None:
    found = CALIBRATION.outcome_of(CONTENT)
    for other in (*found.trivial.values(), *found.others.values()):
        wins, losses, chance = CALIBRATION.sign_test(found.rows, found.told, other)
        assert wins - losses == CALIBRATION.right(found.rows, found.told) - CALIBRATION.right(found.rows, other)
        expected = binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
        assert chance == pytest.approx(expected)


def test_a_tiny_calibration_runs_and_goes_on(tmp_path: Path) -> None:
    path, said = tmp_path / "calibration.json", []
    both = [configuration("post"), configuration("pre")]
    CALIBRATION.compute(path, both[:1], TINY, said.append)
    first = read_json(path)["runs"]
    CALIBRATION.compute(path, both, TINY, said.append)
    content = read_json(path)
    assert len(said) == 2
    assert content["runs"][:1] == first
    assert [run["placement"] for run in content["runs"]] == ["post", "pre"]
    run = content["runs"][0]
    # Three steps of 1e-3 from a head that begins Xavier-uniform: near the logarithm of 65 characters, and not the same.
    assert 3 < run["with_warmup"] != run["without"] < 7
    assert run["features"]["learning_rate"] == 1e-3
    with pytest.raises(ValueError, match="take another folder"):
        CALIBRATION.compute(path, both, CALIBRATION.Size(), said.append)


def test_arms_begin_alike_and_again_the_same() -> None:
    text = CALIBRATION.read_text(TINY.window)
    (one, draws), (two, again) = (CALIBRATION.start(configuration(), text, 3, TINY) for _ in range(2))
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)
    rows = CALIBRATION.windows(text.train, 5, 8, draws)
    assert torch.equal(rows, CALIBRATION.windows(text.train, 5, 8, again))
    assert rows.shape == (5, 9)
    # With a warm-up of one step the first rate is the whole one.
    assert CALIBRATION.train(configuration(), text, 3, 1, TINY) == CALIBRATION.train(configuration(), text, 3, 0, TINY)


def test_no_character_sees_those_after_it() -> None:
    text = CALIBRATION.read_text(TINY.window)
    model, _ = CALIBRATION.start(configuration(), text, 0, TINY)
    rows = text.held_out[:2, :8].clone()
    before = model(rows)
    rows[:, 5:] = 0
    torch.testing.assert_close(model(rows)[:, :5], before[:, :5])


def test_a_missing_loss_is_not_a_number() -> None:
    text = CALIBRATION.read_text(TINY.window)
    assert CALIBRATION.train(configuration(rate=1e30), text, 0, 0, TINY) is None


def test_a_model_that_diverges_without_warm_up_needs_it() -> None:
    content = {"runs": [{**CONTENT["runs"][0], "with_warmup": 2.0, "without": None}]}
    assert CALIBRATION.rows_of(content)[0].needed
    content["runs"][0]["with_warmup"] = None
    assert not CALIBRATION.rows_of(content)[0].needed


def test_the_figures_that_are_quoted_elsewhere() -> None:
    found = CALIBRATION.outcome_of(CONTENT)
    rows, total = found.rows, len(found.rows)
    ours = CALIBRATION.right(rows, found.told)
    constant = sum(not row.needed for row in rows)
    assert not found.beats
    assert found.trivial[found.best] == [False] * total
    assert {"configurations": total, "predictor": ours, "constant": constant} == readings.CALIBRATION
    hits = sum(row.needed and cause for row, cause in zip(rows, found.named, strict=True))
    alarms = sum(found.named) - hits
    misses = total - constant - hits
    docs = " ".join((ROOT / "docs" / "guides" / "diagnose.md").read_text().split())
    assert f"of {total} small transformers" in docs
    assert (
        f"right about {ours} of them that it was not fitted to, and saying that none needs it about {constant}" in docs
    )
    assert f"{hits} hits, {misses} misses and {alarms} false alarms" in docs
    benches = (ROOT / "benchmarks" / "README.md").read_text()
    assert f"{ours} of {total} told rightly out of sample, {constant} by saying that none needs it" in benches
    wins, losses, chance = CALIBRATION.sign_test(rows, found.told, found.trivial[found.best])
    assert chance > 0.05
    library = (ROOT / "src" / "normscope" / "diagnostics" / "readings.py").read_text()
    for text in (docs, benches, library):
        assert f"{wins} to {losses}" in text
    stuck = CALIBRATION.stuck_of(CONTENT, rows)
    assert all(row in stuck for row, cause in zip(rows, found.named, strict=True) if cause and not row.needed)
    assert f"warm-up is needed in {total - constant}." in docs
    assert sum(row.needed and row.features["output_change"] < 1 for row in rows) == 2
    pre = [row for row in rows if row.configuration.placement == "pre"]
    assert not any(row.needed for row in pre)
    assert sum(row.features["output_change"] > 1 for row in pre) == 7
