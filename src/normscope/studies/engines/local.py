"""The local engine: one worker process a core, one thread each."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normscope.results.store import RunFolder, StudyFolder
from normscope.studies.engines.engine import GRACE_SECONDS, EngineError, RunEvent
from normscope.studies.plan import RunSpec
from normscope.studies.run import fail

__tracebackhide__ = True

ATTEMPTS = 3
"""How often a worker may die over one run before the run counts as failed."""

HOPELESS = 2 * ATTEMPTS
"""After how many deaths the workers are given up, where no run of this invocation has come anywhere."""

PATIENCE_SECONDS = 2.0
"""After how long it is said that a run which is stopped is waited for."""

POLL_SECONDS = 0.5
"""How often the runs that other processes hold are looked at."""

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc gives large tensors back to the system after every step; the page faults cost more than the arithmetic.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""What workers are started with, where the user has not set it."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """Computes runs on this machine.

    A worker that dies, in whatever way, is started anew and its run goes on from the checkpoint; after
    :data:`ATTEMPTS` deaths the run has failed, and the others go on. Runs that another invocation on the same folder
    holds are waited for, and taken over if it dies.
    """

    workers: int
    """Processes; at least 1."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Return when every run has a result; see :class:`normscope.studies.engines.engine.Engine`.

        Raises:
            KeyboardInterrupt: If the user stopped it. The running steps are waited for, :data:`GRACE_SECONDS` at most;
                a second one does not wait, and the workers are killed.
            EngineError: If a worker does not start, tells that the machine is at fault, or if workers die again and
                again before any run has come anywhere.
        """
        waiting = {spec.id: spec for spec in specs if not study.run(spec.id).finished()}
        if not waiting:
            return
        _Pool(min(self.workers, len(waiting)), waiting, study, callback).run()


class _Worker:
    """A worker process, and the thread that reads what it says into a queue that all workers share."""

    def __init__(self, log: int, said: "queue.Queue[tuple[_Worker, str]]") -> None:
        self.process = subprocess.Popen(
            # -P: what lies in the current folder, a queue.py or worse, must not stand for a module.
            [sys.executable, "-P", "-m", "normscope.studies.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # PYTHONHASHSEED: a vocabulary that a user makes of a set must be the same in all of them, and tomorrow.
            env={**WORKER_ENVIRONMENT, **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"},
        )
        self.spec: RunSpec | None = None
        self.step = 0
        self.was_ready = False
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: "queue.Queue[tuple[_Worker, str]]") -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                said.put((self, line))
        said.put((self, ""))

    def give(self, spec: RunSpec, study: StudyFolder) -> None:
        self.spec, self.step = spec, 0
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"spec": spec.to_json(), "study": str(study.path)}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            # It is dead; the end of its output, which is seen next, puts the run back.
            return

    def dismiss(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return


class _Pool:
    def __init__(
        self, size: int, waiting: dict[str, RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]
    ) -> None:
        self.size, self.study, self.callback = size, study, callback
        self.queue = list(waiting.values())
        self.elsewhere: dict[str, RunSpec] = {}
        self.deaths: dict[str, int] = {}
        self.came_anywhere = False
        self.said: queue.Queue[tuple[_Worker, str]] = queue.Queue()
        self.looked_at = 0.0
        self.workers: set[_Worker] = set()
        self.log = study.workers_log

    def run(self) -> None:
        with self.log.open("ab") as log:
            try:
                for _ in range(self.size):
                    self._start(log.fileno())
                while self.queue or self.elsewhere or any(worker.spec for worker in self.workers):
                    self._hear(log.fileno())
                    if time.monotonic() - self.looked_at > POLL_SECONDS:
                        self._look_elsewhere()
                    self._hand_out()
            finally:
                self._dismiss_all()

    def _start(self, log: int) -> None:
        self.workers.add(_Worker(log, self.said))

    def _hear(self, log: int) -> None:
        """Take the next thing that a worker says, or wait a moment for one.

        Raises:
            EngineError: If it says that the machine is at fault.
        """
        try:
            worker, line = self.said.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        if not line:
            self._bury(worker, log)
            return
        event = json.loads(line)
        if event["event"] == "ready":
            worker.was_ready = True
        elif event["event"] == "fault":
            raise EngineError(f"a worker cannot go on: {event['reason']}")
        elif worker.spec is not None and event["event"] == "progress":
            worker.step, self.came_anywhere = event["step"], True
            self.callback(RunEvent(spec=worker.spec, state="running", step=worker.step))
        elif worker.spec is not None:
            spec, worker.spec, self.came_anywhere = worker.spec, None, True
            self._ended(spec, event["state"])

    def _ended(self, spec: RunSpec, state: str) -> None:
        if state == "elsewhere":
            self.elsewhere[spec.id] = spec
            waiting = not self.queue and not any(worker.spec for worker in self.workers)
            note = f"{_holder(self.study.run(spec.id))} computes it, and is waited for" if waiting else ""
            self.callback(RunEvent(spec=spec, state="elsewhere", step=0, note=note))
        elif state == "interrupted":
            self.queue.insert(0, spec)
        else:
            self.callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))

    def _bury(self, worker: _Worker, log: int) -> None:
        """Take note of a worker that died, and start another.

        Raises:
            EngineError: If it never came up, or if workers die again and again before any run has come anywhere: the
                machine or the set-up is at fault.
        """
        self.workers.discard(worker)
        worker.dismiss()
        code = worker.process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        if not worker.was_ready:
            raise EngineError(f"a worker ended {how}; its last words are in {self.log}:\n{_tail(self.log)}")
        if worker.spec is not None:
            spec = worker.spec
            self.deaths[spec.id] = self.deaths.get(spec.id, 0) + 1
            if self.deaths[spec.id] >= ATTEMPTS:
                why = " (often a lack of memory)" if code == -9 else ""
                reason = f"its worker ended {how}, {ATTEMPTS} times{why}"
                told = f"{reason}; the last words in {self.log.name}, where other runs may have a say:\n"
                self._ended(spec, fail(spec, self.study, reason, told=told + (_tail(self.log, 40) or "none\n")))
            else:
                self.queue.insert(0, spec)
            if self.queue and self._is_hopeless():
                raise EngineError(
                    f"workers ended {sum(self.deaths.values())} times, the last {how}, before any run had come "
                    f"anywhere; their last words are in {self.log}:\n{_tail(self.log)}"
                )
        self._start(log)

    def _is_hopeless(self) -> bool:
        """Whether all that workers did was to die; one that is busy with a run that killed none may yet do more."""
        busy = any(worker.spec is not None and worker.spec.id not in self.deaths for worker in self.workers)
        return not self.came_anywhere and not busy and sum(self.deaths.values()) >= HOPELESS

    def _look_elsewhere(self) -> None:
        """See what became of the runs that others hold; one whose holder died is free to take."""
        self.looked_at = time.monotonic()
        for identity, spec in list(self.elsewhere.items()):
            folder = self.study.run(identity)
            if folder.finished():
                del self.elsewhere[identity]
                self.callback(RunEvent(spec=spec, state=folder.read_result()["state"], step=spec.recipe.steps))
            elif not self.queue and any(worker.spec is None for worker in self.workers):
                del self.elsewhere[identity]
                self.queue.append(spec)

    def _hand_out(self) -> None:
        for worker in self.workers:
            while self.queue and worker.was_ready and worker.spec is None:
                spec = self.queue.pop(0)
                folder = self.study.run(spec.id)
                if folder.finished():
                    self.callback(RunEvent(spec=spec, state=folder.read_result()["state"], step=spec.recipe.steps))
                    continue
                worker.give(spec, self.study)

    def _dismiss_all(self) -> None:
        """End every worker: its input ends, it writes its checkpoint; one that does not in time is killed.

        Raises:
            KeyboardInterrupt: If the user does not want to wait; they are killed.
        """
        try:
            for worker in self.workers:
                worker.dismiss()
            if not self._are_gone_in(PATIENCE_SECONDS):
                for worker in self.workers:
                    if worker.spec is not None and worker.process.poll() is None:
                        note = f"its step is waited for, {GRACE_SECONDS:.0f} s at most; Ctrl-C now does not wait"
                        self.callback(RunEvent(spec=worker.spec, state="running", step=worker.step, note=note))
                self._are_gone_in(GRACE_SECONDS - PATIENCE_SECONDS)
        finally:
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.process.wait()

    def _are_gone_in(self, seconds: float) -> bool:
        """Wait for the workers to end; tell whether all have."""
        deadline = time.monotonic() + seconds
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return False
        return True


def _holder(folder: RunFolder) -> str:
    try:
        return folder.holder.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _tail(path: os.PathLike[str], lines: int = 15) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])
