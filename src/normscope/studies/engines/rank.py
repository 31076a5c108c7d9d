"""A process that shares the batches of a run on several devices, and is not the first, which holds the run's lease.

``python -m normscope.studies.engines.rank`` is started by :func:`normscope.studies.ranks.ranks_of`. It reads the run as
a line from standard input, writes a line when it has started and, if it fails, a second one with the reason. It ends
when its input ends, so it does not outlive the first process. It writes no files.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from functools import partial
from pathlib import Path

import torch

from normscope.results.store import RunFolder
from normscope.studies.plan import RunSpec
from normscope.training.loop import train
from normscope.training.ranks import joined

__tracebackhide__ = True


def main() -> None:
    """Train as one of the processes of a run, after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    # What the user's code prints must not be read as a message.
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    torch.set_num_threads(request["threads"])
    spec = RunSpec.from_json(request["spec"])
    events.write("ready\n")
    device = torch.device(spec.recipe.device)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(request["memory_fraction"], request["rank"])
    try:
        with joined(Path(request["meeting"]), request["rank"], spec.recipe.devices_per_run, device) as ranks:
            task = spec.begin()
            with task.context():
                train(
                    task,
                    partial(spec.build, task),
                    seed=spec.seed,
                    recipe=spec.recipe,
                    split=spec.split,
                    preset=spec.preset,
                    folder=RunFolder(Path(request["folder"])),
                    identity={},
                    watch=lambda step, loss: False,
                    ranks=ranks,
                )
    except BaseException as error:
        traceback.print_exc()
        events.write(json.dumps(f"{type(error).__name__}: {error}") + "\n")
        sys.exit(1)


def _end_with_input() -> None:
    """End this process with the first one, whose end closes the input."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
