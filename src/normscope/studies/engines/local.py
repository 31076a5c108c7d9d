"""The local engine: single-threaded worker processes, by default one per core, or as many as a GPU has use for."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from normscope.results.store import RunFolder, StudyFolder
from normscope.studies.engines.apart import CHECKS_WHEN_BUSY, CHECKS_WHEN_IDLE, Apart
from normscope.studies.engines.devices import Slot
from normscope.studies.engines.engine import GRACE_SECONDS, EngineError, RunEvent
from normscope.studies.engines.growth import Growth
from normscope.studies.plan import RunSpec, stacked_with
from normscope.studies.run import fail

__tracebackhide__ = True

ATTEMPTS = 3
"""Number of worker crashes after which a run counts as failed."""

HOPELESS = 2 * ATTEMPTS
"""Number of worker crashes after which the engine gives up if no run has made progress."""

PATIENCE_SECONDS = 2.0
"""Time after an interrupt before the user is informed that the engine waits for running steps."""

POLL_SECONDS = 0.5
"""Interval between checks of the runs that other processes hold."""

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # By default glibc returns large tensors to the system at every step; the page faults cost more than the arithmetic.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Environment variables of the workers; values that the user has set take precedence."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """Computes runs in worker processes on this machine.

    If a worker crashes, a new one resumes its run from the checkpoint; after :data:`ATTEMPTS` crashes the run counts as
    failed, and the other runs continue. The engine waits for runs that another process on the same folder computes,
    and takes them over if that process dies.
    """

    workers: int
    """Number of processes, at first if ``growth`` is given; at least 1."""
    slots: tuple[Slot, ...] = (Slot(name="this machine"),)
    """Devices, over which the workers are spread."""
    growth: Growth | None = None
    """Decides how many workers each slot has as the runs go on; None to keep ``workers``. What it has found holds for
    later runs of the engine, too."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute the unfinished runs, and return when every run has a result.

        Args:
            specs: The runs.
            study: Folder of the study.
            callback: Called with an event at each progress and change of state.

        Raises:
            KeyboardInterrupt: If the user interrupts it. It is raised when the running steps have ended, after
                :data:`GRACE_SECONDS` at most; on a second interrupt the workers are killed at once.
            EngineError: If a worker cannot start or reports a fault of the machine, or if workers crash
                :data:`HOPELESS` times before any run has made progress.
        """
        begun = frozenset(study.begun())
        waiting = {spec.id: spec for spec in specs if spec.id not in begun or not study.run(spec.id).finished()}
        if not waiting:
            return
        _Pool(self, waiting, study, callback).run()


class _Worker:
    """A worker process, and a thread that puts its messages in a queue shared by all workers."""

    def __init__(self, log: int, messages: "queue.Queue[tuple[_Worker, str]]", slot: Slot) -> None:
        self.process = subprocess.Popen(
            # -P: files in the current folder, such as queue.py, must not shadow modules.
            [sys.executable, "-P", "-m", "normscope.studies.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # PYTHONHASHSEED: a vocabulary made from a set must be the same in all workers and on resumption.
            env={
                **WORKER_ENVIRONMENT,
                **os.environ,
                **slot.environment,
                "PYTHONUNBUFFERED": "1",
                "PYTHONHASHSEED": "0",
            },
        )
        self.slot = slot
        self.of_slot = 1
        """Number of workers of its slot when it was given its run."""
        self.spec: RunSpec | None = None
        self.step = 0
        self.was_ready = False
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()

    def _listen(self, messages: "queue.Queue[tuple[_Worker, str]]") -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                messages.put((self, line))
        messages.put((self, ""))

    def send(
        self, spec: RunSpec, study: StudyFolder, of_slot: int, *, is_shared: bool, beside: Sequence[RunSpec]
    ) -> None:
        self.spec, self.step, self.of_slot = spec, 0, of_slot
        request = {"spec": spec.to_json(), "study": str(study.path), "of_slot": of_slot, "is_shared": is_shared}
        request["beside"] = [each.to_json() for each in beside]
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            # The worker has crashed; the end of its output, which is read next, puts the run back in the queue.
            return

    def dismiss(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return


class _Pool:
    def __init__(
        self,
        engine: LocalEngine,
        waiting: dict[str, RunSpec],
        study: StudyFolder,
        callback: Callable[[RunEvent], None],
    ) -> None:
        self.slots, self.growth, self.study, self.callback = engine.slots, engine.growth, study, callback
        # Number of workers that are to have runs.
        self.size = min(engine.workers, len(waiting))
        if self.growth is not None:
            self.size = self.growth.per_slot * len(self.slots)
        self.queue = list(waiting.values())
        self.elsewhere: dict[str, RunSpec] = {}
        self.apart = Apart(study=study)
        self.known = 0
        """Number of runs of others that the last check of an idle worker left."""
        self.crashes: dict[str, int] = {}
        self.has_progress = False
        self.messages: queue.Queue[tuple[_Worker, str]] = queue.Queue()
        self.checked_at = 0.0
        self.workers: set[_Worker] = set()
        self.leaving: set[_Worker] = set()
        self.log = study.workers_log

    def run(self) -> None:
        with self.log.open("ab") as log:
            try:
                for _ in range(min(self.size, len(self.queue))):
                    self._start(log.fileno())
                while self.queue or self.elsewhere or any(worker.spec for worker in self.workers):
                    self._receive(log.fileno())
                    self._check_elsewhere()
                    self._assign()
                    self._grow(log.fileno())
            finally:
                self._dismiss_all()

    def _start(self, log: int) -> None:
        staff = [worker.slot for worker in self.workers]
        self.workers.add(_Worker(log, self.messages, min(self.slots, key=staff.count)))

    def _grow(self, log: int) -> None:
        """Start or dismiss workers, if it has been found that more or fewer are better."""
        if self.growth is not None:
            self._resize(self.growth.decide(len(self.queue)), self.growth.per_slot * len(self.slots))
        idle = [worker for worker in self.workers if worker.spec is None]
        for _ in range(min(self.size - len(self.workers), len(self.queue) - len(idle))):
            self._start(log)
        for worker in idle:
            # The others go on: a surplus worker ends with its run.
            if self._at(worker.slot) > self.of_slot:
                self.workers.discard(worker)
                worker.dismiss()
                self.leaving.add(worker)

    def _resize(self, why: str, size: int) -> None:
        self.size = size
        specs = [worker.spec for worker in self.workers if worker.spec is not None]
        for spec in specs[:1] if why else []:
            self.callback(RunEvent(spec=spec, state="running", step=0, note=why, is_of_engine=True))

    @property
    def of_slot(self) -> int:
        """Number of workers of each slot."""
        return -(-self.size // len(self.slots))

    def _at(self, slot: Slot, *, busy: bool = False) -> int:
        return sum(worker.slot == slot and (worker.spec is not None or not busy) for worker in self.workers)

    def _receive(self, log: int) -> None:
        """Process the next message of a worker; return after :data:`POLL_SECONDS` without one.

        Raises:
            EngineError: If the worker reports a fault of the machine.
        """
        try:
            worker, line = self.messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        if worker in self.leaving:
            return
        if not line:
            self._replace(worker, log)
            return
        event = json.loads(line)
        if event["event"] == "ready":
            worker.was_ready = True
        elif event["event"] == "fault":
            raise EngineError(f"a worker cannot continue: {event['reason']}")
        elif worker.spec is not None and event["event"] == "progress":
            worker.step, self.has_progress = event["step"], True
            if self.growth is not None:
                spec, memory = worker.spec, event["memory"]
                self.growth.observe(worker, spec.id, spec.label, worker.step, memory and tuple(memory))
            self.callback(RunEvent(spec=worker.spec, state="running", step=worker.step))
        elif worker.spec is not None:
            spec, worker.spec, self.has_progress = worker.spec, None, True
            if event["state"] == "crowded":
                self._shrink(worker, spec)
            else:
                self._end(spec, event["state"])

    def _shrink(self, worker: _Worker, spec: RunSpec) -> None:
        """Go on with half as many workers per slot, and put back a run that did not fit beside the others."""
        self.queue.insert(0, spec)
        if worker.of_slot > self.of_slot:
            # Another run has said so before.
            return
        half = max(1, worker.of_slot // 2)
        self.size = half * len(self.slots)
        why = f"{half} per device from here on: a run did not fit into the memory beside {worker.of_slot - 1} others"
        if self.growth is not None:
            self.growth.limit(half)
        self.callback(RunEvent(spec=spec, state="running", step=0, note=f"workers: {why}", is_of_engine=True))

    def _end(self, spec: RunSpec, state: str) -> None:
        if state == "elsewhere":
            self.elsewhere[spec.id] = spec
            self.apart.move(self.queue, self.elsewhere)
            waiting = not self.queue and not any(worker.spec for worker in self.workers)
            note = f"waiting for {_holder(self.study.run(spec.id))}, which computes this run" if waiting else ""
            self.callback(RunEvent(spec=spec, state="elsewhere", step=0, note=note, idle=waiting))
        elif state == "interrupted":
            self.queue.insert(0, spec)
        else:
            self.callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))

    def _replace(self, worker: _Worker, log: int) -> None:
        """Count the crash of a worker, and start a new one.

        Raises:
            EngineError: If the worker could not start, or if workers crashed :data:`HOPELESS` times before any run has
                made progress.
        """
        self.workers.discard(worker)
        worker.dismiss()
        code = worker.process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        if not worker.was_ready:
            raise EngineError(f"a worker ended {how}; its output is in {self.log}:\n{_tail(self.log)}")
        if worker.spec is not None:
            spec = worker.spec
            self.crashes[spec.id] = self.crashes.get(spec.id, 0) + 1
            if self.crashes[spec.id] >= ATTEMPTS:
                why = " (often due to lack of memory)" if code == -9 else ""
                reason = f"its worker ended {how}, {ATTEMPTS} times{why}"
                output = _tail(self.log, 40) or "(empty)\n"
                details = f"{reason}; the end of {self.log.name}, which may include output of other runs:\n{output}"
                self._end(spec, fail(spec, self.study, reason, details=details))
            else:
                self.queue.insert(0, spec)
            if self.queue and self._is_hopeless():
                raise EngineError(
                    f"workers ended {sum(self.crashes.values())} times, the last {how}, before any run had made "
                    f"progress; their output is in {self.log}:\n{_tail(self.log)}"
                )
        self._start(log)

    def _is_hopeless(self) -> bool:
        """Check whether workers only crash: no run has made progress, and none that never crashed is running."""
        busy = any(worker.spec is not None and worker.spec.id not in self.crashes for worker in self.workers)
        return not self.has_progress and not busy and sum(self.crashes.values()) >= HOPELESS

    def _check_elsewhere(self) -> None:
        """Check the runs that other processes compute; retry them when a worker is idle, in case the process died.

        Each time a few are checked, in turn, but all of them when there is nothing else to do for the first time.
        """
        if time.monotonic() - self.checked_at < POLL_SECONDS:
            return
        self.checked_at = time.monotonic()
        idle = not self.queue and any(worker.spec is None for worker in self.workers)
        some = (None if len(self.elsewhere) > self.known else CHECKS_WHEN_IDLE) if idle else CHECKS_WHEN_BUSY
        for identity, spec in [*islice(self.elsewhere.items(), some)]:
            folder = self.study.run(identity)
            if folder.finished():
                del self.elsewhere[identity]
                self.callback(RunEvent(spec=spec, state=folder.read_result()["state"], step=spec.recipe.steps))
            elif not self.queue and any(worker.spec is None for worker in self.workers):
                del self.elsewhere[identity]
                self.queue.append(spec)
            else:
                self.elsewhere[identity] = self.elsewhere.pop(identity)
        if idle:
            self.known = len(self.elsewhere) + len(self.queue)

    def _assign(self) -> None:
        """Assign queued runs to idle workers."""
        for worker in self.workers:
            free = self._at(worker.slot, busy=True) < self.of_slot
            while self.queue and worker.was_ready and worker.spec is None and free:
                spec = self.queue.pop(0)
                folder = self.study.run(spec.id)
                if folder.finished():
                    self.callback(RunEvent(spec=spec, state=folder.read_result()["state"], step=spec.recipe.steps))
                    self.apart.move(self.queue, self.elsewhere)
                    continue
                grows = self.growth is not None and not self.growth.is_settled
                beside = stacked_with(spec, self.queue, self.study, len(self.workers))
                worker.send(spec, self.study, self.of_slot, is_shared=grows or self.of_slot > 1, beside=beside)

    def _dismiss_all(self) -> None:
        """End all workers by closing their input; those that have not written their checkpoints in time are killed.

        Raises:
            KeyboardInterrupt: If the user interrupts the wait; the workers are killed.
        """
        try:
            for worker in self.workers:
                worker.dismiss()
            if not self._end_within(PATIENCE_SECONDS):
                for worker in self.workers:
                    if worker.spec is not None and worker.process.poll() is None:
                        note = f"waiting up to {GRACE_SECONDS:.0f} s for its current step; press Ctrl-C to stop now"
                        self.callback(RunEvent(spec=worker.spec, state="running", step=worker.step, note=note))
                self._end_within(GRACE_SECONDS - PATIENCE_SECONDS)
        finally:
            for worker in self.workers | self.leaving:
                worker.process.kill()
            for worker in self.workers | self.leaving:
                worker.process.wait()

    def _end_within(self, seconds: float) -> bool:
        """Wait for the workers to end; return whether all of them ended in time."""
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
