"""Times to a target in tables of curves: every format that has steps, seconds, and what is refused."""

import json
from pathlib import Path

import pytest

import normscope
from normscope.results import ArmSummary
from normscope.results.foreign import TableUnusable
from normscope.results.targets import ArmTarget
from support.tracker_exports import losses


def times(arm: ArmSummary) -> tuple[ArmTarget, ...]:
    assert arm.targets is not None
    return arm.targets


HISTORIES = ("wandb", "wandb_chart.csv", "mlruns", "mlflow.db", "tensorboard", "tensorboard_csv", "trackio")


@pytest.mark.parametrize("name", HISTORIES)
def test_every_format_with_steps_has_the_same_times(name: str, exports: Path) -> None:
    summary = normscope.judge(exports / name, margin=0.005, targets=["baseline", 0.96])
    assert summary.targets is not None
    assert (summary.targets.values, summary.targets.resolution) == (("baseline", 0.96), 10)
    arms = {arm.label: times(arm) for arm in summary.arms}
    assert [run.step for run in arms["layer_norm"][0].runs] == [30] * 8
    assert arms["rms_norm"][0].verdict == "fails to reach it in 8 of 8 seeds; worse"
    # 31 of 30 steps are the least that an arm needs that never arrives; one run of the other diverged at 30.
    assert arms["rms_norm"][0].interval == (pytest.approx(31 / 30), None)
    assert arms["none"][0].reached == 0
    for label, found in arms.items():
        first = [next((step for step, loss in losses(label, seed) if loss <= 0.96), None) for seed in range(8)]
        assert [run.step for run in found[1].runs] == first


def curves(path: Path, *, seeds: int = 8, points: int = 10, change: dict[str, object] | None = None) -> Path:
    rows = [
        {"arm": arm, "seed": seed, "step": 10 * n, "value": 3.0 - n / pace - seed / 100, "elapsed": 2.0 * n}
        for arm, pace in (("baseline", 5), ("quick", 2))
        for seed in range(seeds)
        for n in range(1, points + 1)
    ]
    rows[-1] |= change or {}
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


OPTIONS = {"margin": 0.1, "metric": "value", "higher_is_better": False, "seconds": "elapsed"}


def test_seconds_are_those_of_their_column(tmp_path: Path) -> None:
    out = tmp_path / "study"
    summary = normscope.judge(curves(tmp_path / "curves.jsonl"), targets=[2.0], out=out, **OPTIONS)
    found = times(summary.arms[1])[0]
    assert (found.steps, found.seconds, found.verdict) == (20.0, 4.0, "better")
    assert found.ratio_seconds == found.ratio == (0.4, 0.4)
    assert json.loads((out / "card.json").read_text())["targets"] == {"values": [2.0], "margin": 1.1}
    with pytest.raises(TableUnusable, match=r"another study: its targets is .*2\.0.* this one's .*2\.5"):
        normscope.judge(tmp_path / "curves.jsonl", targets=[2.5], out=out, **OPTIONS)
    with pytest.raises(TableUnusable, match="another study: its targets is"):
        normscope.judge(tmp_path / "curves.jsonl", out=out, **OPTIONS)


def test_every_point_of_a_long_curve_counts(tmp_path: Path) -> None:
    """Without targets a curve is drawn from at most 500 points."""
    source = curves(tmp_path / "curves.jsonl", seeds=2, points=1203)
    summary = normscope.judge(source, targets=[-36.0], **OPTIONS)
    assert [run.step for run in times(summary.arms[1])[0].runs] == [780, 780]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"elapsed": -1.0}, r"line 160 has elapsed -1\.0, which are not seconds since the run began"),
        ({"elapsed": "soon"}, "line 160 has elapsed 'soon', which is not a number"),
        ({"elapsed": float("inf")}, "line 160 has elapsed inf, which are not seconds"),
    ],
)
def test_seconds_that_are_none_are_refused_with_their_line(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(TableUnusable, match=words):
        normscope.judge(curves(tmp_path / "curves.jsonl", change=change), targets=[2.0], **OPTIONS)


def test_times_need_steps_and_targets_that_are_values(tmp_path: Path, exports: Path) -> None:
    with pytest.raises(
        TableUnusable, match=r"no column of steps: times to a target need a row per evaluation .* --step"
    ):
        normscope.judge(exports / "mlflow.csv", margin=0.005, targets=["baseline"])
    for wrong, words in ((["best"], "got 'best'"), ([1.0, "1"], "all different")):
        with pytest.raises(ValueError, match=words):
            normscope.judge(curves(tmp_path / "curves.jsonl"), targets=wrong, **OPTIONS)
    with pytest.raises(ValueError, match=r"a ratio above 1, such as 1\.1, got 0\.9"):
        normscope.judge(curves(tmp_path / "curves.jsonl"), targets=[2.0], target_margin=0.9, **OPTIONS)
