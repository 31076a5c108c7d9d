"""The verdict on a table: the numbers of other programs, what is refused with its rows, and what is said aloud."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import normscope
from normscope.results.foreign import Judgment, TableUnusable, judge, judge_all
from normscope.results.foreign.columns import ColumnOptions, direction

Write = Callable[..., Path]


def columns_of(path: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["norm"], {})[int(row["seed"])] = float(row["test_loss"])
    return found


def told(path: Path, **options) -> str:
    (only,) = judge_all(path, columns=ColumnOptions(), **{"margin": 0.01, **options})
    assert isinstance(only, Judgment)
    return "; ".join(only.reading)


def test_numbers_are_those_of_scipy(table: Write) -> None:
    """SciPy's permutation test of the mean with exact sign flips, its t interval and t tests against the margin."""
    path = table()
    summary = judge(path, margin=0.01)
    values = columns_of(path)
    ps = []
    for arm in summary.arms[1:]:
        differences = np.array([values[arm.label][seed] - values["layer_norm"][seed] for seed in range(8)])
        assert arm.difference == pytest.approx(differences.mean())
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
        )
        assert arm.p == pytest.approx(theirs.pvalue)
        ps.append(theirs.pvalue)
        interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert arm.interval == pytest.approx((interval.low, interval.high))
        low = stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
        high = stats.ttest_1samp(differences, 0.01, alternative="less").pvalue
        assert arm.p_equivalent == pytest.approx(max(low, high))
    first, second = sorted(ps)
    assert sorted(arm.p_adjusted for arm in summary.arms[1:]) == pytest.approx([2 * first, max(2 * first, second)])
    assert [arm.verdict for arm in summary.arms] == ["baseline", "worse", "equivalent"]


def test_the_public_name_is_this_one() -> None:
    assert normscope.judge is judge


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        (
            {},
            ("rms_norm,3,0.9",),
            r"seeds of an arm more than once: rms_norm seed 3 \(line 13: 0\.3\S*; line 26: 0\.9\)",
        ),
        ({13: "-"}, (), r"without a partner: seed 3 of layer_norm \(line 5\) has no run of rms_norm\. Run them, or"),
        ({5: "-"}, (), r"seed 3 of rms_norm \(line 12\) has no run of layer_norm; seed 3 of ada_norm \(line 20\)"),
        ({4: "layer_norm,2,0,31"}, (), r"line 4, has 4 cells; the header has 3 \(a decimal comma"),
        ({4: 'layer_norm,2,"0,31"'}, (), r"line 4 has test_loss '0,31', with a decimal comma"),
        ({4: "layer_norm,2,31%"}, (), r"line 4 has test_loss '31%', which is not a number"),
        ({4: "layer_norm,two,0.31"}, (), r"line 4 of results\.csv has seed 'two'; a seed must be a whole number"),
        ({4: f"layer_norm,{2**63},0.31"}, (), r"seed '9223372036854775808'.*a whole number of at most 18 digits"),
        ({4: ",2,0.31"}, (), r"line 4 of results\.csv has no norm, which is its arm"),
        ({1: "norm,seed,seed"}, (), r"has the column 'seed' twice"),
        ({1: "norm,seed,quality"}, (), r"could be the metric: quality\. Choose one"),
        ({1: "kind,number,test_loss"}, (), r"no column of seeds.*--seed \(columns of whole numbers: number\)"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_rows(
    changes: dict[int, str], more: tuple[str, ...], words: str, table: Write
) -> None:
    with pytest.raises(TableUnusable, match=words):
        judge(table(changes, more=more), margin=0.01)


@pytest.mark.parametrize("scale", [1e200, 1e307, 1e-200, 1e-320])
def test_values_whose_squares_are_no_numbers_are_refused(scale: float, tmp_path: Path) -> None:
    rows = [f"{arm},{seed},{(0.3 + 0.01 * seed) * scale!r}" for arm in ("base", "new") for seed in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["arm,seed,loss", *rows]))
    with pytest.raises(TableUnusable, match=r"no longer numbers: base seed \d: \S+ \(line \d\).*in another unit"):
        judge(tmp_path / "t.csv", margin=0.01)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ('"0,31"', r"line 2 has test_loss '0,31', with a decimal comma or as two numbers: write decimal points"),
        ('"1,310"', r"line 2 has test_loss '1,310'.*no commas between thousands"),
        ("31%", r"line 2 has test_loss '31%', which is not a number: leave out the percent sign"),
        ("0.31 (best)", r"line 2 has test_loss '0\.31 \(best\)', which is not a number$"),
    ],
)
def test_a_metric_none_of_whose_cells_is_a_number_is_still_the_metric(cell: str, words: str, table: Write) -> None:
    path = table()
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(f"{row.rsplit(',', 1)[0]},{cell}" for row in rows)]))
    with pytest.raises(TableUnusable, match=words):
        judge(path, margin=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baseline": "batch_norm"}, r"has no arm 'batch_norm' for --baseline; it has layer_norm, rms_norm, ada_norm"),
        ({"metric": "loss"}, r"has no column 'loss' for --metric; it has norm; seed; test_loss"),
        ({"seed": "sed"}, r"has no column 'sed' for --seed"),
        ({"arm": "seed,nrm"}, r"has no column 'nrm' for --arm"),
        ({"margin": 0.0}, r"the margin must be positive and finite, got 0\.0"),
        ({"margin": float("nan")}, r"the margin must be positive"),
        ({"alpha": 0.5}, r"alpha must be between 0 and 0\.5"),
        ({"pattern": "("}, r"is not a regular expression"),
    ],
)
def test_options_that_fit_no_column_list_what_there_is(options: dict, words: str, table: Write) -> None:
    path = table()
    if "pattern" in options:
        path.write_text(path.read_text().replace("norm,seed", "name,number"))
    with pytest.raises(TableUnusable, match=words):
        judge(path, **{"margin": 0.01, **options})


def test_a_refusal_names_the_task(tmp_path: Path) -> None:
    rows = [f"{task},{arm},{seed},0.{seed}" for task, arm in ("a1", "a2", "b1") for seed in range(6)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["task,arm,seed,loss", *rows]))
    with pytest.raises(TableUnusable, match=r"^task b of t\.csv has one arm, 1: a comparison needs two"):
        judge_all(path, columns=ColumnOptions(), margin=0.01, baseline="1")


def test_one_arm_is_no_comparison_and_a_baseline_is_not_guessed(table: Write) -> None:
    path = table()
    path.write_text("\n".join(path.read_text().splitlines()[:9]))
    with pytest.raises(TableUnusable, match="has one arm, layer_norm: a comparison needs two"):
        judge(path, margin=0.01, arm="norm")
    path = table()
    path.write_text(path.read_text().replace("layer_norm", "pre"))
    with pytest.raises(TableUnusable, match=r"which arm is the baseline\? Name it with --baseline: pre, rms_norm"):
        judge(path, margin=0.01)
    assert judge(path, margin=0.01, baseline="pre").arms[0].label == "pre"


@pytest.mark.parametrize(
    ("cell", "state", "reason"),
    [
        ("NaN", "diverged", "test_loss is nan (line 12)"),
        ("-inf", "diverged", "test_loss is -inf (line 12)"),
        ("1e999", "diverged", "test_loss is inf (line 12)"),
        ("", "failed", "test_loss is empty (line 12)"),
        ("None", "failed", "test_loss is empty (line 12)"),
        ("OOM", "failed", "test_loss is 'oom' (line 12)"),
        ("crashed", "failed", "test_loss is 'crashed' (line 12)"),
    ],
)
def test_a_run_without_a_number_failed_and_counts(
    cell: str, state: str, reason: str, table: Write, tmp_path: Path
) -> None:
    path = table({12: f"rms_norm,2,{cell}"})
    summary = judge(path, margin=0.01, out=tmp_path / "study")
    arm = summary.arms[1]
    assert (arm.failures, arm.pairs, arm.runs[2].state) == (1, 7, state)
    failure = {"diverged": "fails to train", "failed": "could not be computed"}[state]
    assert arm.verdict == f"{failure} in 1 of 8 seeds; over the 7 pairs that finished: behind"
    results = [json.loads(each.read_text()) for each in (tmp_path / "study" / "runs").glob("*/result.json")]
    assert [each["reason"] for each in results if each["state"] == state] == [reason]


def test_the_state_of_a_run_decides_and_not_its_last_value(table: Write) -> None:
    path = table()
    lines = path.read_text().splitlines()
    lines = [f"{lines[0]},state", *(f"{line},finished" for line in lines[1:])]
    lines[11] = lines[11].replace("finished", "crashed")
    path.write_text("\n".join(lines))
    arm = judge(path, margin=0.01).arms[1]
    assert (arm.runs[2].state, arm.runs[2].value, arm.failures) == ("failed", None, 1)
    lines[11] = lines[11].replace("crashed", "running")
    path.write_text("\n".join(lines))
    summary = judge(path, margin=0.01)
    assert not summary.complete
    assert summary.arms[1].verdict == "not enough evidence (1 of 8 planned seeds not ended)"
    lines[11] = lines[11].replace("running", "asleep")
    path.write_text("\n".join(lines))
    with pytest.raises(TableUnusable, match="line 12 has state 'asleep'; known are finished, done"):
        judge(path, margin=0.01, state="state")
    # Without the option, a column of other words is not one of states.
    assert "state" not in told(path)


def test_runs_of_different_lengths_are_refused_row_by_row(table: Write) -> None:
    path = table()
    lines = path.read_text().splitlines()
    lines = [f"{lines[0]},epoch", *(f"{line},511" for line in lines[1:])]
    lines[11] = lines[11].replace(",511", ",55")
    path.write_text("\n".join(lines))
    words = r"different lengths: rms_norm seed 2 ends at step 55 with 0\.3\S* \(line 12\); the others end at step 511"
    with pytest.raises(TableUnusable, match=words):
        judge(path, margin=0.01)


def test_a_run_per_step_counts_by_its_last_step(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    rows = [
        {"norm": arm, "seed": seed, "step": step, "loss": seed + 1 / step + (arm == "rms_norm")}
        for arm in ("layer_norm", "rms_norm")
        for seed in range(8)
        for step in (30, 10, 20)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    summary = judge(path, margin=0.1)
    assert summary.arms[1].difference == pytest.approx(1)
    assert [run.value for run in summary.arms[0].runs] == [seed + 1 / 30 for seed in range(8)]
    # Two runs of one seed, logged one after the other.
    path.write_text(path.read_text() + "\n" + json.dumps(rows[0] | {"loss": 7}))
    with pytest.raises(TableUnusable, match=r"layer_norm seed 0 at step 30 \(line 1: 0\.0333\S*; line 49: 7\)"):
        judge(path, margin=0.1)


def test_two_runs_of_one_seed_are_not_one_history(tmp_path: Path) -> None:
    """They share no step, and the table names its runs."""
    path = tmp_path / "history.jsonl"
    rows = [
        {"name": f"{arm}-{seed}", "norm": arm, "seed": seed, "step": 10, "loss": 0.3 + seed / 10}
        for arm in ("layer_norm", "rms_norm")
        for seed in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "name": "again", "step": 20, "loss": 0.2}])))
    with pytest.raises(
        TableUnusable, match=r"layer_norm seed 0 in the runs layer_norm-0, again \(line 1: 0\.3; line 13"
    ):
        judge(path, margin=0.01)


def test_several_tasks_and_metrics_are_a_study_each(tmp_path: Path) -> None:
    rows = [
        {"norm": arm, "seed": seed, "dataset": data, "metric": metric, "value": seed / 100 + (arm == "rms_norm") * sign}
        for arm in ("layer_norm", "rms_norm")
        for seed in range(8)
        for data in ("rt", "sst5")
        for metric, sign in (("accuracy", 0.1), ("loss", 0.1))
    ]
    path = tmp_path / "long.json"
    path.write_text(json.dumps(rows))
    judged = judge_all(path, columns=ColumnOptions(), margin=0.01, out=tmp_path / "out")
    found = {(each.summary.task, each.summary.metric["name"]): each.summary.arms[1].verdict for each in judged}
    assert found == {
        (data, metric): verdict
        for data in ("rt", "sst5")
        for metric, verdict in (("accuracy", "better"), ("loss", "worse"))
    }
    assert all("4 studies, each at its own alpha" in "; ".join(each.reading) for each in judged)
    assert len(list((tmp_path / "out").glob("*/card.json"))) == 4
    with pytest.raises(TableUnusable, match="has 4 studies, accuracy on rt, loss on rt, accuracy on sst5"):
        judge(path, margin=0.01)
    with pytest.raises(
        TableUnusable, match=r"value of long.json mixes the metrics accuracy, loss \(entry 1: accuracy 0"
    ):
        judge(path, margin=0.01, metric="value")


def test_directions_are_said_aloud_or_asked_for(table: Write) -> None:
    assert "metric = test_loss, lower is better (by its name)" in told(table())
    assert "higher is better (as you say; its name says the opposite)" in told(table(), higher_is_better=True)
    path = table({1: "norm,seed,quality"})
    with pytest.raises(TableUnusable, match="whether a higher or a lower quality is better is not known"):
        judge(path, margin=0.01, metric="quality")
    summary = judge(path, margin=0.01, metric="quality", higher_is_better=True)
    assert summary.arms[1].verdict == "better"


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        *[(name, False) for name in ("loss", "test/loss", "valLoss", "cross_entropy", "perplexity", "bpc", "eval_wer")],
        *[(name, True) for name in ("accuracy", "val_acc", "F1", "BLEU", "auc", "top1 accuracy", "test-F1")],
        *[(name, None) for name in ("quality", "closs", "error_accuracy", "glossary", "time")],
    ],
)
def test_direction_of_a_name(name: str, higher: bool | None) -> None:
    assert direction(name) is higher


def test_settings_that_differ_with_the_arm_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = ["config.norm,config.seed,config.lr,config.eps,test_loss"]
    for arm, rate in (("layer_norm", 0.1), ("rms_norm", 0.2)):
        rows += [f"{arm},{seed},{rate},{1e-5 if seed else 1e-6},{0.3 + seed / 100}" for seed in range(6)]
    path.write_text("\n".join(rows))
    assert judge(path, margin=0.01).warnings == (
        "The arms differ in config.lr, too: layer_norm 0.1; rms_norm 0.2.",
        "The runs of layer_norm; rms_norm differ in config.eps.",
    )


def test_two_columns_that_could_be_arms_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "grid.csv"
    rows = ["model,optimizer,seed,loss"]
    for model in ("small", "large"):
        for optimizer in ("adam", "muon"):
            rows += [f"{model},{optimizer},{seed},{0.3 + seed / 100}" for seed in range(6)]
    path.write_text("\n".join(rows))
    with pytest.raises(
        TableUnusable, match=r"several columns that could be the arms: model, optimizer\. Choose one, or"
    ):
        judge(path, margin=0.01)
    summary = judge(path, margin=0.01, arm="model,optimizer", baseline="small, adam")
    assert [arm.label for arm in summary.arms] == ["small, adam", "small, muon", "large, adam", "large, muon"]


def test_names_of_runs_give_arm_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    rows = ["run,loss", *(f"exp7-{arm}-{seed},{0.3 + seed / 100}" for arm in ("ln", "rms") for seed in range(6))]
    path.write_text("\n".join(rows))
    with pytest.raises(TableUnusable, match="read arm and seed from the names in run with --pattern"):
        judge(path, margin=0.01)
    summary = judge(path, margin=0.01, pattern=r"exp7-(?P<arm>\w+)-(?P<seed>\d+)")
    assert [arm.label for arm in summary.arms] == ["ln", "rms"]
    with pytest.raises(TableUnusable, match="does not match the name of the run 'exp7-ln-0'"):
        judge(path, margin=0.01, pattern=r"exp8-(?P<arm>\w+)-(?P<seed>\d+)")


def test_a_kept_study_accepts_new_rows_and_no_changed_result(table: Write, tmp_path: Path) -> None:
    path, out = table(), tmp_path / "study"
    judge(path, margin=0.01, out=out)
    lines = path.read_text().splitlines()
    more = [f"{arm},8,{value}" for arm, value in (("layer_norm", 0.3), ("rms_norm", 0.35), ("ada_norm", 0.3))]
    path.write_text("\n".join([*lines, *more]))
    summary = judge(path, margin=0.01, out=out)
    assert summary.arms[1].pairs == 9
    assert summary.arms[1].verdict == "worse (exploratory: 1 of 9 seeds came after results could be seen)"
    path.write_text("\n".join([*lines[:4], lines[4].rpartition(",")[0] + ",0.25", *lines[5:], *more]))
    with pytest.raises(TableUnusable, match=r"layer_norm seed 3 was 0\.2\S* when .* and is 0\.25 now \(line 5\)"):
        judge(path, margin=0.01, out=out)
    with pytest.raises(TableUnusable, match=r"holds another study: its margin is 0\.01, this one's 0\.02"):
        judge(path, margin=0.02, out=out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(TableUnusable, match="is not empty and holds no study"):
        judge(path, margin=0.01, out=tmp_path / "mine")


def grown(path: Path, seeds: dict[str, int], gain: float = 0.08) -> Path:
    """Write a table whose arms have the first so many of thirty seeds."""
    rng = np.random.default_rng(4)
    noise = {arm: rng.normal(0, 0.02, 30) for arm in ("layer_norm", "rms_norm", "ada_norm")}
    add = {"layer_norm": 0.0, "rms_norm": gain, "ada_norm": 0.004}
    rows = [f"{arm},{seed},{0.3 + add[arm] + noise[arm][seed]}" for arm, most in seeds.items() for seed in range(most)]
    path.write_text("\n".join(["norm,seed,loss", *rows]))
    return path


def test_looks_are_those_of_the_sequential_test(tmp_path: Path) -> None:
    """A decided arm stops; the numbers at each look are those of the functions, whose own tests are elsewhere."""
    from normscope.results.sequential import LookPlan, repeated_interval

    path, out = tmp_path / "results.csv", tmp_path / "study"
    options = {"margin": 0.01, "looks": (10, 20, 30), "spending": "pocock", "out": out}
    first = judge(grown(path, {"layer_norm": 10, "rms_norm": 10, "ada_norm": 10}), **options)
    assert first.looks is not None
    assert (first.looks.reached, first.looks.ended) == (1, None)
    assert first.arms[1].verdict == "worse"
    assert first.arms[1].decided_at == 10
    assert first.arms[2].verdict == "not enough evidence (next look at 20 seeds: 20 runs)"
    # The decided arm costs no more runs.
    last = judge(grown(path, {"layer_norm": 30, "rms_norm": 10, "ada_norm": 30}), **options)
    assert last.looks is not None
    assert (last.looks.reached, last.looks.ended) == (3, "maximum")
    assert last.arms[1].looks == first.arms[1].looks
    assert last.arms[2].looks is not None
    assert [look.pairs for look in last.arms[2].looks] == [10, 20, 30]
    values = {arm.label: [run.value for run in arm.runs] for arm in last.arms}
    differences = np.array(values["ada_norm"]) - np.array(values["layer_norm"])
    wanted = repeated_interval(differences, LookPlan((10, 20, 30), "pocock"), level=0.95)
    assert [look.interval for look in last.arms[2].looks] == [pytest.approx(each) for each in wanted]
    assert last.caution == ""


def test_a_difference_beyond_the_boundary_of_a_look_is_claimed(tmp_path: Path) -> None:
    """The last pair takes the interval, adjusted for skewness, over zero; the signs alone would claim."""
    differences = np.array([-0.0409, -0.0432, -0.0252, -0.0315, -0.019, -0.031, -0.0348, -0.0102])
    for values, is_claimed in ((differences, False), (differences - 0.02, True)):
        rows = [
            f"{arm},{seed},{0.5 + add[seed]}"
            for arm, add in (("base", 0 * values), ("new", values))
            for seed in range(8)
        ]
        (tmp_path / "t.csv").write_text("\n".join(["arm,seed,loss", *rows]))
        looks = judge(tmp_path / "t.csv", margin=0.001, looks=(6, 8, 10)).arms[1].looks
        assert looks is not None
        last = looks[-1]
        assert last.boundary is not None
        assert (last.verdict == "better") == (abs(last.difference) > last.boundary) == is_claimed


def test_looks_are_planned_once_and_count_seeds_in_their_order(tmp_path: Path) -> None:
    path, out = tmp_path / "results.csv", tmp_path / "study"
    grown(path, {"layer_norm": 10, "rms_norm": 10}, gain=0.012)
    judge(path, margin=0.01, looks=(10, 20), out=out)
    with pytest.raises(
        TableUnusable, match=r"holds another study: its looks is \{'pairs': \[10, 20\], .* this one's None"
    ):
        judge(path, margin=0.01, out=out)
    with pytest.raises(TableUnusable, match="holds another study: its looks"):
        judge(path, margin=0.01, looks=(10, 30), out=out)
    with pytest.raises(TableUnusable, match=r"without a partner: seed 10 of rms_norm .* has no run of layer_norm"):
        judge(grown(tmp_path / "more.csv", {"layer_norm": 10, "rms_norm": 11}), margin=0.01, looks=(10, 20))
    with pytest.raises(TableUnusable, match="has 30 seeds; the last look is at 20"):
        judge(grown(tmp_path / "more.csv", {"layer_norm": 30, "rms_norm": 30}), margin=0.01, looks=(10, 20))
    # Seeds that come later do not slip between those of an earlier look, whatever their numbers.
    before = judge(path, margin=0.01, looks=(10, 20), out=out)
    more = [f"\n{arm},{seed - 20},0.3" for arm in ("layer_norm", "rms_norm") for seed in range(10)]
    path.write_text("".join([path.read_text(), *more]))
    after = judge(path, margin=0.01, looks=(10, 20), out=out)
    assert before.arms[1].looks is not None
    assert after.arms[1].looks is not None
    assert after.arms[1].looks[:1] == before.arms[1].looks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"looks": (5, 10)}, "nothing is claimed below 6 pairs, got a look at 5"),
        ({"looks": (10,)}, "two or more ascending numbers"),
        ({"looks": (20, 10)}, "two or more ascending numbers"),
        ({"spending": "pocock"}, "a spending of alpha is for looks: give them, such as --looks 10,15,20"),
    ],
)
def test_looks_that_are_none(options: dict, words: str, table: Write) -> None:
    with pytest.raises(ValueError, match=words):
        judge(table(), margin=0.01, **options)


def test_scores_of_examples_make_a_claim_hold_over_them_too(tmp_path: Path) -> None:
    """The seeds agree, and the twelve test examples are too few."""
    rng = np.random.default_rng(0)
    rows = []
    for arm, add in (("layer_norm", 0.0), ("rms_norm", 0.1)):
        for seed in range(8):
            gains = add + np.where(np.arange(12) % 2, 1.0, -1.0) * (arm == "rms_norm")
            scores = (0.5 + gains + seed / 100 + rng.normal(0, 0.001)).tolist()
            rows.append({"norm": arm, "seed": seed, "loss": float(np.mean(scores)), "each": scores})
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert judge(path, margin=0.01).arms[1].verdict == "worse"
    summary = judge(path, margin=0.01, scores="each", out=tmp_path / "study")
    assert summary.arms[1].verdict.startswith("not enough evidence (the test set is too small: 12 examples, about")
    assert summary.regime.endswith("over other seeds and test examples")
    path.write_text("\n".join(map(json.dumps, [rows[0] | {"loss": 0.4}, *rows[1:]])))
    with pytest.raises(TableUnusable, match=r"line 1 has loss 0\.4, and the mean of its each is 0\.50"):
        judge(path, margin=0.01, scores="each")
    with pytest.raises(TableUnusable, match="line 1 has no list of numbers in norm"):
        judge(path, margin=0.01, scores="norm")


def test_nothing_of_torch_is_needed(table: Write, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import normscope; "
    code += f"print(normscope.judge({str(table())!r}, margin=0.01).arms[1].verdict)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "worse\n"
