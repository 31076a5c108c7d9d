"""The runs of one experiment, as every tracker keeps them, give one and the same summary."""

import math
from pathlib import Path

import pytest

import normscope
from normscope.results.foreign import TableUnusable
from normscope.results.foreign.detect import read_table
from support.tracker_exports import ARMS, losses, runs

FORMATS = {
    "wandb": "W&B run files",
    "wandb_runs.csv": "W&B export (CSV)",
    "wandb_api.csv": "CSV",
    "wandb_chart.csv": "W&B export of a chart (CSV)",
    "wandb_history": "24 tables (W&B export (CSV))",
    "mlruns": "MLflow file store",
    "mlflow.db": "MLflow database",
    "mlflow.csv": "MLflow export of an experiment (CSV)",
    "tensorboard": "TensorBoard event files",
    "tensorboard_csv": "24 tables (CSV download of TensorBoard)",
    "trackio/norms.db": "Trackio database",
    "trackio": "Trackio database",
    "trackio_parquet/metrics.parquet": "Trackio's Parquet, with its configurations in configs.parquet",
}

NO_HISTORY = {"wandb_runs.csv", "wandb_api.csv", "mlflow.csv"}


def path_of(exports: Path, name: str) -> Path:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    return exports / name


@pytest.mark.parametrize("name", FORMATS)
def test_every_export_has_the_runs_that_were_logged(name: str, exports: Path) -> None:
    summary = normscope.judge(path_of(exports, name), margin=0.005)
    assert summary.metric == {"name": "test_loss", "unit": "", "higher_is_better": False}
    assert {arm.label for arm in summary.arms} == {*ARMS}
    assert summary.arms[0].label == summary.baseline == "layer_norm"
    for arm in summary.arms:
        for run in arm.runs:
            value = losses(arm.label, run.seed)[-1][1]
            # TensorBoard keeps float32.
            assert run.value == (None if math.isnan(value) else pytest.approx(value, rel=1e-6))
    verdicts = {arm.label: arm.verdict for arm in summary.arms}
    assert verdicts["rms_norm"] == "worse"
    # MLflow exports NaN as an empty cell: no value, for an unknown reason.
    failure = "could not be computed" if name == "mlflow.csv" else "fails to train"
    assert verdicts["none"].startswith(f"{failure} in 1 of 8 seeds")


@pytest.mark.parametrize("name", FORMATS)
def test_every_export_is_recognized_and_keeps_its_curve(name: str, exports: Path, tmp_path: Path) -> None:
    assert read_table(path_of(exports, name)).kind == FORMATS[name]
    normscope.judge(exports / name, margin=0.005, out=tmp_path / "study")
    from normscope.report.study import read_study

    curves = {(run.label, run.seed): run.metrics for run in read_study(tmp_path / "study").runs}
    for arm, seed in runs():
        finite = {} if name in NO_HISTORY else {step: x for step, x in losses(arm, seed) if math.isfinite(x)}
        assert {row["step"]: row["valid_value"] for row in curves[arm, seed]} == pytest.approx(finite, rel=1e-6)


def test_our_reader_of_event_files_agrees_with_tensorboards(exports: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util.tensor_util import make_ndarray

    table = read_table(exports / "tensorboard")
    for arm, seed in runs():
        events = accumulator.EventAccumulator(str(exports / "tensorboard" / arm / f"seed_{seed}"))
        events.Reload()
        theirs = [(each.step, float(make_ndarray(each.tensor_proto))) for each in events.Tensors("test_loss")]
        ours = [
            (row.values["step"], row.values["test_loss"])
            for row in table.rows
            if row.values["run_name"] == f"{arm}/seed_{seed}"
        ]
        assert dict(ours) == pytest.approx(dict(theirs), nan_ok=True)


def test_torchs_writer_is_read_too(tmp_path: Path) -> None:
    """It writes simple values, where TensorBoard's own writes tensors."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for arm in ("layer_norm", "rms_norm"):
        for seed in range(2):
            with SummaryWriter(str(tmp_path / f"{arm}_seed{seed}")) as writer:
                writer.add_scalar("test_loss", 0.5 + seed, 7)
    table = read_table(tmp_path)
    assert [(row.values["step"], row.values["test_loss"]) for row in table.rows] == [(7, 0.5), (7, 1.5)] * 2


def test_parquet_without_pyarrow_is_a_sentence(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pyarrow is not installed: `pip install pyarrow`, or save the table"):
        normscope.judge(exports / "trackio_parquet" / "metrics.parquet", margin=0.1)


def test_infinity_in_mlflows_database_is_not_a_large_loss(exports: Path, tmp_path: Path) -> None:
    import shutil
    import sqlite3
    from contextlib import closing

    path = tmp_path / "mlflow.db"
    shutil.copy(exports / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as database, database:
        # As MLflow stores an infinite value.
        database.execute(
            "UPDATE metrics SET value = 1.7976931348623157e308 WHERE step = 30 AND run_uuid = "
            "(SELECT run_uuid FROM runs WHERE name = 'rms_norm-5')"
        )
    summary = normscope.judge(path, margin=0.005)
    states = {(arm.label, run.seed): run.state for arm in summary.arms for run in arm.runs}
    assert [run for run, state in states.items() if state != "done"] == [("rms_norm", 5), ("none", 2)]
    assert states["rms_norm", 5] == states["none", 2] == "diverged"


def test_a_run_that_was_killed_keeps_its_log_and_has_not_ended(exports: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    folder.mkdir()
    for path in (exports / "wandb").rglob("*.wandb"):
        (folder / path.name).write_bytes(path.read_bytes())
    first = sorted(folder.iterdir())[0]
    data = first.read_bytes()
    first.write_bytes(data[:-60])
    summary = normscope.judge(folder, margin=0.005)
    assert not summary.complete
    assert sum(run.state == "interrupted" for arm in summary.arms for run in arm.runs) == 1
    first.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    with pytest.raises(TableUnusable, match="is damaged: a checksum at byte"):
        normscope.judge(folder, margin=0.005)
