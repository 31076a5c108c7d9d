"""The worker process: it serves, tells, and never outlives its master."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from normscope.results.store import StudyFolder
from normscope.study import make_card
from normscope.study.plan import plan


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "normscope.study.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_worker_serves_until_its_input_ends(tmp_path: Path) -> None:
    orders = [
        json.dumps({"spec": spec.to_json(), "study": str(tmp_path)})
        for spec in plan(make_card("digits", norms=["none"], seeds=[0, 1], steps=20))
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
        assert worker.wait(20) == 0


def test_a_worker_stops_in_good_order_when_its_master_is_gone(tmp_path: Path) -> None:
    (spec,) = plan(make_card("digits", norms=["none"], seeds=[0], steps=200_000))
    with start() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdin.write(json.dumps({"spec": spec.to_json(), "study": str(tmp_path)}) + "\n")
        worker.stdin.flush()
        worker.stdout.readline()
        worker.send_signal(signal.SIGINT)
        worker.stdin.close()
        assert worker.wait(20) == 0
    assert StudyFolder(tmp_path).run(spec.id).checkpoint.exists()
