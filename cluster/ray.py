"""Try the Ray engine for real: two nodes on this machine, one killed in mid-run, the driver killed, no shared folder.

usage: ./run cluster ray [--write] [--part NAME]   the trial, or a part; --write renews docs/results/clusters/ray.md

Ray is installed into an environment of its own, beside this one's packages (in the cache, unless --venv names a
folder). The nodes are those of `ray start`, at 127.0.0.2 and 127.0.0.3; they, and all that they started, are ended when
the trial ends. Nodes without a shared folder run in a mount namespace of their own, which needs root on Linux.
"""

import argparse
import json
import os
import platform
import secrets
import signal
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from normscope.files import cache_folder
from normscope.results.store import RunFolder, StudyFolder

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
RAY = next(line for line in CONSTRAINTS if line.startswith("ray=="))
HEAD, SECOND, PORT = "127.0.0.2", "127.0.0.3", 6479
ADDRESS = ("--engine", "ray", "--address", f"{HEAD}:{PORT}")
VENV = cache_folder() / "ray-venv"
PAGE = ROOT / "docs" / "results" / "clusters" / "ray.md"
OF_TIME = {
    "seconds",
    "step_ms",
    "peak_bytes",
    "minutes",
    "command",
    "seconds_to_baseline",
    "seconds_to_target",
    "seconds_ratio",
}
"""Fields that measure time or memory of this very computation; everything else must be equal."""


def install(folder: Path) -> Path:
    """Make an environment with Ray that sees this one's packages; return its interpreter."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "ray").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", RAY], check=True)
    here = sysconfig.get_paths()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "outer.pth").write_text(f"{here['purelib']}\n{here['platlib']}\n")
    return python


class Cluster:
    """Two nodes; every process of a node descends from its `ray start --block`."""

    def __init__(self, python: Path, work: Path) -> None:
        self.python, self.work = python, work
        self.token = work / "token"
        self.token.touch(0o600)
        self.token.write_text(secrets.token_hex(32))
        self.nodes: dict[str, subprocess.Popen] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the nodes and of the drivers."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
        return {
            **mine,
            "PYTHONPATH": str(ROOT / "src"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's workers would run at niceness 15, the local engine's do not.
            "RAY_worker_niceness": "0",
        }

    def start(self, ip: str, *, cpus: int = 1, hidden: Path | None = None, **environment: str) -> None:
        """Start a node; with ``hidden``, this folder is another, empty one for all processes of the node."""
        program = [str(self.python.parent / "ray"), "start", "--block", f"--node-ip-address={ip}", f"--num-cpus={cpus}"]
        program += ["--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        if ip == HEAD:
            program += ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.work / 'ray'}"]
        else:
            program += [f"--address={HEAD}:{PORT}"]
        if hidden is not None:
            mount = f"mount -t tmpfs none '{hidden}' && exec \"$@\""
            program = ["unshare", "--mount", "sh", "-c", mount, "sh", *program]
        log = self.work / f"{ip}.log"
        with log.open("wb") as file:
            self.nodes[ip] = subprocess.Popen(
                program, stdout=file, stderr=file, env={**self.environment, **environment}, start_new_session=True
            )
        until(lambda: "Ray runtime started" in log.read_text(), f"node {ip} starts", self.nodes[ip])

    def kill(self, ip: str) -> int:
        """Kill a node and everything on it with SIGKILL; return the number of processes."""
        node = self.nodes.pop(ip)
        # The raylet is stopped first, so that it starts nothing while its children are listed.
        os.kill(node.pid, signal.SIGSTOP)
        pids = descendants(node.pid)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        node.wait()
        return len(pids)

    def stop(self) -> None:
        """Kill all nodes."""
        for ip in reversed([*self.nodes]):
            self.kill(ip)


def descendants(root: int) -> list[int]:
    """List a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def until(condition: Callable[[], object], what: str, process: subprocess.Popen, seconds: float = 600) -> None:
    """Wait for a condition.

    Raises:
        RuntimeError: If it does not come true in time, or the process has ended.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"not so: {what}; the process has ended with {process.poll()}")
        time.sleep(0.1)


class Trial:
    """The trial, which keeps what it says for the page."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.work = cluster, cluster.work
        self.lines: list[str] = []
        self.started = time.monotonic()

    def say(self, words: str) -> None:
        """Print a line, and keep it for the page."""
        self.lines.append(words)
        print(f"{time.monotonic() - self.started:5.0f} s  {words}", flush=True)

    def expect(self, is_so: object, words: str) -> None:
        """Say what was checked.

        Raises:
            RuntimeError: If it is not so.
        """
        if not is_so:
            raise RuntimeError(f"not so: {words}")
        self.say(f"* {words}")

    def compare(self, out: Path, *options: str, **environment: str) -> subprocess.Popen:
        """Start `normscope compare`; its output goes to a file beside the study."""
        program = [str(self.cluster.python), "-P", "-m", "normscope", "compare", *options, "--out", str(out)]
        self.say(f"* `normscope {' '.join(program[4:-1]).replace(str(self.work), '...')} {out.name}`")
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                program,
                stdout=log,
                stderr=log,
                cwd=self.work,
                # It must not be read.
                env={**self.cluster.environment, "RAY_ADDRESS": "127.0.0.9:1", **environment},
            )

    def finish(self, process: subprocess.Popen, out: Path) -> str:
        """Wait for the end of a study; return its output.

        Raises:
            RuntimeError: If it failed.
        """
        if status := process.wait(1800):
            raise RuntimeError(f"exit status {status}:\n{out.with_suffix('.log').read_text()}")
        return out.with_suffix(".log").read_text()

    def expect_equal(self, local: Path, other: Path) -> None:
        """Compare every run and the summary of two studies.

        Raises:
            RuntimeError: If a number differs.
        """
        runs = sorted(path.name for path in (local / "runs").iterdir())
        for run in runs:
            ours, theirs = (StudyFolder(out).run(run) for out in (local, other))
            for read in (RunFolder.read_description, RunFolder.read_result, RunFolder.read_metrics):
                if untimed(read(ours)) != untimed(read(theirs)):
                    raise RuntimeError(f"{run}: {read(ours)} and {read(theirs)}")
            if ours.examples.read_bytes() != theirs.examples.read_bytes():
                raise RuntimeError(f"{run}: other scores")
            if theirs.checkpoint.exists() or theirs.holder.exists():
                raise RuntimeError(f"{run}: leftovers")
        summaries = [untimed(json.loads((out / "summary.json").read_text())) for out in (local, other)]
        self.expect(
            summaries[0] == summaries[1],
            f"equal to the local engine's, bit for bit: {len(runs)} descriptions, results, rows of metrics and scores "
            "of every example, and summary.json (but for times, memory and the command)",
        )


def untimed(content: object) -> object:
    """Leave out what differs between two computations of the same."""
    if isinstance(content, dict):
        return {key: untimed(value) for key, value in content.items() if key not in OF_TIME}
    return [untimed(value) for value in content] if isinstance(content, list) else content


def shared_folder(trial: Trial, address: tuple[str, ...]) -> None:
    """A study with looks: a node is killed in mid-run, then the driver is interrupted, and started again."""
    options = ("digits", "--norms", "layer_norm,rms_norm", "--looks", "6,8", "--keep-going", "--steps", "400")
    local, out = trial.work / "looks-local", trial.work / "looks-ray"
    trial.finish(trial.compare(local, *options, "--workers", "2"), local)
    trial.cluster.start(HEAD)
    trial.cluster.start(SECOND)
    process = trial.compare(out, *options, *address)

    def on_second() -> list[Path]:
        mine = set(descendants(trial.cluster.nodes[SECOND].pid))
        held = {path: path.read_text(errors="replace").split() for path in out.glob("runs/*/holder")}
        return [path.parent for path, words in held.items() if len(words) > 1 and int(words[1]) in mine]

    until(lambda: [run for run in on_second() if (run / "metrics.jsonl").exists()], "a run on node 2", process)
    lost = on_second()
    trial.say(f"* node {SECOND} killed in mid-run with SIGKILL: {trial.cluster.kill(SECOND)} processes")
    until(lambda: all((run / "result.json").exists() for run in lost), "the run is computed elsewhere", process)
    trial.expect(lost, f"its run was computed again, on {HEAD}")
    process.send_signal(signal.SIGINT)
    process.wait(300)
    output = out.with_suffix(".log").read_text()
    trial.expect(process.returncode == 130 and "Resume with:" in output, "Ctrl-C: exit status 130, and how to go on")
    trial.cluster.start(SECOND)
    output = trial.finish(trial.compare(out, *options, *address), out)
    trial.expect("look 2 of 2" in output, "both looks were made, the second after the restart")
    trial.expect_equal(local, out)
    trial.cluster.stop()


def no_shared_folder(trial: Trial, address: tuple[str, ...], steps: int) -> None:
    """Long runs on nodes that see another, empty folder: a node is killed, then the driver, after checkpoints."""
    options = ("digits", "--norms", "layer_norm,none", "--seeds", "0-1", "--steps", str(steps))
    hidden = trial.work / "hidden"
    hidden.mkdir()
    local, out = trial.work / "long-local", hidden / "long-ray"
    trial.finish(trial.compare(local, *options, "--workers", "2"), local)
    trial.cluster.start(HEAD, hidden=hidden)
    trial.cluster.start(SECOND, hidden=hidden)

    def on_second() -> list[Path]:
        """List the runs that the second node computes and that have sent a checkpoint: by the folders it holds open."""
        opened: set[str] = set()
        for pid in descendants(trial.cluster.nodes[SECOND].pid):
            with suppress(OSError):
                opened |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        scratch = [Path(name).parent for name in opened if "/normscope-ray-" in name and name.endswith("/lock")]
        runs = [out / "runs" / path.name for folder in scratch for path in folder.glob("study/runs/*")]
        return [run for run in runs if (run / "checkpoint.pt").exists()]

    process = trial.compare(out, *options, *address)
    until(on_second, "a run on node 2 has sent a checkpoint", process)
    before = {run: (run / "metrics.jsonl").read_bytes() for run in on_second()}
    killed = trial.cluster.kill(SECOND)
    trial.say(f"* a run on node {SECOND} has sent a checkpoint; the node killed with SIGKILL: {killed} processes")
    until(
        lambda: "the run goes to another node" in out.with_suffix(".log").read_text(), "the death is noticed", process
    )
    trial.cluster.start(SECOND, hidden=hidden)
    results = len([*out.glob("runs/*/result.json")])
    until(lambda: len([*out.glob("runs/*/result.json")]) > results, "a run ends", process)
    process.kill()
    process.wait()
    trial.say("* the node started again; after the next result, the driver killed with SIGKILL; the same command again")
    trial.finish(trial.compare(out, *options, *address), out)
    kept = all((run / "metrics.jsonl").read_bytes().startswith(rows) for run, rows in before.items())
    trial.expect(
        before and kept,
        "the run of the killed node went on from its checkpoint: the first rows of its metrics, seconds included, are "
        "those from before",
    )
    trial.expect_equal(local, out)
    trial.cluster.stop()


def refusals(trial: Trial, address: tuple[str, ...]) -> None:
    """What is said where nodes differ."""
    options = ("digits", "--norms", "layer_norm,none", "--seeds", "0-1", "--steps", "20")
    other = trial.work / "other"
    subprocess.run(["cp", "-r", str(ROOT / "src"), str(other)], check=True)
    with (other / "normscope" / "version.py").open("a") as file:
        file.write("# changed\n")
    trial.cluster.start(HEAD)
    for name, path in (("changed", str(other)), ("without", str(trial.work / "ray"))):
        trial.cluster.start(SECOND, PYTHONPATH=path)
        out = trial.work / f"refused-{name}"
        process = trial.compare(out, *options, *address)
        process.wait(600)
        sentence = out.with_suffix(".log").read_text().strip().splitlines()[-1]
        trial.expect(
            process.returncode == 1 and "has n" in sentence and not [*out.glob("runs/*/result.json")], sentence
        )
        trial.cluster.kill(SECOND)
    trial.cluster.stop()


def long_steps(trial: Trial, seconds: float = 50) -> int:
    """Return the number of updates that take so many seconds here, in hundreds."""
    out = trial.work / "pilot"
    trial.finish(
        trial.compare(out, "digits", "--norms", "none", "--seeds", "0-1", "--steps", "1500", "--workers", "2"), out
    )
    results = [StudyFolder(out).run(path.name).read_result() for path in (out / "runs").iterdir()]
    return round(15 * seconds / max(result["seconds"] for result in results)) * 100


@contextmanager
def cluster(python: Path) -> Iterator[Cluster]:
    """Give a cluster without nodes, in a folder of its own; end what was started."""
    # Ray's sockets are in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="nsr-") as name:
        made = Cluster(python, Path(name))
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def two_nodes(words: Sequence[str], *, cpus: int) -> Iterator[Callable[[Path], None]]:
    """Start two nodes for the block, for a measurement.

    Args:
        words: Command line of a study, without engine and folder.
        cpus: CPUs per node.

    Yields:
        What begins the study in a folder, and returns at once; the end of the block waits for it.
    """
    with cluster(install(VENV)) as made:
        for ip in (HEAD, SECOND):
            made.start(ip, cpus=cpus)
        processes: list[subprocess.Popen] = []

        def begin(study: Path) -> None:
            program = [str(made.python), "-P", "-m", "normscope", *words, *ADDRESS, f"--out={study}"]
            processes.append(subprocess.Popen(program, stdout=subprocess.DEVNULL, env=made.environment))

        yield begin
        for process in processes:
            process.wait()


def trial(python: Path, *, part: str, steps: int | None, write: bool) -> None:
    """Run the trial, or a part of it."""
    with cluster(python) as made:
        it = Trial(made)
        parts: dict[str, tuple[str, Callable[[], None]]] = {
            "shared": ("Nodes that see the study's folder", lambda: shared_folder(it, ADDRESS)),
            "apart": ("Nodes that do not", lambda: no_shared_folder(it, ADDRESS, steps or long_steps(it))),
            "refusals": ("Nodes with something else installed", lambda: refusals(it, ADDRESS)),
        }
        for name, (title, run) in parts.items():
            if part in ("", name):
                it.say(f"\n## {title}\n")
                run()
        minutes = (time.monotonic() - it.started) / 60
    if write:
        import torch

        about = f"{datetime.now(UTC):%Y-%m-%d}, {RAY.replace('==', ' ')}, torch {torch.__version__}, Python "
        about += f"{platform.python_version()}, {os.cpu_count()} cores, {minutes:.0f} minutes"
        page = f"# The Ray engine on two real nodes\n\n`./run cluster ray --write`: {about}. Every line was checked.\n"
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page + "\n".join(it.lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="./run cluster ray", description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["shared", "apart", "refusals"], default="", help="a part of the trial")
    parser.add_argument("--steps", type=int, help="updates of the long runs; default: as many as take 50 seconds")
    parser.add_argument("--venv", type=Path, default=VENV, help="environment with Ray")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    trial(install(given.venv), part=given.part, steps=given.steps, write=given.write)
