"""One arm's numbers: states, the worst value, the test set's say, what it costs to be as good."""

import json

import pytest

from normscope.results.aggregates import AGGREGATES
from normscope.results.matching import match_runs, pair_scores, read_runs
from support.study_folders import Study, read, scored


def test_the_worst_value_follows_the_direction(study):
    study.card["metric"]["higher_is_better"] = True
    study.save()
    arm = read(study).arms[1]
    assert arm.worst == min(run.value for run in arm.runs)
    assert (arm.verdict, arm.improvement) == ("worse", 0.0)


def test_every_state_is_told(tmp_path):
    study = Study(tmp_path, seeds=range(5))
    study.fill("layer_norm", [5.0, 5.2, 4.9, 5.1, 5.3])
    study.run("ada_norm", 0, 4.0)
    study.run("ada_norm", 1, state="diverged", result={"steps": 17})
    study.run("ada_norm", 2, state="failed", result={"steps": 0, "step_ms": None, "peak_bytes": None})
    study.run("ada_norm", 3, state="interrupted")
    summary = read(study)
    arm = summary.arms[1]
    assert [(run.state, run.value, run.steps) for run in arm.runs] == [
        ("done", 4.0, 100),
        ("diverged", None, 17),
        ("failed", None, 0),
        ("interrupted", None, 40),
        ("planned", None, None),
    ]
    assert arm.runs[4].id is None
    assert not summary.complete
    assert (arm.failures, arm.pairs, arm.unpaired, arm.mean, arm.worst) == (2, 1, (1, 2, 3, 4), 4.0, None)
    assert arm.verdict == (
        "fails to train in 1 of 3 seeds; could not be computed in 1 of 3 seeds; over the 1 pair that finished: "
        "not enough evidence (2 of 5 planned seeds not ended)"
    )
    assert (arm.interval, arm.interval_bca, arm.p_equivalent, arm.p) == (None, None, None, 1.0)


def test_one_seed(tmp_path):
    study = Study(tmp_path, seeds=[3])
    study.run("layer_norm", 3, 5.0)
    study.run("ada_norm", 3, 4.0)
    summary = read(study)
    assert summary.complete
    assert (summary.arms[1].difference, summary.arms[1].sd, summary.arms[1].effect) == (-1.0, None, None)
    assert summary.arms[1].verdict == (
        "not enough evidence (1 seed cannot claim anything with 1 comparison; about 5 more seeds)"
    )


def test_the_test_set_has_its_say(tmp_path, rng):
    study = Study(tmp_path)
    scored(study, "layer_norm", rng, 0.30)
    scored(study, "ada_norm", rng, 0.20)
    arm = read(study).arms[1]
    assert arm.interval_examples is not None
    assert arm.interval_examples[0] < arm.difference < arm.interval_examples[1] < 0
    assert arm.verdict == "better"


def test_pairs_without_scores_do_not_count_for_the_test_set(tmp_path, rng):
    study = Study(tmp_path)
    scored(study, "layer_norm", rng, 0.30)
    scored(study, "ada_norm", rng, 0.20)
    study.folder.run("ada_norm-0-0.1").examples.unlink()
    assert read(study).arms[1].interval_examples is not None
    for seed in study.seeds:
        study.folder.run(f"layer_norm-{seed}-0.1").examples.unlink()
    assert read(study).arms[1].interval_examples is None


def test_runs_of_one_arm_have_one_number_of_parameters(study):
    study.run("ada_norm", 0, 4.0, described={"parameters": 501})
    with pytest.raises(ValueError, match=r"runs of ada_norm differ in their number of parameters: \[500, 501\]"):
        read(study)


def looks(study, label, seed, losses):
    """Write validation losses at steps 20, 40, ... and seconds 1, 2, ..."""
    rows = [{"step": 20 * n, "valid_loss": loss, "seconds": float(n)} for n, loss in enumerate(losses, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    study.folder.run(f"{label}-{seed}-0.1").metrics.write_text(text)


def test_what_it_costs_to_be_as_good_as_the_baseline_at_its_end(tmp_path):
    study = Study(tmp_path, seeds=range(3))
    study.fill("layer_norm", [5.0, 5.2, 4.9])
    study.fill("ada_norm", [5.0, 5.2, 4.9])
    for seed, last in enumerate((0.5, 0.7, 0.6)):
        looks(study, "layer_norm", seed, [0.9, 0.8, last])
    # The baseline's median run ends at 0.6; this arm's medians are 0.9, 0.6, 0.3.
    for seed, losses in enumerate(([0.6, 0.5, 0.4], [0.9, 0.6, 0.3], [0.95, 0.9, 0.2])):
        looks(study, "ada_norm", seed, losses)
    base, arm = read(study).arms
    assert (arm.steps_to_baseline, arm.seconds_to_baseline) == (40, 2.0)
    assert (base.steps_to_baseline, base.seconds_to_baseline) == (60, 3.0)
    looks(study, "ada_norm", 1, [0.9, 0.61, 0.61])
    looks(study, "ada_norm", 2, [0.9, 0.61, 0.61])
    assert read(study).arms[1].steps_to_baseline is None
    assert read(study).arms[1].seconds_to_baseline is None


def test_splits_of_the_seeds_own_have_no_interval_over_examples(tmp_path, rng):
    study = Study(tmp_path, splits="resampled", generalizes="over seeds and splits of these 40 rows")
    for seed in study.seeds:
        for label, rate in (("layer_norm", 0.30), ("ada_norm", 0.20)):
            # Test sets of another size in every seed, and all of one example in the last.
            scores = 100.0 * (rng.random(1 if seed == 9 else 40 + seed) < rate)
            described = {"split": "resampled", "parameters": 500 + seed}
            study.run(label, seed, float(scores.mean()), scores=scores, described=described)
    summary = read(study)
    arm = summary.arms[1]
    assert summary.generalizes == "over seeds and splits of these 40 rows"
    assert (arm.pairs, arm.interval_examples, arm.parameters) == (10, None, 504)
    assert "test examples" not in arm.verdict
    # A share is never more than 100 points better or worse.
    assert arm.interval[0] >= -100
    assert arm.interval[1] <= 100
    runs, _ = read_runs(study.folder, study.card)
    sides = [match_runs(study.card, entry, runs) for entry in study.card["arms"]]
    assert pair_scores(sides[1], sides[0], AGGREGATES["mean"]) is None
    study.run("ada_norm", 0, 4.0, described={"split": "study"}, name="of-published-splits")
    assert read(study) == summary
