"""The worker process: it serves, tells, and never outlives its master."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.results.store import StudyFolder
from normscope.studies.plan import plan
from normscope.studies.spec import make_study


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "normscope.studies.engines.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_worker_serves_until_its_input_ends(tmp_path: Path) -> None:
    orders = [
        json.dumps({"spec": spec.to_json(), "study": str(tmp_path)})
        for spec in plan(make_study("digits", norms=["none"], seeds=[0, 1], steps=20))
    ]
    with start() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline()) == {"event": "ready"}
        for order in orders:
            worker.stdin.write(order + "\n")
            worker.stdin.flush()
            events = []
            while not events or events[-1]["event"] != "end":
                events.append(json.loads(worker.stdout.readline()))
            assert events[-1]["state"] == "done"
            assert events[0]["event"] == "progress"
        worker.stdin.close()
        assert worker.wait(1800) == 0


@pytest.mark.slow
def test_a_worker_stops_in_good_order_when_its_master_is_gone(tmp_path: Path) -> None:
    (spec,) = plan(make_study("digits", norms=["none"], seeds=[0], steps=200_000))
    with start() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdin.write(json.dumps({"spec": spec.to_json(), "study": str(tmp_path)}) + "\n")
        worker.stdin.flush()
        worker.stdout.readline()
        worker.send_signal(signal.SIGINT)
        worker.stdin.close()
        assert worker.wait(1800) == 0
    assert StudyFolder(tmp_path).run(spec.id).checkpoint.exists()


@pytest.mark.slow
def test_a_step_without_end_ends_with_its_process(user_file: Callable[..., str], tmp_path: Path) -> None:
    marker = tmp_path / "endless"
    endless = f"        open({str(marker)!r}, 'w').close()\n        while model.training: pass\n"
    change = ("        return F.cross", f"{endless}        return F.cross")
    (spec,) = plan(make_study(user_file(change), norms=["none"], seeds=[0]))
    code = "from normscope.studies.engines import worker; worker.GRACE_SECONDS = 0.5; worker.main()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        worker.stdout.readline()
        worker.stdin.write(json.dumps({"spec": spec.to_json(), "study": str(tmp_path / "study")}) + "\n")
        worker.stdin.flush()
        while not marker.exists():
            assert worker.poll() is None
            time.sleep(0.02)
        worker.stdin.close()
        assert worker.wait(1800) == 1
        # Where it was is told.
        assert "my_file.py" in worker.stderr.read()


@pytest.mark.slow
def test_the_machines_fault_is_told(tmp_path: Path) -> None:
    (spec,) = plan(make_study("digits", norms=["none"], seeds=[0], steps=20))
    (tmp_path / "runs").write_text("a file where a folder belongs")
    with start() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdin.write(json.dumps({"spec": spec.to_json(), "study": str(tmp_path)}) + "\n")
        worker.stdin.flush()
        event = json.loads(worker.stdout.readline())
        assert event["event"] == "fault"
        assert event["reason"].startswith("NotADirectoryError: ")
        assert worker.wait(1800) == 1
