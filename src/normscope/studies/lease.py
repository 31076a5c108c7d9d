"""Leases: the claim of one process to compute a run or to write a card, in a folder that several machines share.

A lease is a file that is created exclusively and then refreshed by a thread; an operating-system lock (flock) holds on
one machine only where a network file system is mounted without it. A process that is killed is superseded at once on
its own machine, and after :data:`LEASE_SECONDS` on another one. A process that is stopped for longer finds its lease
lost when it wakes up. It may do so between its last check and the system call that follows. Therefore files become
visible by one system call with a temporary file, and the successor deletes the temporary files before it begins: what
its predecessor does late fails.
"""

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from normscope.results.store import LeaseLost

LEASE_SECONDS = 120.0
"""Time without a sign of life after which another machine takes over.

The sum of 20 s between two signs, 30 s for a step of compiled code that keeps the interpreter from the thread that
gives them, and 60 s for which an NFS client may answer from its cache (``acregmax``), rounded up.
"""

BEATS = 6
"""Number of signs of life per lease."""

POLL_SECONDS = 0.1
"""Interval between two attempts of a process that waits for a lease."""


@dataclass(frozen=True)
class Lease:
    """A lease that this process has acquired; leaving its ``with`` block gives it back."""

    path: Path
    """The file."""
    claim: SoftFileLease
    """The claim, with its thread."""

    def is_lost(self) -> bool:
        """Return whether it was not refreshed in time, or the file is missing or another process's."""
        owner = self.claim.owner
        return self.claim.compromise is not None or owner is None or owner.token != self.claim.token

    def check(self) -> None:
        """Check that the lease is held.

        Raises:
            LeaseLost: If it is not.
        """
        if self.is_lost():
            raise LeaseLost(
                f"{self.path} is lost: this process gave no sign of life, and another one may go on with it"
            )

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What cannot be removed, such as in a folder that became read-only, expires.
        with suppress(OSError):
            self.claim.release()


def acquire(path: Path) -> Lease | None:
    """Acquire a lease, or return None if another process holds it.

    A lease that is not refreshed is seen to expire by a process that asks again and again.

    Raises:
        OSError: If the file cannot be written.
    """
    # The user's code may change the working directory.
    path = path.absolute()
    claim = SoftFileLease(
        path, lease_duration=LEASE_SECONDS, heartbeat_interval=LEASE_SECONDS / BEATS, thread_local=False
    )
    if not (_creates(claim) or (_is_free(path, claim) and _creates(claim))):
        return None
    _seen.pop(path, None)
    return Lease(path, claim)


def wait_for(path: Path) -> Lease:
    """Acquire a lease, when no other process holds it.

    Raises:
        OSError: If the file cannot be written.
    """
    while (lease := acquire(path)) is None:
        time.sleep(POLL_SECONDS)
    return lease


def is_marker(path: Path) -> bool:
    """Return whether a file is that of a lease."""
    with path.open("rb") as file:
        return file.read(9) in (b"filelock/", b"")


_seen: dict[Path, tuple[tuple[bytes, int, int, int], float]] = {}
"""Leases that this process asked for and did not get: their state, and when it was first seen, by its own clock."""


def _creates(claim: SoftFileLease) -> bool:
    try:
        claim.acquire(blocking=False)
    except (Timeout, LeaseSettingsMismatch):
        return False
    return True


def _is_free(path: Path, claim: SoftFileLease) -> bool:
    """Delete a lease that has expired, or whose holder is dead; return whether its name is free.

    filelock takes over by exchanging two names in one system call. Where the file system has no such call, as NFS, it
    waits for a dead process without end.
    """
    try:
        # Opening the file makes an NFS client ask the server.
        with path.open("rb") as file:
            content, about = file.read(1024), os.fstat(file.fileno())
    except FileNotFoundError:
        return True
    owner, now = claim.owner, time.monotonic()
    state, since = _seen.get(path, (None, now))
    if state != (state := (content, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)):
        since = now
    _seen[path] = state, since
    duration = LEASE_SECONDS if owner is None or owner.lease_duration is None else owner.lease_duration
    if now - since < duration and not (owner and _is_dead(owner.pid, content)):
        return False
    with suppress(FileNotFoundError):
        latest = os.lstat(path)
        if (latest.st_ino, latest.st_mtime_ns) != (about.st_ino, about.st_mtime_ns):
            return False
        # Should its holder wake up in this instant, it finds its lease lost.
        path.unlink()
    return True


def _is_dead(pid: int, marker: bytes) -> bool:
    """Return whether the process that wrote a lease is known to be gone, because it was one of this machine.

    filelock knows, from the process's start and the machine's name, boot and containers. It is asked about a copy in a
    folder of this machine, where it can take over.
    """
    if os.name == "nt":
        # There filelock needs no exchange, and this call would send a signal.
        return False
    try:
        os.kill(pid, 0)
        return False
    except ProcessLookupError:
        # Here; the process may be one of another machine.
        pass
    except OSError:
        return False
    with tempfile.TemporaryDirectory(prefix="normscope-") as folder:
        copy = Path(folder) / "lease"
        copy.write_bytes(marker)
        probe = SoftFileLease(copy, lease_duration=LEASE_SECONDS)
        try:
            probe.acquire(blocking=False)
        except (Timeout, LeaseSettingsMismatch):
            return False
        probe.release()
        return True
