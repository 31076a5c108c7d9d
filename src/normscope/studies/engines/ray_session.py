"""Runs as tasks of a Ray cluster: submission, reports, files that come back, crashes, deaths of nodes, and the end."""

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normscope.results.schema import FINAL_STATES
from normscope.results.store import LeaseLost, RunFolder, StudyFolder
from normscope.studies.engines import parcel, ray_node
from normscope.studies.engines.engine import GRACE_SECONDS, EngineError, RunEvent
from normscope.studies.engines.local import PATIENCE_SECONDS, POLL_SECONDS, WORKER_ENVIRONMENT
from normscope.studies.plan import RunSpec
from normscope.studies.run import fail, holding, in_a_line

if TYPE_CHECKING:
    from normscope.studies.engines.ray import RayEngine

__tracebackhide__ = True

ANSWER_SECONDS = 10.0
"""Time in which nodes answer the question about their versions; a dead one may be listed for longer."""

SILENCE_SECONDS = 60.0
"""Time without a report of a run after which its node counts as dead."""

NODES = 6
"""Number of nodes that may die in a row under one run that makes no progress before the engine gives up."""


@dataclass(kw_only=True)
class _Flight:
    """An attempt to compute a run."""

    spec: RunSpec
    attempt: str
    ref: Any
    host: str = ""
    step: int = 0
    heard_at: float | None = None
    """Time of the last report; None if the task has not begun."""
    lease: ExitStack = field(default_factory=ExitStack)
    """Holds the run for a node that does not share the folder, until it is closed."""
    held: RunFolder | None = None
    """The run's folder, while this process holds it."""
    taken: bool = False
    """Whether another process holds the run."""


class Session:
    """Submits runs to a cluster, and follows them to their ends."""

    def __init__(
        self,
        engine: "RayEngine",
        ray: Any,
        waiting: list[RunSpec],
        study: StudyFolder,
        callback: Callable[[RunEvent], None],
        token: Mapping[str, str],
    ) -> None:
        self.engine, self.ray, self.study, self.callback, self.token = engine, ray, study, callback, token
        self.queue = list(waiting)
        self.flights: dict[str, _Flight] = {}
        self.elsewhere: dict[str, RunSpec] = {}
        self.crashes: dict[str, int] = {}
        self.deaths: dict[str, int] = {}
        self.slots = 0
        self.all_see = bool(engine.shared)
        self.has_progress = self.stopping = False
        self.checked_at = 0.0
        self.environment = {**WORKER_ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}
        for name in (*WORKER_ENVIRONMENT, "NORMSCOPE_BACKEND"):
            self.environment |= {name: os.environ[name]} if name in os.environ else {}
        for module in (ray_node, parcel):
            ray.cloudpickle.register_pickle_by_value(module)
        self.versions = ray_node.versions()
        own = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        mailbox = ray.remote(ray_node.Mailbox)
        self.mailbox = mailbox.options(num_cpus=0, max_restarts=0, scheduling_strategy=own).remote()
        self.task = ray.remote(
            num_cpus=engine.cpus_per_run,
            num_gpus=engine.gpus_per_run,
            # A retry by Ray would be neither counted nor begin at the newest checkpoint.
            max_retries=0,
            retry_exceptions=False,
            # A process that stays would keep the GPU's memory.
            max_calls=1 if engine.gpus_per_run else 0,
        )(ray_node.compute)

    def run(self) -> None:
        """Compute the runs; return when every run has a result.

        Raises:
            KeyboardInterrupt: If the user interrupts it.
            EngineError: If no run can be computed.
        """
        try:
            while self.queue or self.flights or self.elsewhere:
                self._count_slots()
                self._submit()
                self._receive(POLL_SECONDS)
                self._check_silent()
        finally:
            try:
                self._stop_all()
            finally:
                for flight in self.flights.values():
                    flight.lease.close()
                self.ray.kill(self.mailbox)

    def check_nodes(self) -> int:
        """Ask every node for its versions and for the study's folder; return the number of runs there is room for.

        Raises:
            EngineError: If a node has another version, or no node has room for a run.
        """
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        look = self.ray.remote(num_cpus=0, max_retries=0, retry_exceptions=False)(ray_node.look)
        nodes = [node["NodeID"] for node in self.ray.nodes() if node["Alive"]]
        refs = [look.options(scheduling_strategy=affinity(node, soft=False)).remote(self.token) for node in nodes]
        # A node that does not answer may be dead; tasks compare the versions, too.
        seeing = 0
        for ref in self.ray.wait(refs, num_returns=len(refs), timeout=ANSWER_SECONDS)[0]:
            with suppress(self.ray.exceptions.RayError):
                answer = self.ray.get(ref)
                self._compare(answer["host"], answer["versions"])
                seeing += answer["sees"]
        if self.engine.shared is None:
            self.all_see = seeing == len(nodes)
        self._count_slots()
        if self.slots:
            return self.slots
        nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in self.ray.nodes() if node["Alive"]]
        has = "; ".join(f"{at} has CPU={has.get('CPU', 0):g} GPU={has.get('GPU', 0):g}" for at, has in nodes)
        wanted = f"CPU={self.engine.cpus_per_run:g} GPU={self.engine.gpus_per_run:g} for a run"
        raise EngineError(f"no node of {self.engine.address} has {wanted}: {has}")

    def _compare(self, host: str, found: Mapping[str, str]) -> None:
        """Compare the versions of a node with those of this process.

        Raises:
            EngineError: If they differ.
        """
        differ = [
            f"{name} {found.get(name)} (here: {version})" if found.get(name) else f"no {name}"
            for name, version in self.versions.items()
            if found.get(name) != version
        ]
        if differ:
            raise EngineError(
                f"the node {host} has {', '.join(differ)}: install the same versions of Python, Ray, torch, NumPy and "
                "normscope on every node, for the Python with which `ray start` was called"
            )

    def _count_slots(self) -> None:
        """Count the runs that the nodes have room for."""
        cpus, gpus = self.engine.cpus_per_run, self.engine.gpus_per_run
        slots = 0
        for has in (node["Resources"] for node in self.ray.nodes() if node["Alive"]):
            slots += int(min(has.get("CPU", 0) / cpus, has.get("GPU", 0) / gpus if gpus else float("inf")))
        self.slots = slots if self.engine.at_most is None else min(slots, self.engine.at_most)

    def _submit(self) -> None:
        """Submit runs; without a limit by the user, two more than are computed, so that no node waits for the next."""
        most = self.slots + (2 if self.engine.at_most is None else 0)
        while self.queue and len(self.flights) < most:
            spec = self.queue.pop(0)
            folder = self.study.run(spec.id)
            if folder.finished():
                self._tell(spec, folder.read_result()["state"], spec.recipe.steps)
                continue
            attempt = f"{spec.id}-{secrets.token_hex(8)}"
            files = {}
            if not self.all_see and folder.checkpoint.exists():
                files = {n: c for n, c in parcel.pack(folder.path).items() if n not in ("result.json", "error.txt")}
            request = {
                "attempt": attempt,
                "spec": {"id": spec.id, "json": spec.to_json()},
                "study": str(self.study.path.absolute()),
                "token": self.token,
                "shared": self.engine.shared,
                "files": files,
                "texts": parcel.user_texts(spec.file),
                "environment": self.environment,
                "versions": self.versions,
            }
            ref = self.task.options(name=f"{spec.label} seed {spec.seed}").remote(request, self.mailbox)
            self.flights[attempt] = _Flight(spec=spec, attempt=attempt, ref=ref)

    def _receive(self, seconds: float) -> None:
        """Wait for the end of a task, and process the reports and the tasks that have ended."""
        refs = {flight.ref: flight for flight in self.flights.values()}
        done = self.ray.wait(list(refs), timeout=seconds, fetch_local=False)[0] if refs else []
        if not refs:
            time.sleep(seconds)
        for report in self.ray.get(self.mailbox.drain.remote()):
            self._process(report)
        for ref in done:
            flight = refs[ref]
            if self.flights.pop(flight.attempt, None) is not None:
                with flight.lease:
                    end = self._result(flight)
                    if end.get("files"):
                        self._publish(flight, end["files"])
                self._end(flight, end)
        if time.monotonic() - self.checked_at > 2 * POLL_SECONDS:
            self._check_elsewhere()

    def _process(self, report: Mapping[str, Any]) -> None:
        flight = self.flights.get(report["attempt"])
        if flight is None:
            return
        if flight.heard_at is None and not report["shared"] and not self._hold(flight):
            self.ray.get(self.mailbox.stop.remote(flight.attempt))
        if report["step"] > flight.step:
            self.has_progress = True
            self.deaths.pop(flight.spec.id, None)
        flight.heard_at, flight.host, flight.step = time.monotonic(), report["host"], report["step"]
        if report["files"]:
            self._publish(flight, report["files"])
        if not flight.taken:
            self._tell(flight.spec, "running", flight.step)

    def _hold(self, flight: _Flight) -> bool:
        """Hold a run for a node that cannot; return False if another process holds it."""
        folder = self.study.run(flight.spec.id)
        folder.path.mkdir(parents=True, exist_ok=True)
        flight.held = flight.lease.enter_context(holding(folder))
        flight.taken = flight.held is None or flight.held.finished()
        return not flight.taken

    def _publish(self, flight: _Flight, files: object) -> None:
        """Check the files of a run that a node has sent, and write them, each atomically, the result last.

        Raises:
            EngineError: If they are not the files of this run.
        """
        held = flight.held
        if held is None or flight.taken:
            return
        try:
            checked = parcel.check_parcel(files)
            parcel.check_content(checked, flight.spec.id)
        except (ValueError, FileNotFoundError) as error:
            raise EngineError(f"the node {flight.host} sent unusable files for {held.path}: {error}") from error
        try:
            for name, content in checked.items():
                if name == "result.json":
                    held.publish(json.loads(content))
                    held.checkpoint.unlink(missing_ok=True)
                else:
                    held.write(held.path / name, content)
        except LeaseLost:
            flight.taken = True
            self.mailbox.stop.remote(flight.attempt)

    def _result(self, flight: _Flight) -> dict[str, Any]:
        """Return how a task has ended.

        Raises:
            EngineError: If the code of the task has failed.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(flight.ref)
        except errors.TaskCancelledError:
            return {"end": "interrupted"}
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            return {"end": "crash", "code": None, "log": f"{error}\n"}
        except (errors.NodeDiedError, errors.ObjectLostError, errors.TaskUnschedulableError):
            return {"end": "lost"}
        except errors.RayError as error:
            # Ray's message ends with the traceback on the node.
            cause = in_a_line(getattr(error, "cause", None) or error)
            raise EngineError(f"a task of Ray failed on {flight.host or 'a node'}: {cause}") from error

    def _end(self, flight: _Flight, end: Mapping[str, Any]) -> None:
        """Process the end of an attempt.

        Raises:
            EngineError: If no run can be computed on the node, or its versions differ.
        """
        spec, host = flight.spec, end.get("host", flight.host)
        with self.study.workers_log.open("ab") as file:
            file.write(end.get("log", "").encode(errors="replace"))
        state = "elsewhere" if flight.taken else end["end"]
        if state == "mismatch":
            self._compare(host, end["versions"])
        if state == "fault":
            raise EngineError(f"the node {host} cannot continue: {end['reason']}")
        if state == "no start":
            raise EngineError(f"a worker on the node {host} ended with exit status {end['code']}:\n{end['log']}")
        if state == "elsewhere":
            self.elsewhere[spec.id] = spec
            idle = not self.queue and not self.flights
            note = "another process computes this run" if idle else ""
            self.callback(RunEvent(spec=spec, state="elsewhere", step=0, note=note, idle=idle))
        elif state == "lost":
            self._lose(flight)
        elif state == "crash":
            self._crash(spec, host, end)
        elif state in FINAL_STATES:
            self.has_progress = True
            self._tell(spec, state, spec.recipe.steps)
        else:
            self.queue.insert(0, spec)

    def _lose(self, flight: _Flight) -> None:
        """Put a run whose node died back in the queue.

        Raises:
            EngineError: If :data:`NODES` nodes died under it without progress.
        """
        self.queue.insert(0, spec := flight.spec)
        self.deaths[spec.id] = self.deaths.get(spec.id, 0) + 1
        if self.deaths[spec.id] >= NODES and not self.stopping:
            raise EngineError(
                f"{NODES} nodes died under {spec.label} seed {spec.seed} before it made progress, the last was "
                f"{flight.host or 'unknown'}; the run can be resumed"
            )
        note = f"the node {flight.host} died; the run goes to another node" if flight.host else ""
        self._tell(spec, "planned", flight.step, note)

    def _crash(self, spec: RunSpec, host: str, end: Mapping[str, Any]) -> None:
        """Count the crash of a worker; the run fails if it is the last attempt.

        Raises:
            EngineError: If workers have only crashed.
        """
        self.crashes[spec.id] = self.crashes.get(spec.id, 0) + 1
        code = end.get("code")
        how = (
            "with its Ray process" if code is None else f"by signal {-code}" if code < 0 else f"with exit status {code}"
        )
        if self.crashes[spec.id] >= self.engine.attempts:
            why = " (often due to lack of memory)" if code in (-9, None) else ""
            reason = f"its worker ended {how}, {self.engine.attempts} times{why}"
            state = fail(spec, self.study, reason, details=f"{reason}, the last on {host}:\n{end.get('log', '')}")
            self.elsewhere |= {spec.id: spec} if state == "elsewhere" else {}
            self._tell(spec, state, spec.recipe.steps)
        else:
            self.queue.insert(0, spec)
        total = sum(self.crashes.values())
        if self.queue and not self.has_progress and total >= 2 * self.engine.attempts and not self.stopping:
            raise EngineError(
                f"workers ended {total} times, the last {how} on {host}, before any run had made progress; their "
                f"output is in {self.study.workers_log}"
            )

    def _check_silent(self) -> None:
        """Give up the attempts whose nodes have not reported; whatever they still send is ignored."""
        now = time.monotonic()
        for flight in list(self.flights.values()):
            if not self.slots:
                self._tell(flight.spec, "planned", flight.step, "no node has room for a run; waiting for one")
            if flight.heard_at is not None and now - flight.heard_at > SILENCE_SECONDS:
                self.ray.cancel(flight.ref, force=True)
                self.mailbox.stop.remote(flight.attempt)
                del self.flights[flight.attempt]
                flight.lease.close()
                self._lose(flight)

    def _check_elsewhere(self) -> None:
        """Check the runs that other processes compute; try them again when a node is idle, in case those died."""
        self.checked_at = time.monotonic()
        for identity, spec in list(self.elsewhere.items()):
            folder = self.study.run(identity)
            if folder.finished():
                del self.elsewhere[identity]
                self._tell(spec, folder.read_result()["state"], spec.recipe.steps)
            elif not self.stopping and not self.queue and len(self.flights) < self.slots:
                del self.elsewhere[identity]
                self.queue.append(spec)

    def _stop_all(self) -> None:
        """Stop all attempts, and wait until their checkpoints are written or :data:`GRACE_SECONDS` are over."""
        self.stopping = True
        self.ray.get(self.mailbox.stop.remote(None))
        for flight in self.flights.values():
            if flight.heard_at is None:
                self.ray.cancel(flight.ref)
        begun_at, told = time.monotonic(), False
        while self.flights and time.monotonic() - begun_at < GRACE_SECONDS + 2 * ray_node.BEAT_SECONDS:
            with suppress(EngineError):
                self._receive(POLL_SECONDS)
            if not told and time.monotonic() - begun_at > PATIENCE_SECONDS:
                told = True
                for flight in self.flights.values():
                    note = f"waiting up to {GRACE_SECONDS:.0f} s for its current step; press Ctrl-C to stop now"
                    self._tell(flight.spec, "running", flight.step, note)

    def _tell(self, spec: RunSpec, state: str, step: int, note: str = "") -> None:
        self.callback(RunEvent(spec=spec, state=state, step=step, note=note))
