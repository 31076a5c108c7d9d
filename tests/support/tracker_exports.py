"""Write the runs of one small invented experiment with each tracker; its archive is in tests/results/foreign/exports.

README.md there has the versions. Twenty-four runs: three arms with eight seeds; ``none`` ends with NaN at seed 2.
"""

import csv
import math
import os
import random
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

ARMS = {"layer_norm": 0.0, "rms_norm": 0.03, "none": 0.2}
SEEDS = range(8)
STEPS = (10, 20, 30)


def losses(arm: str, seed: int) -> list[tuple[int, float]]:
    """Return step and test loss of every evaluation of one run."""
    noise = random.Random(f"{arm} {seed}").gauss(0, 0.004) + random.Random(seed).gauss(0, 0.02)
    curve = [(step, round(1.2 * math.exp(-step / 30) + 0.3 + ARMS[arm] + noise, 6)) for step in STEPS]
    return [*curve[:-1], (30, math.nan)] if (arm, seed) == ("none", 2) else curve


def runs() -> list[tuple[str, int]]:
    """List arm and seed of every run."""
    return [(arm, seed) for arm in ARMS for seed in SEEDS]


def write_wandb(folder: Path) -> None:
    """Log offline with wandb: ``wandb/offline-run-*/run-*.wandb``."""
    import wandb

    settings = wandb.Settings(mode="offline", console="off", silent=True, disable_git=True, x_disable_stats=True)
    for arm, seed in runs():
        config = {"norm": arm, "seed": seed, "lr": 0.1}
        with wandb.init(project="norms", name=f"{arm}-{seed}", config=config, dir=folder, settings=settings) as run:
            for step, loss in losses(arm, seed):
                run.log({"test_loss": loss}, step=step)


def write_mlflow(folder: Path) -> None:
    """Log with MLflow to a file store and to its database, and export an experiment with its command line."""
    import mlflow

    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    for address in (f"file:{folder / 'mlruns'}", f"sqlite:///{folder / 'mlflow.db'}"):
        mlflow.set_tracking_uri(address)
        mlflow.set_experiment("norms")
        for arm, seed in runs():
            with mlflow.start_run(run_name=f"{arm}-{seed}"):
                mlflow.log_params({"norm": arm, "seed": seed, "lr": 0.1})
                for step, loss in losses(arm, seed):
                    mlflow.log_metric("test_loss", loss, step=step)
    identity = mlflow.get_experiment_by_name("norms").experiment_id
    command = [
        Path(sys.executable).with_name("mlflow"),
        "experiments",
        "csv",
        "-x",
        identity,
        "-o",
        folder / "mlflow.csv",
    ]
    subprocess.run(command, check=True, env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"})


def write_tensorboard(folder: Path) -> None:
    """Write event files with the writer of TensorBoard, and download a CSV per run from its server."""
    from tensorboard.summary import Writer

    logs = folder / "tensorboard"
    for arm, seed in runs():
        writer = Writer(str(logs / arm / f"seed_{seed}"))
        for step, loss in losses(arm, seed):
            writer.add_scalar("test_loss", loss, step)
        writer.close()
    command = [
        Path(sys.executable).with_name("tensorboard"),
        "--logdir",
        logs,
        "--port",
        "6123",
        "--load_fast",
        "false",
    ]
    server = subprocess.Popen(command)
    downloads = folder / "tensorboard_csv"
    downloads.mkdir()
    try:
        time.sleep(20)
        for arm, seed in runs():
            query = urllib.parse.urlencode({"tag": "test_loss", "run": f"{arm}/seed_{seed}", "format": "csv"})
            address = f"http://localhost:6123/data/plugin/scalars/scalars?{query}"
            with urllib.request.urlopen(address) as answer:
                # Its page names the file so; a browser writes a slash as an underscore.
                (downloads / f"run-{arm}_seed_{seed}-tag-test_loss.csv").write_bytes(answer.read())
    finally:
        server.terminate()


def write_trackio(folder: Path) -> None:
    """Log with Trackio, and export its tables to Parquet as it does for a static Space."""
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    for arm, seed in runs():
        trackio.init(project="norms", name=f"{arm}-{seed}", config={"norm": arm, "seed": seed, "lr": 0.1})
        for step, loss in losses(arm, seed):
            trackio.log({"test_loss": loss}, step=step)
        trackio.finish()
    SQLiteStorage.export_for_static_space("norms", folder / "trackio_parquet")


def write_tables(folder: Path) -> None:
    """Write the tables that W&B's page and API give, which need its server: their layout, and the same numbers."""
    import pandas

    ends = [
        {"name": f"{arm}-{seed}", "norm": arm, "seed": seed, "test_loss": losses(arm, seed)[-1][1]}
        for arm, seed in runs()
    ]
    rows = [
        {"Name": end["name"], "State": "finished", "Created": "2026-11-30T00:00:00.000Z", "Runtime": 60, "Sweep": ""}
        | {"lr": 0.1, "norm": end["norm"], "seed": end["seed"], "_step": 30, "test_loss": end["test_loss"]}
        for end in ends
    ]
    pandas.DataFrame(rows).fillna("NaN").to_csv(folder / "wandb_runs.csv", index=False, quoting=csv.QUOTE_ALL)
    # The example of the guide on exporting data: dictionaries as Python prints them.
    lists = {
        "summary": [{"_step": 30, "test_loss": end["test_loss"]} for end in ends],
        "config": [{"lr": 0.1, "norm": end["norm"], "seed": end["seed"]} for end in ends],
        "name": [end["name"] for end in ends],
    }
    pandas.DataFrame(lists).to_csv(folder / "wandb_api.csv")
    chart = pandas.DataFrame({"Step": STEPS})
    for arm, seed in runs():
        for bound in ("", "__MIN", "__MAX"):
            chart[f"{arm}-seed{seed} - test_loss{bound}"] = [loss for _, loss in losses(arm, seed)]
    chart.fillna("NaN").to_csv(folder / "wandb_chart.csv", index=False, quoting=csv.QUOTE_ALL)
    history = folder / "wandb_history"
    history.mkdir()
    for arm, seed in runs():
        steps = [
            {"_step": step, "_runtime": step / 2, "_timestamp": 1.8e9 + step, "test_loss": loss}
            for step, loss in losses(arm, seed)
        ]
        pandas.DataFrame(steps).fillna("NaN").to_csv(history / f"{arm}-seed{seed}.csv")


def main() -> None:
    """Write everything into the folder that is named on the command line."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    os.chdir(folder)
    for write in (write_tables, write_wandb, write_mlflow, write_tensorboard, write_trackio):
        write(folder)


if __name__ == "__main__":
    main()
