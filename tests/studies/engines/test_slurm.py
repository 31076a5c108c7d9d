"""The Slurm engine: the script, what is submitted, and what a job does with the signals that Slurm sends."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import normscope
from normscope.cli.main import app
from normscope.results import read_summary
from normscope.results.store import StudyFolder
from normscope.studies import Arm, EngineError, StudyMismatch, StudySpec, compare, make_study
from normscope.studies.engines.slurm import SlurmOptions, script, submit
from normscope.studies.plan import plan
from normscope.studies.repeat import command_that_repeats
from support.command_line import CommandLine
from support.in_process import InThisProcess
from support.slurm import StandIn


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path / "programs", monkeypatch)


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capfd)


def small(steps: int = 4, **options) -> StudySpec:
    return make_study("digits", **{"norms": ["none", "layer_norm"], "seeds": 2, "steps": steps, **options})


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, f"waited ten minutes for {what}"
        time.sleep(0.05)


def options_of(text: str) -> dict[str, str]:
    """Return the options of a script."""
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def interpreter(path: Path, body: str) -> str:
    """Write a program that stands where Python would."""
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_script_asks_for_an_array_of_workers_that_may_return_to_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = script(small(), Path("runs/50%"), SlurmOptions(jobs=8, at_once=3, workers=2))
    assert options_of(text) == {
        "job-name": "normscope-50%",
        "array": "0-7%3",
        "cpus-per-task": "2",
        "signal": "B:USR1@120",
        "requeue": "",
        "open-mode": "append",
        "output": f"{tmp_path}/runs/50%%/slurm/%A_%a.log",
        "chdir": str(tmp_path),
    }
    command = f"{sys.executable} -P -m normscope compare digits --norms=none,layer_norm --seeds=0,1 --steps=4"
    assert f"{command} --out={tmp_path}/runs/50% --workers=2 --leave-after=150 &\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_as_many_jobs_as_runs_but_not_more_than_sixteen(tmp_path: Path) -> None:
    arrays = [
        options_of(script(study, tmp_path, SlurmOptions(workers=workers)))["array"]
        for study, workers in ((small(), 1), (small(), 3), (small(seeds=40), 1), (small(seeds=None, looks=[6, 10]), 1))
    ]
    assert arrays == ["0-3", "0-1", "0-15", "0-11"]


def test_options_of_sbatch_replace_those_of_the_script_and_are_quoted(tmp_path: Path) -> None:
    comment = 'it\'s "so" \\ #1 $(touch x) `y`'
    asked = {"partition": "gpu", "array": "0-1", "exclusive": None, "comment": comment, "time": "2:00:00"}
    study = small(device="cuda")
    found = options_of(script(study, tmp_path, SlurmOptions(sbatch=asked)))
    assert (found["partition"], found["array"], found["exclusive"], found["gres"]) == ("gpu", "0-1", "", "gpu:1")
    # What `./run cluster slurm` checks sbatch to read again.
    assert found["comment"] == '"it\'s \\"so\\" \\\\ #1 $(touch x) `y`"'


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("Partition", "x", "an option of sbatch has a long name such as partition or gpus-per-task, got 'Partition'"),
        ("p", "x", "long name"),
        ("a b", "x", "long name"),
        ("a\n#SBATCH --b", "x", "long name"),
        ("comment", "x\ntouch y", "the option comment of sbatch must be printable, in one line"),
        ("wait", None, "the option wait of sbatch is not possible: the command returns at once"),
        ("wrap", "x", "the script is that of the study"),
    ],
)
def test_hostile_options_of_sbatch_are_refused(key: str, value: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SlurmOptions(sbatch={key: value})


@pytest.mark.parametrize(
    ("limit", "accepted"),
    [("3", False), ("3:01", True), ("0:3:0", False), ("0-0:3", False), ("0-1", True), ("infinite", True)],
)
def test_a_time_limit_that_ends_before_its_signal_is_refused(limit: str, accepted: bool, tmp_path: Path) -> None:
    options = SlurmOptions(sbatch={"time": limit})
    if accepted:
        assert options_of(script(small(), tmp_path, options))["time"] == limit
        return
    with pytest.raises(ValueError, match=f"time={limit} is 180 s, and the signal B:USR1@120 may come 180 s before"):
        script(small(), tmp_path, options)
    assert script(small(), tmp_path, SlurmOptions(sbatch={"time": limit, "signal": "B:USR1@30"}))


@pytest.mark.parametrize("folder", ["back\\slash", "line\nbreak"])
def test_a_folder_that_slurm_cannot_write_logs_to_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="printable and has no backslash"):
        script(small(), tmp_path / folder, SlurmOptions())


@pytest.mark.parametrize("folder", ["it's mine", '$(touch bad) `x` "y"', "-dash & é"])
def test_a_job_passes_the_words_of_the_command_as_they_are(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path / "it's python", "printf '%s\\n' \"$@\""))
    monkeypatch.setenv("NORMSCOPE_BACKEND", "it's $HOME")
    out = tmp_path / folder
    text = script(small(norms=["none", "ada_norm(k=0.3)"]), out, SlurmOptions(), keep_going=True)
    assert "export NORMSCOPE_BACKEND='it'\"'\"'s $HOME'\n" in text
    said = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=tmp_path, check=True)
    words = [
        "-P",
        "-m",
        "normscope",
        "compare",
        "digits",
        "--norms=none,ada_norm(k=0.3)",
        "--seeds=0,1",
        "--steps=4",
    ]
    assert said.stdout.splitlines() == [*words, f"--out={out}", "--workers=1", "--leave-after=150", "--keep-going"]
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"norms": ["none", "ada_norm(scale=2.0)", "layer_norm+rms_norm:qk"]},
        {"placements": ["pre", "pre+post:1"], "warmups": [0, 2], "baseline": "none@pre, warm-up 2"},
        {"optimizers": ["adam", "sgd"], "seeds": [3, 5, 9], "margin": 0.25, "splits": "published", "tune": True},
        {"seeds": None, "looks": [10, 20], "spending": "pocock", "targets": [3.5, "baseline"], "target_margin": 1.3},
        {"preset": "full", "precision": "bfloat16", "compile": True},
    ],
)
def test_the_command_of_a_job_is_that_of_the_study(options: dict, here: CommandLine, tmp_path: Path) -> None:
    words = command_that_repeats(small(**options))
    assert words is not None
    told = here(*words, "--engine", "slurm", "--dry-run", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert f" -m normscope {shlex.join(words)} --out=" in told.stdout
    assert not list(tmp_path.iterdir())


def test_a_study_that_the_command_line_cannot_say_is_a_call(tmp_path: Path) -> None:
    asked = make_study("digits", norms=["none"], seeds=1, steps=4, question="Why?")
    rates = StudySpec(**{**vars(small()), "arms": (Arm.parse("none", "post", learning_rate=0.5),), "baseline": 0})
    calls: list[tuple[tuple, dict]] = []
    face = type("Face", (), {"compare": lambda *words, **more: calls.append((words, more))})
    for name in ("StudySpec", "Arm", "NormSpec", "PlacementSpec"):
        setattr(face, name, getattr(normscope, name))
    for study in (asked, rates):
        assert command_that_repeats(study) is None
        call = next(line for line in script(study, tmp_path, SlurmOptions()).splitlines() if line.endswith(" &"))
        program = shlex.split(call)[3]
        assert program.startswith("import signal, normscope; signal.signal(signal.SIGTERM, signal.default_int_handler)")
        exec(program.partition("default_int_handler); ")[2], {"normscope": face})
        ((first,), more) = calls.pop()
        assert (more["out"], more["workers"], more["leave_after"]) == (str(tmp_path), 1, 150)
        rest = {name: value for name, value in more.items() if name not in ("out", "workers", "leave_after")}
        assert (make_study(first, **rest) if isinstance(first, str) else first) == study


def test_the_file_of_a_custom_task_is_named_with_its_folder(
    here: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here("new", "my_file.py").returncode == 0
    told = here("compare", "my_file.py:make", "--engine", "slurm", "--dry-run")
    assert f"normscope compare {tmp_path}/my_file.py:make --out={tmp_path}/runs/" in told.stdout


STUBBORN = """
trap 'echo got TERM >> {log}; sleep 0.1; exit 130' TERM
echo started >> {log}
for i in $(seq 600); do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("number", "state", "requeued"),
    [
        (signal.SIGUSR1, "   JobState=RUNNING Reason=None Dependency=(null)", ["77_3"]),
        (signal.SIGTERM, "   JobState=RUNNING Reason=None Dependency=(null)", ["77_3"]),
        (signal.SIGTERM, "   JobState=COMPLETING Reason=TimeLimit Dependency=(null)", ["77_3"]),
        (signal.SIGTERM, "   JobState=COMPLETING Reason=None Dependency=(null)", []),
    ],
    ids=["warned", "preempted", "time is up", "cancelled"],
)
def test_a_job_that_is_told_to_stop_stops_its_worker_and_returns_to_the_queue(
    number: int, state: str, requeued: list[str], slurm: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path / "python", STUBBORN.format(log=shlex.quote(str(log)))))
    (tmp_path / "slurm.sh").write_text(script(small(), tmp_path / "study", SlurmOptions()))
    slurm.state(state)
    job = slurm.start(tmp_path / "slurm.sh", task=3)
    until(log.exists, "the worker")
    os.kill(job.pid, number)
    job.communicate(timeout=600)
    assert job.returncode == 130
    assert log.read_text() == "started\ngot TERM\n"
    assert slurm.requeued == requeued


def test_a_job_whose_worker_has_finished_does_not_return_to_the_queue(
    slurm: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    body = STUBBORN.format(log=shlex.quote(str(log))).replace("exit 130", "exit 0")
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path / "python", body))
    (tmp_path / "slurm.sh").write_text(script(small(), tmp_path / "study", SlurmOptions()))
    job = slurm.start(tmp_path / "slurm.sh")
    until(log.exists, "the worker")
    os.kill(job.pid, signal.SIGUSR1)
    job.communicate(timeout=600)
    assert job.returncode == 0
    assert slurm.requeued == []


@pytest.mark.slow
def test_a_study_that_is_preempted_in_the_middle_ends_as_on_one_machine(
    slurm: StandIn, tmp_path: Path, here: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = small(seeds=1, steps=1000)
    told = here(*command_that_repeats(study) or [], "--engine=slurm", "--jobs=1", "--out=broken", "--leave-after=1")
    assert told.returncode == 0, told.stderr
    assert "Submitted as job 77 of Slurm: broken/slurm.sh" in told.stdout
    assert "status broken" in told.stdout
    folder = StudyFolder(tmp_path / "broken")
    first = folder.run(plan(study)[0].id)
    until(first.metrics.exists, "the first evaluation")
    job = int((slurm.folder / "task0.pid").read_text())
    # Slurm sends it to every process of a preempted job, and the script sends it to its worker once more.
    os.killpg(job, signal.SIGTERM)
    until(lambda: slurm.requeued, "the job to return to the queue")
    assert slurm.requeued == ["77_0"]
    assert first.checkpoint.exists()
    assert not folder.summary.exists()
    words, _ = slurm.start(folder.path / "slurm.sh").communicate(timeout=600)
    assert "Report:" in words
    whole = compare(study, out=tmp_path / "whole", engine=InThisProcess())
    values = [[run.value for run in arm.runs] for arm in read_summary(folder.path).arms]
    assert values == [[run.value for run in arm.runs] for arm in whole.arms]


def test_no_sbatch_here_is_an_error_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"there is no sbatch here.*give the command on a login node"):
        submit(small(), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_what_sbatch_says_against_it_is_said(slurm: StandIn, tmp_path: Path) -> None:
    slurm.write("sbatch", "#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(
        EngineError, match=r"\(exit status 1\); it said: sbatch: error: invalid partition specified: gpu"
    ):
        submit(small(), tmp_path / "study")
    slurm.write("sbatch", "#!/bin/bash\necho hello")
    with pytest.raises(EngineError, match=r"\(exit status 0\); it said: hello"):
        submit(small(), tmp_path / "study")


def test_a_script_of_another_program_is_not_overwritten(slurm: StandIn, tmp_path: Path) -> None:
    (tmp_path / "slurm.sh").write_text("mine")
    with pytest.raises(StudyMismatch, match=r"slurm\.sh exists, but no card\.json"):
        submit(small(), tmp_path)
    assert (tmp_path / "slurm.sh").read_text() == "mine"
    assert not (slurm.folder / "sbatch.txt").exists()


def test_a_study_is_checked_before_it_is_submitted(slurm: StandIn, tmp_path: Path, here: CommandLine) -> None:
    told = here("compare", "digits", "--norms=frn", "--engine=slurm", f"--out={tmp_path / 'study'}")
    assert (told.returncode, "arm frn cannot be trained on digits" in told.stderr) == (2, True)
    for option in ("--json", "--gate"):
        told = here("compare", "digits", "--engine=slurm", option)
        assert (told.returncode, f"{option} is not possible with --engine slurm" in told.stderr) == (2, True)
    told = here("compare", "digits", "--dry-run")
    assert (told.returncode, "--dry-run is for --engine slurm" in told.stderr) == (2, True)
    assert not (slurm.folder / "sbatch.txt").exists()


def test_a_device_of_the_nodes_need_not_be_here(slurm: StandIn, tmp_path: Path) -> None:
    slurm.write("sbatch", "#!/bin/bash\necho 12")
    submission = submit(small(device="cuda:7"), tmp_path / "study")
    assert (submission.job, submission.script) == ("12", tmp_path / "study" / "slurm.sh")
    assert StudyFolder(tmp_path / "study").read_card()["device"] == "cuda:7"


def test_options_are_parsed() -> None:
    words = ["compare", "digits", "--engine", "slurm", "--sbatch", "time=1:00:00", "--sbatch", "exclusive"]
    _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    assert bound.arguments["engine_options"].sbatch == ("time=1:00:00", "exclusive")
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        SlurmOptions(at_once=0)
