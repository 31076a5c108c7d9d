"""A study folder read back: every state of a run, tuned arms, strangers, and the exact shape of summary.json."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from normscope.results import ArmSummary, RunSummary, read_summary, summarize
from support.study_folders import Study, read

ARM_FIELDS = [
    "label",
    "norm",
    "placement",
    "arguments",
    "learning_rate",
    "parameters",
    "runs",
    "mean",
    "sd",
    "worst",
    "pairs",
    "unpaired",
    "failures",
    "difference",
    "interval",
    "interval_bca",
    "interval_examples",
    "p",
    "p_adjusted",
    "p_equivalent",
    "effect",
    "improvement",
    "seeds_needed",
    "verdict",
    "step_ms",
    "peak_bytes",
    "saved_bytes",
    "seconds",
    "steps_to_baseline",
    "seconds_to_baseline",
]
SUMMARY_FIELDS = [
    "schema",
    "task",
    "question",
    "metric",
    "baseline",
    "margin",
    "alpha",
    "complete",
    "noise",
    "arms",
    "untuned",
    "tuning",
    "regime",
    "command",
    "settings",
    "versions",
    "published",
]


def check_schema(content):
    """Check what the project's issue fixed of summary.json: fields and their types."""
    number, maybe = (int, float), (int, float, type(None))

    def has(mapping, **kinds):
        for name, kind in kinds.items():
            assert name in mapping, name
            assert isinstance(mapping[name], kind), (name, mapping[name])
            assert kind is bool or not isinstance(mapping[name], bool), name

    has(content, schema=int, task=str, metric=dict, baseline=str, margin=number, arms=list)
    assert content["schema"] == 1
    has(content["metric"], name=str, unit=str)
    assert isinstance(content["metric"]["higher_is_better"], bool)
    for arm in content["arms"]:
        has(arm, norm=str, placement=str, parameters=maybe, runs=list, verdict=str)
        has(arm, mean=maybe, difference=maybe, p_adjusted=maybe, step_ms=maybe, peak_bytes=maybe)
        assert arm["interval"] is None or [type(end) for end in arm["interval"]] == [float, float]
        for run in arm["runs"]:
            has(run, seed=int, state=str, value=maybe, steps=maybe)
            assert run["state"] in ("done", "diverged", "failed", "interrupted", "planned")
            assert (run["value"] is not None) == (run["state"] == "done")


def test_a_complete_study(study):
    summary = read(study)
    baseline, arm = summary.arms
    assert (summary.complete, summary.baseline, summary.untuned) == (True, "layer_norm", None)
    assert (baseline.verdict, arm.verdict) == ("baseline", "better")
    assert (baseline.difference, baseline.interval, baseline.p, baseline.unpaired) == (None, None, None, ())
    ours, theirs = ([run.value for run in each.runs] for each in (arm, baseline))
    peer = stats.ttest_rel(ours, theirs)
    # Two float64 routes to one number.
    assert arm.interval == pytest.approx((peer.confidence_interval().low, peer.confidence_interval().high), rel=1e-9)
    assert arm.difference == pytest.approx(np.mean(ours) - np.mean(theirs), rel=1e-9)
    assert arm.effect == pytest.approx(arm.difference / np.std(theirs, ddof=1), rel=1e-9)
    assert (arm.mean, arm.sd, arm.worst) == pytest.approx((np.mean(ours), np.std(ours, ddof=1), max(ours)))
    assert (arm.p, arm.p_adjusted, arm.improvement, arm.pairs, arm.failures) == (2 / 1024, 2 / 1024, 1.0, 10, 0)
    assert (arm.step_ms, arm.peak_bytes, arm.saved_bytes, arm.seconds, arm.parameters) == (5.5, 1004, 64, 2.0, 500)


def test_the_shape_is_the_documented_one(study):
    content = read(study).to_dict()
    check_schema(content)
    assert list(content) == SUMMARY_FIELDS
    assert [list(arm) for arm in content["arms"]] == [ARM_FIELDS] * 2
    assert list(content["arms"][0]["runs"][0]) == ["seed", "state", "value", "steps", "id"]
    assert list(content["noise"]) == ["sigma", "n", "words"]
    assert content["versions"] == {"torch": ["2.13.0"]}
    assert content["settings"]["data"] == {"digits.csv": ["abc"]}


def test_json_and_csv_are_written_whole(study):
    summary = read(study)
    summary.write(study.folder.path)
    text = study.folder.summary.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == summary.to_dict()
    rows = list(csv.DictReader(io.StringIO(study.folder.table.read_text())))
    assert [row["label"] for row in rows] == ["layer_norm", "ada_norm"]
    assert float(rows[1]["difference"]) == summary.arms[1].difference
    assert (float(rows[1]["interval_low"]), float(rows[1]["interval_high"])) == summary.arms[1].interval
    assert float(rows[1]["seed_3"]) == summary.arms[1].runs[3].value
    assert (rows[0]["interval_low"], rows[0]["difference"], rows[0]["verdict"]) == ("", "", "baseline")
    assert not [path for path in study.folder.path.iterdir() if path.suffix == ".tmp"]


def test_a_number_that_is_not_finite_leaves_the_old_summary(study):
    summary = read(study)
    summary.write(study.folder.path)
    before = study.folder.summary.read_bytes()
    summary.noise["sigma"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        summary.write(study.folder.path)
    assert study.folder.summary.read_bytes() == before


def test_the_same_folder_gives_the_same_summary(study):
    first = read(study).to_dict()
    assert first == read(study).to_dict()
    study.card["arms"].append(study.arm("rms_norm"))
    study.save()
    assert read(study).to_dict()["arms"][1]["interval_bca"] == first["arms"][1]["interval_bca"]


def test_a_study_that_has_not_begun(tmp_path):
    summary = read(Study(tmp_path))
    assert [run.state for run in summary.arms[1].runs] == ["planned"] * 10
    assert summary.arms[1].verdict == "not enough evidence (10 of 10 planned seeds not ended)"
    assert summary.noise == {
        "sigma": None,
        "n": 0,
        "words": "unknown: it takes 2 finished runs of layer_norm, there are 0",
    }
    check_schema(summary.to_dict())


def test_an_arm_that_always_diverges_counts_in_holm(study):
    study.card["arms"].append(study.arm("rms_norm"))
    study.save()
    for seed in study.seeds:
        study.run("rms_norm", seed, state="diverged")
    _, arm, broken = read(study).arms
    assert broken.verdict == "fails to train in 10 of 10 seeds; no pair finished"
    assert (broken.p, broken.p_adjusted, broken.mean) == (None, None, None)
    assert arm.p_adjusted == 2 * arm.p


def test_mixed_machines_are_listed(study):
    study.run("ada_norm", 4, 4.0, described={"device_name": "CPU B", "versions": {"torch": "2.14.0", "numpy": "2.4"}})
    summary = read(study)
    assert summary.settings["device_name"] == ["CPU A", "CPU B"]
    assert summary.versions == {"numpy": ["2.4"], "torch": ["2.13.0", "2.14.0"]}


def test_tuned_arms_are_the_answer_and_untuned_ones_stand_beside(tmp_path, rng):
    study = Study(tmp_path, tuning={"grid": [0.3, 1.0], "seeds": [1000], "arms": {}})
    study.card["arms"] = [
        study.arm("layer_norm", tuned=True),
        study.arm("ada_norm", tuned=True, learning_rate=0.3),
        study.arm("layer_norm"),
        study.arm("ada_norm"),
    ]
    study.save()
    noise = rng.normal(5.0, 1.0, 10)
    study.fill("layer_norm", noise)
    study.fill("ada_norm", noise - 1.0 + rng.normal(0, 0.1, 10), described={"learning_rate": 0.3})
    study.fill("ada_norm", noise + 1.0 + rng.normal(0, 0.1, 10))
    summary = read(study)
    assert summary.untuned is not None
    assert [arm.verdict for arm in summary.arms] == ["baseline", "better"]
    assert [arm.verdict for arm in summary.untuned] == ["baseline", "worse"]
    # The tuned baseline kept the task's learning rate: one run serves both.
    assert summary.arms[0] == summary.untuned[0]
    assert summary.arms[1].p_adjusted == 2 * summary.arms[1].p == 4 / 1024
    assert summary.settings["foreign_runs"] == []
    assert summary.to_dict()["tuning"]["grid"] == [0.3, 1.0]
    rows = list(csv.DictReader(io.StringIO(summary.to_csv())))
    assert [row["tuned"] for row in rows] == ["1", "1", "0", "0"]


def test_a_baseline_that_is_no_arm_is_refused(study):
    study.card["baseline"] = "batch_norm"
    study.save()
    with pytest.raises(
        ValueError, match=r"card\.json needs its baseline 'batch_norm' once .* got \['layer_norm', 'ada"
    ):
        read(study)


def test_a_margin_within_the_noise_is_told(tmp_path, rng):
    study = Study(tmp_path, margin=0.1)
    # Standard deviation exactly 1: ten values at ±1 around 5, times sqrt(9/10).
    study.fill("layer_norm", 5.0 + 0.9**0.5 * np.array([-1.0, 1.0] * 5))
    noise = read(study).noise
    assert noise["sigma"] == pytest.approx(1.0)
    assert noise["n"] == 10
    # (2.802 x sqrt(2) / 0.1)^2 = 1570.
    assert noise["words"] == (
        "layer_norm varies by 1 % (standard deviation over 10 seeds); "
        "the margin of 0.1 % is less than half of it: finding it takes over 1000 seeds"
    )
    study.card["margin"] = 0.4
    study.save()
    # (2.802 x sqrt(2) / 0.4)^2 = 98.1, and 1.96^2 / 2 more for Student.
    assert read(study).noise["words"].endswith("finding it takes about 101 seeds")
    study.card["margin"] = 0.51
    study.save()
    assert "margin" not in read(study).noise["words"]


def test_a_folder_without_card_is_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        summarize(tmp_path)


def test_results_are_read_without_torch():
    code = "import sys; sys.modules['torch'] = None; import normscope; normscope.Summary; import normscope.results"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_untuned_comparisons_count_among_those_of_the_card(tmp_path):
    study = Study(tmp_path, seeds=range(6), tuning={"grid": [0.1, 0.3], "seeds": [1000], "arms": {}})
    study.card["arms"] = [
        study.arm(label, tuned=tuned) for tuned in (True, False) for label in ("layer_norm", "ada_norm")
    ]
    study.save()
    study.fill("layer_norm", [5.0, 5.1, 5.2, 5.3, 5.4, 5.5])
    study.fill("ada_norm", [4.0, 4.1, 4.2, 4.31, 4.41, 4.5])
    # Six pairs could claim one comparison; the card has two.
    assert (
        read(study).arms[1].verdict.startswith("not enough evidence (6 seeds cannot claim anything with 2 comparisons")
    )


def counted(study, label, rng, share, examples=300, seeds=None):
    """Write runs whose examples are sentences: right words and words, judged by their percentage over the test set."""
    words = np.random.default_rng(3).integers(5, 60, examples)
    for seed in study.seeds if seeds is None else seeds:
        right = rng.binomial(words, share)
        value = 100.0 * right.sum() / words.sum()
        study.run(label, seed, float(value), scores=np.stack([right, words], axis=1))


@pytest.fixture
def sentences(tmp_path, rng):
    metric = {"name": "right words", "unit": "%", "higher_is_better": True, "aggregate": "percentage"}
    made = Study(tmp_path, metric=metric, margin=0.5)
    counted(made, "layer_norm", rng, 0.60)
    counted(made, "ada_norm", rng, 0.66)
    return made


def test_scores_of_several_numbers_are_put_together_over_the_test_set(sentences):
    baseline, arm = read(sentences).arms
    assert arm.verdict == "better"
    assert (arm.mean - baseline.mean) == pytest.approx(arm.difference, rel=1e-9)
    low, high = arm.interval_examples
    assert low < arm.difference < high
    # The delta method for a ratio of means: its error is that of (right - value * words) / mean words.
    pairs = []
    for label in ("ada_norm", "layer_norm"):
        scores = [np.load(sentences.folder.run(f"{label}-{seed}-0.1").examples).astype(float) for seed in range(10)]
        pairs.append(np.mean([(s[:, 0] - s[:, 0].sum() / s[:, 1].sum() * s[:, 1]) / s[:, 1].mean() for s in scores], 0))
    error = 100 * (pairs[0] - pairs[1]).std() / 300**0.5
    # A 2.5 % quantile of 10,000 resamples has a standard error of 0.027 standard deviations.
    want = arm.difference - 1.96 * error, arm.difference + 1.96 * error
    assert (low, high) == pytest.approx(want, abs=0.15 * error)


def test_the_mean_of_percentages_is_not_the_percentage(tmp_path):
    """One right word of one and no right one of 99 are 1 %, not 50."""
    metric = {"name": "right words", "unit": "%", "higher_is_better": True, "aggregate": "percentage"}
    study = Study(tmp_path, metric=metric, seeds=[0])
    for label in ("layer_norm", "ada_norm"):
        study.run(label, 0, 1.0, scores=[[1, 1], [0, 99]])
    assert [arm.mean for arm in read(study).arms] == [1.0, 1.0]
    study.run("ada_norm", 0, 50.0, scores=[[1, 1], [0, 99]])
    with pytest.raises(ValueError, match=r"ada_norm-0-0\.1/examples\.npy has percentage 1\.0, its run has value 50\.0"):
        read(study)


def test_counts_that_were_changed_are_refused(sentences):
    path = sentences.folder.run("ada_norm-4-0.1").examples
    scores = np.load(path)
    scores[17, 0] += 1
    np.save(path, scores)
    with pytest.raises(ValueError, match=r"ada_norm-4-0\.1/examples\.npy has percentage .* one of them was changed"):
        read(sentences)


@pytest.mark.parametrize("shape", [(300,), (300, 3), (0, 2)])
def test_scores_of_another_width_are_refused(sentences, shape):
    np.save(sentences.folder.run("ada_norm-4-0.1").examples, np.ones(shape, np.float32))
    with pytest.raises(ValueError, match=r"ada_norm-4-0\.1/examples\.npy"):
        read(sentences)


def test_corpus_bleu_of_a_study(tmp_path):
    """Two systems of ten and eight words, by hand; the second is one word short of half the reference's bigrams."""
    metric = {"name": "BLEU", "unit": "BLEU", "higher_is_better": True, "aggregate": "bleu", "signature": "x"}
    study = Study(tmp_path, metric=metric, seeds=[0])
    # System and reference length, matches of order 1 to 4, n-grams of order 1 to 4; two sentences each.
    ours = [[5, 5, 4, 3, 2, 1, 5, 4, 3, 2], [5, 5, 4, 1, 0, 0, 5, 4, 3, 2]]
    precisions = np.array([8 / 10, 4 / 8, 2 / 6, 1 / 4])
    value = 100 * precisions.prod() ** 0.25
    short = [[4, 5, 4, 3, 2, 1, 4, 3, 2, 1], [4, 5, 4, 3, 2, 1, 4, 3, 2, 1]]
    study.run("layer_norm", 0, float(100 * np.exp(1 - 10 / 8)), scores=short, described={"signature": "x"})
    study.run("ada_norm", 0, float(value), scores=ours, described={"signature": "x"})
    arms = read(study).arms
    assert arms[1].difference == pytest.approx(value - 100 * np.exp(-0.25), rel=1e-12)
    assert arms[1].interval_examples is not None


def test_what_was_written_is_read_back(tmp_path):
    study = Study(tmp_path, seeds=range(3))
    study.fill("layer_norm", [5.0, 6.0, 7.0])
    for seed, value in enumerate([4.0, 5.5]):
        study.run("ada_norm", seed, value)
    summary = read(study)
    summary.write(tmp_path)
    found = read_summary(tmp_path)
    assert found == summary
    assert all(isinstance(arm, ArmSummary) for arm in found.arms)
    assert found.arms[1].states == ["done", "done", "planned"]
    assert found.arms[1].runs[1] == RunSummary(seed=1, state="done", value=5.5, steps=100, id="ada_norm-1-0.1")


def test_optional_fields_may_be_absent(study):
    content = json.loads(json.dumps(read(study).to_dict()))
    del content["untuned"], content["arms"][0]["p"], content["arms"][0]["unpaired"]
    study.folder.summary.write_text(json.dumps(content))
    found = read_summary(study.folder.path)
    assert (found.untuned, found.arms[0].p, found.arms[0].unpaired) == (None, None, ())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("complete", "yes", "has complete 'yes', expected true or false"),
        ("margin", 0, "has margin 0, expected a number above 0"),
        ("baseline", "z", "the baseline 'z' is not among the arms"),
    ],
)
def test_a_summary_of_another_shape_is_refused(study, field, value, words):
    study.folder.summary.write_text(json.dumps(read(study).to_dict() | {field: value}))
    with pytest.raises(ValueError, match=words):
        read_summary(study.folder.path)


def test_a_metric_without_a_unit_is_read_back(study):
    study.card["metric"] = {**study.card["metric"], "unit": ""}
    study.save()
    summary = read(study)
    summary.write(study.folder.path)
    assert read_summary(study.folder.path).metric["unit"] == ""
