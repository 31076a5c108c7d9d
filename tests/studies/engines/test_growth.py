"""The number of workers per device: by arithmetic with a clock of the test's, and with real workers."""

from pathlib import Path

import pytest
import torch

from normscope.results.store import StudyFolder, read_json
from normscope.studies.engines import growth, local, sizing
from normscope.studies.engines.devices import Slot, memory_of, slots_of
from normscope.studies.engines.engine import RunEvent
from normscope.studies.engines.growth import WINDOW_SECONDS, Growth
from normscope.studies.engines.local import LocalEngine
from normscope.studies.engines.sizing import local_engine
from normscope.studies.plan import plan
from normscope.studies.spec import make_study


class Machine:
    """Workers that make ``speeds[k]`` updates per second each, k the number of workers, and twice that of one arm."""

    def __init__(self, speeds: dict[int, float], *, most: int, slots: int = 1, used: int = 0, free: int = 0) -> None:
        self.speeds, self.now = speeds, 0.0
        self.growth = Growth(slots=slots, most=most, clock=lambda: self.now)
        self.used, self.free = used, free
        self.slots = slots
        self.steps: dict[int, float] = {}

    def run(self, seconds: float, waiting: int = 100) -> list[str]:
        said = []
        for _ in range(int(seconds)):
            self.now += 1.0
            level = self.growth.per_slot
            memory = (self.used, self.free - level * self.used) if self.used else None
            for worker in range(level * self.slots):
                # Every worker changes the arm from run to run.
                run = int(self.now) // 7 + worker
                fast = 2 if run % 2 else 1
                self.steps[worker] = self.steps.get(worker, 0) + fast * self.speeds[level]
                self.growth.observe(worker, f"{worker} {run}", f"arm {run % 2}", int(1000 * self.steps[worker]), memory)
            said += [words] if (words := self.growth.decide(waiting)) else []
        return said


def test_workers_are_added_while_that_is_worth_it_and_the_last_step_is_taken_back() -> None:
    machine = Machine({1: 10.0, 2: 9.0, 4: 7.0, 8: 3.6}, most=16)
    said = machine.run(200)
    assert machine.growth.per_slot == 4
    assert machine.growth.is_settled
    assert said == [
        "trying 2 workers per device",
        "2 workers per device make 1.80 times the updates per second of 1; trying 4 workers per device",
        "4 workers per device make 1.56 times the updates per second of 2; trying 8 workers per device",
        "4 workers per device from here on: 8 workers per device make 1.03 times the updates per second of 4, less "
        "than 1.1",
    ]


def test_a_level_costs_a_few_windows() -> None:
    machine = Machine({1: 10.0, 2: 5.0}, most=2)
    machine.run(4 * WINDOW_SECONDS + 10)
    assert machine.growth.is_settled
    assert machine.growth.per_slot == 1


def test_cores_memory_and_waiting_runs_are_limits() -> None:
    perfect = dict.fromkeys(range(1, 20), 10.0)
    machine = Machine(perfect, most=3, slots=2)
    assert machine.run(200)[-1].endswith("there are no more cores")
    assert machine.growth.per_slot == 3
    # Beside two of 4 GiB each, 0.9 of the 6 GiB that are free has room for one more.
    machine = Machine(perfect, most=16, used=4 << 30, free=14 << 30)
    assert "3 workers per device from here on: no memory for more: 4.0 GiB each" in machine.run(200)[-1]
    machine = Machine(perfect, most=16)
    assert machine.run(200, waiting=0) == ["1 worker per device from here on: no run is waiting"]
    assert Growth(most=1).is_settled


def test_arms_that_were_not_measured_before_say_nothing() -> None:
    now = [0.0]
    found = Growth(most=4, clock=lambda: now[0])

    def progress(arm: str, seconds: int) -> None:
        for step in range(seconds):
            now[0] += 1.0
            for worker in range(found.per_slot):
                found.observe(worker, arm, arm, step, None)

    progress("a", 7)
    assert found.decide(9) == "trying 2 workers per device"
    progress("b", 20)
    assert found.decide(9) == ""
    progress("a", 20)
    assert "2.00 times" in found.decide(9)


@pytest.mark.slow
def test_a_study_with_a_growing_number_of_workers_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(growth, "WORTH", 0.0)
    specs = plan(make_study("digits", norms=["none"], seeds=3, steps=600))
    study, events = StudyFolder(tmp_path), list[RunEvent]()
    engine = LocalEngine(workers=1, growth=Growth(most=2))
    engine.run(specs, study, events.append)
    assert next(event.note for event in events if event.is_of_engine) == "trying 2 workers per device"
    # Later looks of a study begin with what was found.
    assert engine.growth is not None
    assert engine.growth.per_slot == 2
    ended = [event.spec.seed for event in events if event.state == "done"]
    assert sorted(ended) == [0, 1, 2]
    assert {read_json(study.run(spec.id).result)["state"] for spec in specs} == {"done"}


def test_the_engine_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "cores", lambda: 8)
    on_cpu, on_cuda = make_study("digits"), make_study("digits", device="cuda")
    assert local_engine(on_cpu).workers == 8
    assert local_engine(on_cpu).growth is None
    assert local_engine(on_cpu, workers=3).workers == 3
    assert local_engine(on_cpu, workers_per_device=2).workers == 2
    assert local_engine(make_study("digits", devices_per_run=3)).workers == 2
    found = local_engine(on_cpu, workers_per_device="auto")
    assert (found.workers, found.growth and found.growth.most) == (1, 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,1,GPU-abc")
    found = local_engine(on_cuda)
    assert (found.workers, found.growth and found.growth.most) == (4, 2)
    assert local_engine(on_cuda, workers_per_device=2).workers == 8
    with pytest.raises(ValueError, match="not both, got 2 and auto"):
        local_engine(on_cpu, workers=2, workers_per_device="auto")
    with pytest.raises(ValueError, match="at least 1, or auto, got 0"):
        local_engine(on_cpu, workers_per_device=0)


def test_slots_are_the_visible_devices_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots_of("cpu", 2) == (Slot(name="the CPU"),)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,1,GPU-abc")
    visible = [dict(slot.environment)["CUDA_VISIBLE_DEVICES"] for slot in slots_of("cuda", 1)]
    assert visible == ["3", "2", "1", "GPU-abc"]
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of("cuda", 2)] == ["3,2", "1,GPU-abc"]
    assert [slot.name for slot in slots_of("cuda", 3)] == ["cuda:0, cuda:1, cuda:2"]
    # A device that the user names is used as it is, and a run on it has that name.
    assert slots_of("cuda:1", 1) == (Slot(name="cuda:1"),)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of("cuda", 1)] == ["0", "1", "2", "3"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert slots_of("cuda", 1) == (Slot(name="cuda"),)


def test_a_run_that_does_not_fit_beside_others_is_computed_again_with_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = plan(make_study("digits", norms=["none"], seeds=4, steps=10))
    sent: list[tuple[int, int, bool]] = []
    said: list[str] = []

    class Worker:
        """Not a process: a run beside others does not fit into a memory."""

        def __init__(self, log: int, messages: object, slot: Slot) -> None:
            self.messages, self.slot, self.spec, self.step = messages, slot, None, 0
            self.was_ready, self.of_slot = True, 1

        def send(self, spec, study, of_slot, *, is_shared, beside) -> None:
            self.spec, self.of_slot = spec, of_slot
            sent.append((spec.seed, of_slot, is_shared))
            state = "crowded" if of_slot > 1 else "done"
            self.messages.put((self, f'{{"event": "end", "state": "{state}"}}'))  # pyright: ignore

        def dismiss(self) -> None:
            self.process = type("Ended", (), {"kill": lambda self: None, "wait": lambda self, seconds=0: 0})()

    monkeypatch.setattr(local, "_Worker", Worker)
    LocalEngine(workers=4).run(specs, StudyFolder(tmp_path), lambda event: said.append(event.note))
    assert said[0] == "workers: 2 per device from here on: a run did not fit into the memory beside 3 others"
    assert sorted(seed for seed, of_slot, _ in sent if of_slot == 1) == [0, 1, 2, 3]
    assert not any(shared for _, of_slot, shared in sent if of_slot == 1)


def test_memory_of_a_cpu_process_is_its_resident_set() -> None:
    found = memory_of(torch.device("cpu"), 3)
    if Path("/proc/self/statm").exists():
        assert found is not None
        assert 50 << 20 < found[0] < 1 << 40
        assert found[1] > 0
