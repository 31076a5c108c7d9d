r"""The number of workers on a device, found on the study's own runs while they are computed: no work is repeated.

Workers are added, 1, 2, 4, ... per device, as long as that makes the study faster. Runs of different arms differ in
speed, so levels are compared by arm: with v and v' the updates per second of a run of one arm among k and k' workers,

.. math:: \text{gain} = \frac{k'}{k} \exp \operatorname{mean}_{\text{arms}} \log \frac{v'}{v}

A level is kept if its gain is at least :data:`WORTH`. The time at a level that is too low is that of a few windows of
:data:`WINDOW_SECONDS`, in which runs are computed as ever.
"""

import math
import time
from collections.abc import Callable, Hashable

WINDOW_SECONDS = 5.0
"""Time for which the speed of the runs is measured at each level."""

WORTH = 1.1
"""Gain of throughput from which on more workers are kept."""

SPARE = 0.9
"""Share of the free memory that further workers may take."""


class Growth:
    """Decides how many workers each device has.

    Args:
        slots: Number of devices, or groups of devices, which have the same number of workers each.
        most: Largest number of workers per slot.
        clock: Returns the time in seconds.
    """

    def __init__(self, *, slots: int = 1, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots, self.most, self.clock = slots, most, clock
        self.per_slot = 1
        """Number of workers that each slot should have now."""
        self.is_settled = most == 1
        """Whether the number is final."""
        self.kept = 1
        self.before: dict[str, float] = {}
        self.used, self.free = 0, math.inf
        self._begin_level()

    def _begin_level(self) -> None:
        self.seen: set[Hashable] = set()
        self.last: dict[Hashable, tuple[str, int, float]] = {}
        self.sums: dict[str, tuple[int, float]] = {}
        self.began = math.inf

    def observe(self, worker: Hashable, run: str, arm: str, step: int, memory: tuple[int, int] | None) -> None:
        """Take note of the progress of a run.

        Args:
            worker: The worker.
            run: Identifier of its run.
            arm: Label of the run's arm.
            step: Number of updates made.
            memory: Bytes that the worker uses, and bytes that are free on its device, if they are known.
        """
        now = self.clock()
        if memory is not None:
            self.used, self.free = max(self.used, memory[0]), memory[1]
        self.seen.add(worker)
        if self.began == math.inf and len(self.seen) >= self.per_slot * self.slots:
            # From here on all workers compute updates.
            self.began, self.last = now, {}
        before = self.last.get(worker)
        if before is not None and before[0] == run:
            steps, seconds = self.sums.get(arm, (0, 0.0))
            self.sums[arm] = steps + step - before[1], seconds + now - before[2]
        self.last[worker] = run, step, now

    def decide(self, waiting: int) -> str:
        """Change :attr:`per_slot` if enough has been measured.

        Args:
            waiting: Number of runs that no worker computes.

        Returns:
            What was decided and why, in a sentence; empty if nothing was.
        """
        speeds = {arm: steps / seconds for arm, (steps, seconds) in self.sums.items() if steps and seconds}
        elapsed = self.clock() - self.began
        if self.is_settled or elapsed < WINDOW_SECONDS or not speeds:
            return ""
        common = speeds.keys() & self.before.keys()
        if self.before and not common:
            return ""
        level, why = self.per_slot, ""
        if common:
            ratio = math.exp(sum(math.log(speeds[arm] / self.before[arm]) for arm in common) / len(common))
            gain = ratio * level / self.kept
            why = f"{level} {_workers(level)} per device make {gain:.2f} times the updates per second of {self.kept}"
            if gain < WORTH:
                return self._settle(self.kept, f"{why}, less than {WORTH}")
        self.kept, self.before = level, speeds
        following = min(2 * level, self.most)
        room = level + int(SPARE * self.free / self.used) if self.used and self.free < math.inf else self.most
        if following == level:
            return self._settle(level, f"{why}; there are no more cores")
        if following > room:
            following = room
            if following <= level:
                return self._settle(level, f"no memory for more: {_size(self.used)} each, {_size(self.free)} free")
        if not waiting:
            return self._settle(level, "no run is waiting")
        self.per_slot = following
        self._begin_level()
        return f"{why}{'; ' if why else ''}trying {following} workers per device"

    def limit(self, per_slot: int) -> None:
        """Settle on a number, as when a run did not fit into the memory beside others."""
        self.per_slot, self.is_settled = per_slot, True

    def _settle(self, per_slot: int, why: str) -> str:
        self.limit(per_slot)
        return f"{per_slot} {_workers(per_slot)} per device from here on: {why.lstrip('; ')}"


def _workers(count: int) -> str:
    return "worker" if count == 1 else "workers"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
