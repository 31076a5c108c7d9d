"""A process that computes runs: it reads one run per line from standard input and reports on standard output.

An engine starts it as ``python -m normscope.studies.engines.worker``. It stops when its input ends, so no worker
survives an engine that is killed. A run gets :data:`GRACE_SECONDS` for the step in progress and its checkpoint; a step
that never ends is ended with the process, and ``workers.log`` has its place. A worker belongs to one study folder and
holds one run's lock at a time; the lock is released with the process, however it ends.
"""

import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import torch

from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import GRACE_SECONDS
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute, fail, in_a_line

__tracebackhide__ = True


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash in compiled code leaves where it was, too.
    faulthandler.enable(file=2)
    torch.set_num_threads(1)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = threading.Event()
    inbox = _Inbox(sys.stdin, stop)
    # A user's code that asks for input must not take the next order.
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    _tell(events, {"event": "ready"})
    for line in inbox:
        order = json.loads(line)
        spec = RunSpec.from_json(order["spec"])

        def watch(step: int, loss: float) -> bool:
            _tell(events, {"event": "progress", "step": step, "loss": loss if math.isfinite(loss) else None})
            return stop.is_set()

        study = StudyFolder(Path(order["study"]))
        try:
            state = execute(spec, study, watch)
        except (OSError, ValueError) as error:
            # The machine's fault, and nothing that a traceback would explain.
            _tell(events, {"event": "fault", "reason": in_a_line(error)})
            sys.exit(in_a_line(error))
        except KeyboardInterrupt as error:
            # Nobody stops a worker so: the code of the run raised it.
            state = fail(spec, study, in_a_line(error), told=traceback.format_exc())
        _tell(events, {"event": "end", "state": state})


class _Inbox:
    """Lines of standard input, read by a thread of its own, so that its end is noticed in the middle of a run."""

    def __init__(self, source: TextIO, stop: threading.Event) -> None:
        self.lines: list[str] = []
        self.ready = threading.Condition()
        self.source = source
        self.stop = stop
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.source:
            with self.ready:
                self.lines.append(line)
                self.ready.notify()
        self.stop.set()
        with self.ready:
            self.ended = True
            self.ready.notify()
        # Compiled code may hold the interpreter for ever; then a clock outside of it rings.
        faulthandler.dump_traceback_later(GRACE_SECONDS + 5, exit=True, file=2)
        time.sleep(GRACE_SECONDS)
        faulthandler.dump_traceback(file=2)
        os._exit(1)

    def __iter__(self) -> "_Inbox":
        return self

    def __next__(self) -> str:
        with self.ready:
            while not self.lines and not self.ended:
                self.ready.wait()
            if self.ended:
                raise StopIteration
            return self.lines.pop(0)


def _tell(events: TextIO, event: dict[str, Any]) -> None:
    try:
        events.write(json.dumps(event) + "\n")
        events.flush()
    except BrokenPipeError:
        # Nobody listens any more; the end of standard input stops the run in good order.
        return


if __name__ == "__main__":
    main()
