"""Small programs in the place of Slurm's: `sbatch` starts the tasks of an array, `scontrol` notes what is asked."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

_SBATCH = r"""#!/bin/bash
printf '%s\n' "$@" > {folder}/sbatch.txt
script="${{@: -1}}"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
cd "$(sed -n 's/^#SBATCH --chdir=//p' "$script")"
for task in $(seq 0 "$last"); do
    log="${{output/\%A/77}}"
    SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_RESTART_COUNT=$SLURM_RESTART_COUNT \
        setsid bash "$script" >> "${{log/\%a/$task}}" 2>&1 < /dev/null &
    echo $! > {folder}/task$task.pid
done
echo "77;cluster"
"""

_SCONTROL = """#!/bin/bash
printf '%s ' "$@" >> {folder}/scontrol.txt
echo >> {folder}/scontrol.txt
if [ "$1" = show ]; then cat {folder}/state.txt; fi
"""


class StandIn:
    """A folder on PATH with the programs, and what they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.write("sbatch", _SBATCH.format(folder=shlex.quote(str(folder))))
        self.write("scontrol", _SCONTROL.format(folder=shlex.quote(str(folder))))
        self.state("   JobState=RUNNING Reason=None Dependency=(null)")
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(self, name: str, text: str) -> None:
        """Write a program."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def state(self, text: str) -> None:
        """Set what `scontrol show job` prints."""
        (self.folder / "state.txt").write_text(text + "\n", encoding="utf-8")

    @property
    def requeued(self) -> list[str]:
        """Tasks that were to return to the queue."""
        path = self.folder / "scontrol.txt"
        return re.findall(r"^requeue (\S+)", path.read_text(encoding="utf-8"), flags=re.M) if path.exists() else []

    def start(self, script: Path, task: int = 0) -> "subprocess.Popen[str]":
        """Start a task of an array as Slurm does, in a session of its own."""
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.Popen(
            ["bash", str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
