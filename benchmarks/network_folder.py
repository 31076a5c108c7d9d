"""Leases on a network file system: two clients of one server on the loopback, ``./run bench network_folder``.

An sshd of its own serves a folder, which sshfs mounts twice: two clients with caches of their own stand for two
machines. The checks of ``normscope doctor``, leases between the two clients, and the trial of ``kills.py`` with
processes on both. Needs root, /dev/fuse, and on Debian ``apt-get install sshfs openssh-server``. sshfs, as NFS,
has no call that exchanges two names. The kernel's NFS client is not needed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normscope.cli.doctor import diagnose_folder
from normscope.studies import lease as leases
from normscope.studies.lease import acquire, wait_for

PORT = 22022


@contextmanager
def two_clients() -> Iterator[tuple[Path, Path]]:
    """Serve a folder and mount it twice; yield the two mounts."""
    for program in ("sshfs", "sshd", "ssh-keygen", "fusermount3"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            sys.exit(f"{program} is missing: apt-get install sshfs openssh-server")
    with tempfile.TemporaryDirectory(prefix="network-folder-") as name:
        home = Path(name)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key], check=True)
        settings = {
            "Port": PORT, "ListenAddress": "127.0.0.1", "HostKey": home / "host", "PidFile": "none",
            "StrictModes": "no", "AuthorizedKeysFile": home / "user.pub", "UsePAM": "no",
            "PasswordAuthentication": "no", "Subsystem": "sftp internal-sftp",
        }  # fmt: skip
        (home / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        Path("/run/sshd").mkdir(exist_ok=True)
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", home / "config", "-E", home / "log"])
        mounts = home / "one", home / "other"
        try:
            options = (
                f"IdentityFile={home / 'user'},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,dcache_timeout=1"
            )
            for folder in (home / "served", *mounts):
                folder.mkdir()
            for folder in mounts:
                command = ["sshfs", "-p", str(PORT), "-o", options, f"root@127.0.0.1:{home / 'served'}", str(folder)]
                for attempt in range(20):
                    if subprocess.run(command, check=attempt == 19, capture_output=attempt < 19).returncode == 0:
                        break
                    time.sleep(0.25)
            yield mounts
        finally:
            for folder in mounts:
                subprocess.run(["fusermount3", "-u", "-z", folder], check=False)
            server.terminate()
            server.wait()


def in_a_child(function: Callable[[], None]) -> int:
    """Call a function in a process of its own; return its number."""
    process = os.fork()
    if process == 0:
        function()
        os._exit(0)
    return process


def between_clients(one: Path, other: Path) -> Iterator[str]:
    """Try leases between two clients; yield sentences."""
    with wait_for(one / "lease") as held:
        until, asked = time.monotonic() + 2 * leases.LEASE_SECONDS, 0
        while time.monotonic() < until:
            assert acquire(other / "lease") is None
            held.check()
            asked += 1
    yield f"held for two leases: the other client asked {asked} times and never got it"

    def hold() -> None:
        lease = acquire(one / "lease")
        os.kill(os.getpid(), signal.SIGSTOP)
        began = time.monotonic()
        while lease is None or not lease.is_lost():
            time.sleep(0.01)
        print(f"* woken up: its lease was lost after {time.monotonic() - began:.2f} s", flush=True)
        # Without giving the lease back: the numbers of files follow their names in sshfs, and filelock, which compares
        # them, would delete the successor's.
        os._exit(0)

    for kill in (True, False):
        process = in_a_child(hold)
        os.waitpid(process, os.WUNTRACED)
        if kill:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        began = time.monotonic()
        with wait_for(other / "lease") as lease:
            took = time.monotonic() - began
            yield f"holder {'killed' if kill else 'stopped'}: taken by the other client {took:.2f} s later"
            if not kill:
                os.kill(process, signal.SIGCONT)
                os.waitpid(process, 0)
            lease.check()


def main() -> None:
    """Print what the two clients see."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--kills", type=int, default=40, help="0 for none")
    arguments = parser.parse_args()
    leases.LEASE_SECONDS = arguments.lease
    with two_clients() as (one, other):
        for check in diagnose_folder(one):
            print(
                f"* {check.name}: {check.state}: {check.found}{'; ' if check.advice else ''}{check.advice}", flush=True
            )
        for sentence in between_clients(one, other):
            print(f"* {sentence}", flush=True)
        if not arguments.kills:
            return
        trial = ["--kills", str(arguments.kills), "--lease", str(arguments.lease), "--seeds", "4"]
        here = Path(__file__).parent
        command = [sys.executable, here / "kills.py", *trial, "--folder", one, "--also", other]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
