"""A study folder read back: every state of a run, tuned arms, strangers, and the exact shape of summary.json."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from normscope.results import summarize
from normscope.results.store import SCHEMA, StudyFolder, write_json

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


class Study:
    """Writes a study as the runner would."""

    def __init__(self, path, *, labels=("layer_norm", "ada_norm"), seeds=range(10), **card):
        self.folder = StudyFolder(path)
        self.seeds = list(seeds)
        self.card = {
            "schema": SCHEMA,
            "question": "Does it help?",
            "task": "digits",
            "metric": {"name": "test error", "unit": "%", "higher_is_better": False},
            "margin": 0.5,
            "alpha": 0.05,
            "baseline": labels[0],
            "arms": [self.arm(label) for label in labels],
            "seeds": self.seeds,
            "steps": 100,
            "batch_size": 32,
            "precision": "float32",
            "device": "cpu",
            "regime": "small",
            "failure": "NaN",
            "command": "normscope compare digits",
            "published": [],
            "tuning": None,
            **card,
        }
        self.save()

    @staticmethod
    def arm(label, *, learning_rate=0.1, tuned=False):
        return {
            "label": label,
            "norm": label,
            "placement": "post",
            "arguments": {},
            "learning_rate": learning_rate,
            "tuned": tuned,
        }

    def save(self):
        write_json(self.folder.card, self.card)

    def run(self, label, seed, value=None, *, state="done", scores=None, described=None, result=None, name=None):
        """Write one run; the state ``interrupted`` has no result."""
        described = described or {}
        rate = described.get("learning_rate", 0.1)
        run = self.folder.run(name or f"{label}-{seed}-{rate}")
        about = {
            "label": label,
            "norm": label,
            "placement": "post",
            "arguments": {},
            "seed": seed,
            "learning_rate": 0.1,
        }
        about |= {key: self.card[key] for key in ("task", "steps", "batch_size", "precision", "device")}
        about |= {"id": run.path.name, "parameters": 500, "versions": {"torch": "2.13.0"}, "device_name": "CPU A"}
        about |= {"data": {"digits.csv": "abc"}, "split": "study"}
        write_json(run.description, {"schema": SCHEMA, **about, **described})
        run.metrics.write_text('{"step": 20, "valid_value": 3.0}\n{"step": 40, "valid_value": 2.0}\n{"ste')
        if state != "interrupted":
            numbers = {"step_ms": 1.0 + seed, "peak_bytes": 1000 + seed, "saved_bytes": 64, "seconds": 2.0}
            ending = {"state": state, "value": value, "steps": 100, **numbers, "reason": None}
            write_json(run.result, {"schema": SCHEMA, **ending, **(result or {})})
        if scores is not None:
            np.save(run.examples, np.asarray(scores, dtype=np.float32))
        return run

    def fill(self, label, values, **arguments):
        for seed, value in zip(self.seeds, values, strict=True):
            self.run(label, seed, float(value), **arguments)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def study(tmp_path, rng):
    """Ten pairs that differ by about one point, with the noise of a seed shared."""
    made = Study(tmp_path)
    noise = rng.normal(5.0, 1.0, 10)
    made.fill("layer_norm", noise)
    made.fill("ada_norm", noise - 1.0 + rng.normal(0.0, 0.1, 10))
    return made


def read(study):
    return summarize(study.folder.path)


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


def test_the_worst_value_follows_the_direction(study):
    study.card["metric"]["higher_is_better"] = True
    study.save()
    arm = read(study).arms[1]
    assert arm.worst == min(run.value for run in arm.runs)
    assert (arm.verdict, arm.improvement) == ("worse", 0.0)


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
        "fails to train in 2 of 3 seeds; over the 1 pair that finished: "
        "not enough evidence (2 of 5 planned seeds not ended)"
    )
    assert (arm.interval, arm.interval_bca, arm.p_equivalent, arm.p) == (None, None, None, 1.0)
    check_schema(summary.to_dict())


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


def test_one_seed(tmp_path):
    study = Study(tmp_path, seeds=[3])
    study.run("layer_norm", 3, 5.0)
    study.run("ada_norm", 3, 4.0)
    summary = read(study)
    assert summary.complete
    assert (summary.arms[1].difference, summary.arms[1].sd, summary.arms[1].effect) == (-1.0, None, None)
    assert summary.arms[1].verdict == (
        "not enough evidence (1 seed cannot claim anything with 1 arm; about 5 more seeds)"
    )


def test_an_arm_that_always_diverges_counts_in_holm(study):
    study.card["arms"].append(study.arm("rms_norm"))
    study.save()
    for seed in study.seeds:
        study.run("rms_norm", seed, state="diverged")
    _, arm, broken = read(study).arms
    assert broken.verdict == "fails to train in 10 of 10 seeds; no pair finished"
    assert (broken.p, broken.p_adjusted, broken.mean) == (None, None, None)
    assert arm.p_adjusted == 2 * arm.p


def test_strangers_are_left_out_and_listed(study):
    study.run("rms_norm", 0, 0.0, name="other-arm")
    study.run("ada_norm", 77, 0.0, name="other-seed")
    for key, value in {"steps": 9, "task": "mnist", "batch_size": 1, "learning_rate": 9.0, "placement": "pre"}.items():
        study.run("ada_norm", 0, 0.0, described={key: value}, name=f"other-{key}")
    study.run("ada_norm", 0, 0.0, described={"split": "tune"}, name="tuning")
    (study.folder.path / "runs" / "notes").mkdir()
    summary = read(study)
    names = ["arm", "batch_size", "learning_rate", "placement", "seed", "steps", "task"]
    assert summary.settings["foreign_runs"] == ["notes", *(f"other-{name}" for name in names)]
    assert summary.arms[1].verdict == "better"


def test_a_run_that_failed_before_it_was_described_is_counted(study):
    for entry in study.card["arms"]:
        entry["runs"] = {str(seed): f"{entry['label']}-{seed}-0.1" for seed in study.seeds}
    study.save()
    study.run("ada_norm", 4, 0.0, name="not-on-the-card")
    (study.folder.path / "runs" / "notes").mkdir()
    for seed, state in ((2, "failed"), (3, "interrupted")):
        folder = study.folder.run(f"ada_norm-{seed}-0.1")
        folder.result.unlink()
        study.run("ada_norm", seed, state=state).description.unlink()
    summary = read(study)
    assert [run.state for run in summary.arms[1].runs[:5]] == ["done", "done", "failed", "interrupted", "done"]
    assert summary.arms[1].verdict.startswith("fails to train in 1 of 9 seeds; over the 8 pairs")
    assert summary.settings["foreign_runs"] == ["not-on-the-card", "notes"]


def test_two_runs_for_one_seed_are_refused(study):
    study.run("ada_norm", 4, 1.0, name="again")
    with pytest.raises(ValueError, match=r"arm ada_norm has two runs with seed 4: .*ada_norm-4.* and .*again"):
        read(study)


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


def scored(study, label, rng, share, examples=400):
    """Write ten runs whose values are the means of their right-or-wrong scores, in percent."""
    for seed in study.seeds:
        scores = 100.0 * (rng.random(examples) < share)
        study.run(label, seed, float(scores.mean()), scores=scores)


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


def test_scores_that_contradict_their_run_are_refused(study):
    np.save(study.folder.run("ada_norm-2-0.1").examples, np.ones(5, np.float32))
    np.save(study.folder.run("layer_norm-2-0.1").examples, np.ones(5, np.float32))
    with pytest.raises(ValueError, match=r"ada_norm-2-0\.1/examples\.npy has mean 1\.0, its run has value"):
        read(study)


def test_scores_of_different_test_sets_are_refused(tmp_path):
    study = Study(tmp_path)
    for label in ("layer_norm", "ada_norm"):
        study.run(label, 0, 1.0, scores=np.ones(5 if label == "ada_norm" else 6))
    with pytest.raises(ValueError, match=r"ada_norm and layer_norm have examples\.npy of different lengths, \[5, 6\]"):
        read(study)


@pytest.mark.parametrize("value", [None, "5.0", True])
def test_a_done_run_needs_a_value(study, value):
    study.run("ada_norm", 0, value)
    with pytest.raises(ValueError, match=rf"result\.json is done and needs a value, got {value!r}"):
        read(study)


def test_nan_in_a_result_is_refused(study):
    path = study.folder.run("ada_norm-0-0.1").result
    path.write_text('{"schema": 1, "state": "done", "value": NaN}')
    with pytest.raises(ValueError, match="NaN is no JSON number"):
        read(study)


def test_an_unknown_state_is_refused(study):
    study.run("ada_norm", 0, 1.0, state="running")
    with pytest.raises(ValueError, match=r"has state 'running', expected one of done, diverged, failed"):
        read(study)


def test_runs_of_one_arm_have_one_number_of_parameters(study):
    study.run("ada_norm", 0, 4.0, described={"parameters": 501})
    with pytest.raises(ValueError, match=r"runs of ada_norm differ in their number of parameters: \[500, 501\]"):
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
