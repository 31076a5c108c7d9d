"""Try the Slurm engine on a real Slurm: a controller and two nodes on this machine, one of which is killed.

usage: ./run cluster slurm [--only NAMES] [--write FILE.md]

It installs Debian's slurmctld, slurmd, slurm-client and munge with apt if they are missing (as root; the packages are
all that it changes), starts the daemons from a temporary folder on ports of its own, runs the trials, and stops all.
`--only` takes some of: nodes, looks, limit, cancel.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
NORMSCOPE = [sys.executable, "-P", "-m", "normscope"]
COSTS = {"seconds", "seconds_to_baseline", "step_ms", "minutes", "peak_bytes", "saved_bytes", "command", "versions"}
"""Fields of a summary that are no results."""
COMMENT = 'it\'s "so" \\ #1 $(touch x) `y` ; é'

CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=30
SlurmdTimeout=300
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=node1,node2 Default=YES State=UP MaxTime=INFINITE
"""


class Cluster:
    """A controller and two nodes in a folder of their own.

    Args:
        cpus: Number of CPUs that each node says it has.
    """

    def __init__(self, cpus: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="normscope-slurm-"))
        self.folder.chmod(0o711)
        (self.folder / "state").mkdir()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        text = CONFIGURATION.format(folder=self.folder, host=socket.gethostname(), ports=ports, cpus=cpus)
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        options = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        options |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        paths = [f"--{name}={self.folder / value}" for name, value in options.items()]
        self._start("munged", ["munged", "--foreground", "--force", *paths])
        until(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in ("node1", "node2"):
            self.start_node(node)
        until(lambda: self.ask("sinfo", "-h", "-o", "%D %T") == "2 idle", "two nodes that are idle")
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.ask("scancel", "--full", "--me")
            until(lambda: not self.ask("squeue", "-h"), "the jobs to end", seconds=40)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            daemon.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, program: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                program, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill_node(self, node: str) -> int:
        """Kill the daemon of a node, and every process that it started, as a power cut does; return their number."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        ours = {f"SLURM_CONF={self.folder / 'slurm.conf'}".encode(), f"SLURMD_NODENAME={node}".encode()}
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdecimal() or not ours <= {*(entry / "environ").read_bytes().split(b"\0")}:
                    continue
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                found.add(int(entry.name))
                if Path("/proc", parent, "cmdline").read_bytes().startswith(b"slurmstepd"):
                    found.add(int(parent))
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return len(found)

    def ask(self, *program: str) -> str:
        """Return what a program of Slurm prints."""
        done = subprocess.run(program, env=self.environment, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout.strip()

    def normscope(self, *words: str, check: bool = True) -> str:
        """Return what a command line of normscope prints."""
        done = subprocess.run([*NORMSCOPE, *words], env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"normscope {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def queue(self) -> str:
        """Return the jobs in the queue."""
        return self.ask("squeue", "-h", "-r", "-o", "%i %T")


def until(condition: Callable[[], object], what: str, *, seconds: float = 900.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def install() -> None:
    """Install Slurm and munge where they are missing."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(
            f"slurm: {', '.join(PACKAGES)} are missing: install them, or start this as root where there is apt-get"
        )
    print(f"installing {', '.join(PACKAGES)} with apt-get", flush=True)
    options = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    if subprocess.run(get, env=options, stdout=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["apt-get", "update"], env=options, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(get, env=options, stdout=subprocess.DEVNULL, check=True)


def done(study: Path) -> int:
    """Return the number of runs that have ended."""
    return len(list(study.glob("runs/*/result.json")))


def numbers(content: Any) -> Any:
    """Return a summary without costs and versions."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in COSTS}
    return [numbers(each) for each in content] if isinstance(content, list) else content


def differences(one: Path, other: Path) -> list[str]:
    """Compare two folders of a study: the summaries without costs, and the bytes of the scores of every run."""
    first, second = (numbers(json.loads((each / "summary.json").read_text())) for each in (one, other))
    found = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
    files = [
        {path.parent.name: path.read_bytes() for path in each.glob("runs/*/examples.npy")} for each in (one, other)
    ]
    return found + [name for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name)]


class Trials:
    """The trials, and their transcript."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster, self.home = cluster, home
        self.lines: list[str] = []
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Add a line to the transcript."""
        self.lines.append(f"{time.monotonic() - self.started:6.1f} s  {text}")
        print(self.lines[-1], flush=True)

    def submit(self, name: str, *words: str) -> tuple[Path, str, list[str]]:
        """Submit a study; return its folder, the job, and the words of the study."""
        study = self.home / name
        began = time.monotonic()
        own = [word for word in words if not re.match("--(engine|jobs|sbatch|leave)", word)]
        said = self.cluster.normscope("compare", *words, "--engine=slurm", f"--out={study}")
        job = re.findall("job ([0-9]+) of Slurm", said)[0]
        self.say(f"normscope compare {' '.join(words)} --engine=slurm")
        self.say(f"returned after {time.monotonic() - began:.1f} s: job {job}")
        return study, job, own

    def conclude(self, study: Path, words: list[str]) -> None:
        """Wait for the jobs to end, and compare the study with the one that the local engine computes."""
        until(lambda: not self.cluster.queue(), "the jobs to end")
        self.say(f"the queue is empty; {done(study)} runs have ended")
        self.say(self.cluster.normscope("status", str(study)).splitlines()[0])
        if not (study / "summary.json").exists():
            raise RuntimeError("no worker wrote the summary")
        self.compare(study, words)

    def compare(self, study: Path, words: list[str]) -> None:
        """Compare a study with the one that the local engine computes."""
        local = study.with_name(f"{study.name}-local")
        self.cluster.normscope("compare", *words, f"--out={local}")
        found = differences(study, local)
        if found:
            raise RuntimeError(f"{study.name} differs from the local engine in {found}")
        scores = len(list(study.glob("runs/*/examples.npy")))
        self.say(
            f"equal to the local engine's: the summary but for costs and versions, bytes of {scores} files of scores"
        )

    def starts(self, study: Path) -> int:
        """Count how often the jobs of a study began."""
        return sum(log.read_text().count(". Folder: ") for log in (study / "slurm").iterdir())

    def nodes(self) -> None:
        """Kill a node in the middle of a study."""
        words = ["digits", "--norms=none,layer_norm", "--seeds=0-3", "--steps=1000"]
        study, job, own = self.submit("nodes", *words, "--jobs=4", "--leave-after=5", f"--sbatch=comment={COMMENT}")
        read = self.cluster.ask("scontrol", "show", "job", f"{job}_0")
        if f"Comment={COMMENT}" not in read or Path("x").exists():
            raise RuntimeError(f"the comment was read as {re.findall('Comment=.*', read)}")
        self.say(f"Slurm read the comment as it was given: {COMMENT}")
        until(lambda: done(study) >= 1, "a run")
        self.say(f"{done(study)} of 8 runs have ended; jobs by node: {self.by_node()}")
        count = self.cluster.kill_node("node1")
        self.say(f"killed node1: its slurmd and {count} processes of its jobs")
        self.cluster.ask("scontrol", "update", "nodename=node1", "state=down", "reason=killed")
        self.say(f"scontrol update nodename=node1 state=down; jobs: {'; '.join(self.cluster.queue().splitlines())}")
        held = [path.read_text().strip() for path in study.glob("runs/*/holder")]
        self.say(f"holders that are left: {', '.join(held)}")
        time.sleep(5)
        self.cluster.start_node("node1")
        self.cluster.ask("scontrol", "update", "nodename=node1", "state=resume")
        self.say("started node1 again")
        self.conclude(study, own)
        self.say(f"4 jobs began {self.starts(study)} times")
        if self.starts(study) <= 4:
            raise RuntimeError("no job was started again")

    def by_node(self) -> str:
        """Return how many jobs each node runs."""
        nodes = self.cluster.ask("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%N").split()
        return ", ".join(f"{node} {nodes.count(node)}" for node in sorted(set(nodes)))

    def looks(self) -> None:
        """Compute a study with planned looks."""
        words = ["digits", "--norms=none,layer_norm", "--looks=6,8,10", "--steps=100"]
        study, _, own = self.submit("looks", *words, "--jobs=4", "--leave-after=5")
        self.conclude(study, own)
        looks = json.loads((study / "summary.json").read_text())["looks"]
        self.say(f"looks reached: {looks['reached']} of {len(looks['pairs'])}; ended: {looks['ended']}")
        if looks["reached"] < 2:
            raise RuntimeError("no worker planned a second look")

    def limit(self) -> None:
        """Let the time limit end a worker, after a signal that an operator sent."""
        words = ["digits", "--norms=none,layer_norm", "--seeds=0", "--steps=6000"]
        more = ["--sbatch=time=2", "--sbatch=signal=B:USR1@30"]
        study, job, own = self.submit("limit", *words, "--jobs=1", "--leave-after=5", *more)
        until(lambda: list(study.glob("runs/*/metrics.jsonl")), "the first evaluation")
        self.cluster.ask("scancel", "--signal=USR1", "--batch", f"{job}_0")
        self.say("scancel --signal=USR1 --batch, in the middle of the first run")
        until(lambda: self.starts(study) >= 2, "the job to begin again")
        checkpoints = len(list(study.glob("runs/*/checkpoint.pt")))
        self.say(f"the job began again, with {checkpoints} checkpoint: {self.restarts(job)}")
        until(lambda: self.starts(study) >= 3 or not self.cluster.queue(), "the time limit")
        self.say(f"after the time limit: {self.restarts(job)}" if self.cluster.queue() else "it ended before its limit")
        self.conclude(study, own)
        words = (study / "slurm" / f"{job}_0.log").read_text()
        self.say(f"the job began {self.starts(study)} times, and was stopped {words.count('Stopped;')} times in a run")

    def restarts(self, job: str) -> str:
        """Return how often Slurm has started a job again."""
        return re.findall(r"Restarts=\d+", self.cluster.ask("scontrol", "show", "job", f"{job}_0"))[0]

    def cancel(self) -> None:
        """Cancel a study; nothing may come back. The local engine then goes on with it."""
        words = ["digits", "--norms=none,layer_norm", "--seeds=0", "--steps=1500"]
        study, job, own = self.submit("cancel", *words, "--jobs=2", "--leave-after=5")
        until(lambda: list(study.glob("runs/*/metrics.jsonl")), "the first evaluation")
        self.cluster.ask("scancel", job)
        until(lambda: not self.cluster.queue(), "the jobs to end")
        time.sleep(10)
        if self.cluster.queue():
            raise RuntimeError(f"a job that was cancelled came back: {self.cluster.queue()}")
        count = len(list(study.glob("runs/*/checkpoint.pt")))
        self.say(
            f"scancel: the queue is empty and stays so; {done(study)} of 2 runs have ended, {count} left checkpoints"
        )
        self.cluster.normscope("compare", *own, f"--out={study}")
        self.say("the local engine went on in the same folder")
        self.compare(study, own)


def describe(cluster: Cluster, names: list[str]) -> Iterator[str]:
    """Yield the head of the transcript."""
    import torch

    import normscope

    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    now = datetime.datetime.now(datetime.UTC)
    yield "# Slurm, once for real\n"
    yield f"`./run cluster slurm --only {','.join(names)}` on {now:%Y-%m-%d}: a controller and two node daemons on one"
    yield f"machine ({platform.machine()}, {os.cpu_count()} cores, other work beside it), no accounting, no cgroups.\n"
    yield f"* {cluster.ask('sbatch', '--version')}, Python {platform.python_version()}, torch {torch.__version__},"
    yield f"  normscope {normscope.__version__} ({git.stdout.strip()})"
    yield f"* Nodes: {cluster.ask('sinfo', '-h', '-N', '-o', '%N with %c CPUs (%T)').replace(chr(10), ', ')}\n"


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="nodes,looks,limit,cancel")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    names = options.only.split(",")
    install()
    with tempfile.TemporaryDirectory(prefix="normscope-studies-") as home, Cluster() as cluster:
        text = [*describe(cluster, names)]
        for name in names:
            trials = Trials(cluster, Path(home))
            trials.say(f"{name}: {getattr(trials, name).__doc__}")
            getattr(trials, name)()
            text += [f"## {name}\n", "```text", *(line.replace(home, "DIR") for line in trials.lines), "```\n"]
            if options.write:
                options.write.parent.mkdir(parents=True, exist_ok=True)
                options.write.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
