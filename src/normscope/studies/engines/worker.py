"""A process that computes runs: it reads one run per line from standard input and reports on standard output.

An engine starts it as ``python -m normscope.studies.engines.worker``. It stops when its input ends, so it does not
outlive the engine. It then has :data:`GRACE_SECONDS` to finish the current step and write the checkpoint; after that
it exits, and ``workers.log`` contains the traceback of the step. A worker serves one study folder and holds the lease
of one run at a time; the lease of a process that has ended is taken over.
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
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch

from normscope.results.store import StudyFolder
from normscope.studies.engines.devices import limit_memory, memory_of
from normscope.studies.engines.engine import GRACE_SECONDS
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute, fail, in_a_line
from normscope.training import Watch

__tracebackhide__ = True


def main() -> None:
    """Compute the runs that arrive on standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_to_engine(os.getpid()))
    # Also report the location of crashes in compiled code.
    faulthandler.enable(file=2)
    torch.set_num_threads(1)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = threading.Event()
    inbox = _Inbox(sys.stdin, stop)
    # A custom task that reads standard input must not consume the messages of the engine.
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    _send(events, {"event": "ready"})
    for line in inbox:
        request = json.loads(line)
        spec = RunSpec.from_json(request["spec"])
        beside = [RunSpec.from_json(one) for one in request.get("beside", ())]
        # Engines that share no device among runs leave these out.
        device, workers = torch.device(spec.recipe.device), request.get("of_slot", 1)
        limit_memory(device, workers, is_shared=request.get("is_shared", False))
        study = StudyFolder(Path(request["study"]))
        try:
            state = execute(spec, study, _watch(events, stop, device, workers), beside=beside)
        except (OSError, ValueError) as error:
            # A fault of the machine or of the data: the run stays resumable, and a traceback would not help.
            _send(events, {"event": "fault", "reason": in_a_line(error)})
            sys.exit(in_a_line(error))
        except KeyboardInterrupt as error:
            # SIGINT is ignored: the code of the run raised it.
            state = fail(spec, study, in_a_line(error), details=traceback.format_exc())
        if state == "crowded":
            torch.cuda.empty_cache()
        _send(events, {"event": "end", "state": state})


def _watch(events: TextIO, stop: threading.Event, device: torch.device, workers: int) -> Watch:
    """Return the callback of a run that reports its progress and memory, and stops it when the engine has ended."""

    def watch(step: int, loss: float) -> bool:
        progress = {"step": step, "loss": loss if math.isfinite(loss) else None}
        _send(events, {"event": "progress", **progress, "memory": memory_of(device, workers)})
        return stop.is_set()

    return watch


def _leave_to_engine(worker: int) -> Callable[[int, FrameType | None], None]:
    """Return a handler of SIGTERM: a batch system sends it to all processes of a job, and the engine ends its workers.

    Processes that the code of a run forked inherit the handler, and end.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != worker:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return handle


class _Inbox:
    """An iterator over standard input; a separate thread reads it, to notice its end during a run."""

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
        # Compiled code may hold the GIL forever; faulthandler's timer works without it.
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


def _send(events: TextIO, event: dict[str, Any]) -> None:
    try:
        events.write(json.dumps(event) + "\n")
        events.flush()
    except BrokenPipeError:
        # The engine has ended; the end of standard input stops the run.
        return


if __name__ == "__main__":
    main()
