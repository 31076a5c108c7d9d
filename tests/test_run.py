"""The front door, on a small checkout of its own with real pip, real venv and wheels made on the spot; no network."""

import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "run"
PIP = tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2])

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "small"
version = "1"

[project.optional-dependencies]
torch = ["torch>=2.11"]

[dependency-groups]
test = [{ include-group = "test-without-timm" }, "timm"]
test-without-timm = []
docs = []
"""

# Builds an editable wheel by hand; while a file called `hang` is there, it says so and waits.
BACKEND = """
import time, zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    while Path("hang").exists():
        Path("hanging").touch()
        time.sleep(0.05)
    name = "small-1-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("small.pth", str(Path("src").resolve()))
        info = "small-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Name: small\\nVersion: 1\\nMetadata-Version: 2.1\\nProvides-Extra: torch")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"small.pth,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n")
    return name
"""

CLI = """
import os, sys
def main():
    print("normscope", *sys.argv[1:], "in", os.getcwd())
    return 3
"""

slow = pytest.mark.slow
needs_groups = pytest.mark.skipif(
    PIP < (25, 1),
    reason=f"pip {'.'.join(map(str, PIP))} of this interpreter knows no dependency groups; ./run test has one",
)


class Checkout:
    """A folder with the real `run`, a project of one file, and a folder of wheels that pip alone may use."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.root = folder / "checkout"
        (self.root / "requirements").mkdir(parents=True)
        (self.root / "src" / "normscope" / "cli").mkdir(parents=True)
        shutil.copy(RUN, self.root / "run")
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "src" / "normscope" / "__init__.py").touch()
        (self.root / "src" / "normscope" / "cli" / "main.py").write_text(CLI)
        self.constraints("torch==2.13.0\n")
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH", "VIRTUAL"))
        }
        self.environment = kept | {
            "HOME": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def constraints(self, text: str) -> None:
        (self.root / "requirements" / "constraints.txt").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.root / "run"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.root.parent,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return ended(self.start(*arguments))

    def hang(self) -> subprocess.Popen[str]:
        """Start a set-up and come back when its pip stands still in the middle of the package."""
        (self.root / "hang").touch()
        process = self.start("setup")
        wait_for(lambda: (self.root / "hanging").exists(), "pip to reach the build")
        return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=1800)
    return process.returncode, out, err


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 1800
    while not condition():
        assert time.monotonic() < deadline, f"waited half an hour for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("2.11.0", "2.13.0"):
        with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            info = f"torch-{version}.dist-info"
            wheel.writestr("torch.py", f"__version__ = '{version}'\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", f"torch.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    pip = importlib.metadata.distribution("pip")
    with zipfile.ZipFile(folder / f"pip-{pip.version}-py3-none-any.whl", "w") as wheel:
        for file in pip.files or []:
            if file.parts[0].startswith("pip") and "__pycache__" not in file.parts:
                wheel.write(str(file.locate()), str(file))
    return folder


@pytest.fixture
def checkout(tmp_path, wheels) -> Checkout:
    return Checkout(tmp_path, wheels)


@pytest.fixture(scope="module")
def ready(tmp_path_factory, wheels) -> Checkout:
    """A checkout that is set up once, for tests that leave it as it is."""
    made = Checkout(tmp_path_factory.mktemp("ready"), wheels)
    status, out, err = made.run("setup")
    assert (status, out) == (0, ""), err
    steps = ("setting up .venv", "virtual environment", "torch 2.13.0 from local wheels", "normscope and what it needs")
    assert [step in line for step, line in zip(steps, err.splitlines(), strict=True)] == [True] * 4, err
    return made


@slow
@needs_groups
def test_a_second_start_does_nothing_but_the_command(ready):
    log = (ready.root / ".venv" / "setup.log").read_bytes()
    status, out, err = ready.run("compare", "digits", "--seeds", "3")
    # The command's own exit status, its arguments as they were, and the folder that the user stands in.
    assert (status, out, err) == (3, f"normscope compare digits --seeds 3 in {ready.root.parent}\n", "")
    assert (ready.root / ".venv" / "setup.log").read_bytes() == log
    assert ready.run("python", "-c", "import torch; print(torch.__version__)") == (0, "2.13.0\n", "")
    # What the command line tells a user to type next begins with what was typed.
    told = ready.run("python", "-c", "import os; print(os.environ['NORMSCOPE_STARTED_AS'])")
    assert told == (0, f"{ready.root / 'run'}\n", "")


@slow
@needs_groups
def test_a_change_of_the_constraints_installs_again_and_keeps_torch(checkout):
    assert checkout.run("setup")[0] == 0
    checkout.constraints("torch==2.13.0\n# changed\n")
    status, _, err = checkout.run("setup")
    assert status == 0
    first, *rest = err.splitlines()
    assert first == "run: pyproject.toml or the constraints changed: bringing .venv up to date"
    assert [line.partition(",")[0] for line in rest] == ["run: kept torch 2.13.0", "run: normscope and what it needs"]
    assert checkout.run("setup") == (0, "", "")


@slow
@needs_groups
def test_another_torch_than_the_pinned_one_has_an_environment_of_its_own(checkout):
    pinned = checkout.environment
    checkout.environment = pinned | {"NORMSCOPE_TORCH": "oldest"}
    status, _, err = checkout.run("setup")
    assert status == 0, err
    assert "torch 2.11.0 from local wheels" in err
    show = ("python", "-c", "import torch; print(torch.__version__)")
    assert checkout.run(*show) == (0, "2.11.0\n", "")
    # The same version by its number is the same wish; the pinned one is another, and the environment made anew.
    checkout.environment = pinned | {"NORMSCOPE_TORCH": "2.11.0"}
    assert checkout.run(*show) == (0, "2.11.0\n", "")
    checkout.environment = pinned | {"NORMSCOPE_TORCH": "pinned"}
    status, out, err = checkout.run(*show)
    assert (status, out) == (0, "2.13.0\n")
    assert "making .venv anew: it is for another Python, folder or NORMSCOPE_TORCH" in err
    checkout.environment = pinned
    assert checkout.run(*show) == (0, "2.13.0\n", "")


def test_a_torch_that_is_no_version_is_refused(checkout):
    checkout.environment |= {"NORMSCOPE_TORCH": "latest"}
    status, out, err = checkout.run("setup")
    assert (status, out) == (1, "")
    assert err == "run: NORMSCOPE_TORCH must be a version such as 2.12.1, `oldest` or `pinned`, got 'latest'\n"
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "called"),
    [(["docs"], ["build", "--strict"]), (["docs", "--quiet"], ["build", "--strict", "--quiet"])],
)
def test_docs_are_built_strictly_in_the_checkout(checkout, arguments, called):
    (checkout.root / "src" / "mkdocs.py").write_text("import os, sys; print(sys.argv[1:], os.getcwd())")
    assert checkout.run("--here", *arguments) == (0, f"{called} {checkout.root}\n", "")


def test_docs_can_be_served_while_they_are_written(checkout):
    (checkout.root / "src" / "mkdocs.py").write_text("import sys; print(sys.argv[1:])")
    assert checkout.run("--here", "docs", "serve") == (0, "['serve']\n", "")


@slow
@needs_groups
def test_the_docs_are_set_up_without_torch_and_the_package(checkout):
    status, _, err = checkout.run("docs")
    assert status == 1
    assert "No module named mkdocs" in err
    steps = [line.partition(",")[0] for line in err.splitlines()[:-1]]
    assert steps == [
        "run: setting up .venv with Python " + platform.python_version(),
        "run: virtual environment",
        "run: what the docs need",
    ]


@slow
@needs_groups
def test_beside_another_torch_than_the_pinned_one_the_tests_go_without_timm(checkout):
    assert checkout.run("setup")[0] == 0
    # The folder of wheels has neither timm nor another torch: what is asked for all the same would fail.
    checkout.constraints("torch==2.14.1\ntorchvision==0.29.1\n")
    _, _, err = checkout.run("lint")
    steps = [line.rpartition(",")[0] for line in err.splitlines() if line.startswith("run: ")]
    assert "run: kept torch 2.13.0" in steps
    assert "run: what the tests need, without timm: no torchvision for torch 2.13.0" in steps
    status, _, err = checkout.run("strangers")
    assert status == 1
    assert "run: no torchvision for torch 2.13.0" in err


@slow
@needs_groups
def test_two_starts_wait_for_the_orphan_of_a_killed_one_and_one_builds_anew(checkout):
    first = checkout.hang()
    first.kill()
    assert ended(first)[0] == -signal.SIGKILL
    others = [checkout.start("python", "-c", "import torch, normscope; print('ready')") for _ in range(2)]
    # pip of the killed start still runs and holds the lock: nobody may touch .venv beside it.
    waiting = [other.stderr.readline() for other in others]
    assert all("another ./run is setting up here; waiting for it" in line for line in waiting)
    assert [other.poll() for other in others] == [None, None]
    (checkout.root / "hang").unlink()
    results = [ended(other) for other in others]
    assert [(status, out) for status, out, _ in results] == [(0, "ready\n")] * 2
    assert sum("making .venv anew: the last set-up was cut off at package" in err for _, _, err in results) == 1
    assert checkout.run("setup") == (0, "", "")


@slow
@needs_groups
def test_a_set_up_killed_with_its_pip_is_made_anew_without_waiting(checkout):
    first = checkout.hang()
    os.killpg(first.pid, signal.SIGKILL)
    assert ended(first)[0] == -signal.SIGKILL
    (checkout.root / "hang").unlink()
    (checkout.root / ".venv" / "half-written").touch()
    status, _, err = checkout.run("setup")
    assert status == 0, err
    assert "waiting" not in err
    assert "cut off at package" in err
    assert not (checkout.root / ".venv" / "half-written").exists()


@slow
@needs_groups
def test_a_step_that_fails_shows_the_end_of_the_log_and_is_tried_again(checkout):
    checkout.constraints("torch==99.0\n")
    status, _, err = checkout.run("setup")
    assert status == 1
    assert "Cannot install torch==99.0" in err or "No matching distribution found for torch==99.0" in err
    assert "The whole log is" in err
    assert "Traceback" not in err
    checkout.constraints("torch==2.13.0\n")
    status, _, err = checkout.run("setup")
    assert status == 0, err
    assert "virtual environment" not in err, "the step that had ended well was done again"


def test_a_venv_of_somebody_else_is_refused_and_left_alone(checkout):
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv" / "mine").write_text("mine")
    status, out, err = checkout.run("compare", "digits")
    assert (status, out) == (1, "")
    assert "this file did not make it. Move it away" in err
    assert [path.name for path in (checkout.root / ".venv").iterdir()] == ["mine"]


def test_here_installs_nothing_and_finds_the_source(checkout):
    status, out, err = checkout.run("--here", "list", "norms")
    assert (status, out, err) == (3, f"normscope list norms in {checkout.root.parent}\n", "")
    assert not (checkout.root / ".venv").exists()


def test_help_lists_the_commands_and_sets_nothing_up(checkout):
    for arguments in ((), ("--help",)):
        status, out, _ = checkout.run(*arguments)
        assert status == 0
        assert "./run [--here] COMMAND" in out
    assert not (checkout.root / ".venv").exists()


def test_lint_runs_every_program_and_fails_when_one_does(checkout):
    (checkout.root / "src" / "normscope" / "ugly.py").write_text("import os\nx  =  1\n")
    status, _, err = checkout.run("--here", "lint")
    assert status == 1
    assert err.count("run: failed: ") >= 2
    assert "run: failed: ruff format" in err
    assert "run: failed: ruff check" in err


def test_an_unknown_benchmark_or_cluster_is_answered_with_the_known_ones(checkout):
    (checkout.root / "benchmarks").mkdir()
    (checkout.root / "benchmarks" / "norms.py").write_text("import sys; print(sys.argv[1:])")
    assert checkout.run("--here", "bench", "norms", "--quick") == (0, "['--quick']\n", "")
    status, _, err = checkout.run("--here", "bench", "nroms")
    assert status == 1
    assert "no benchmark 'nroms'; there are: norms" in err
    (checkout.root / "cluster").mkdir()
    (checkout.root / "cluster" / "ray.py").write_text("import sys; print(sys.argv[1:])")
    assert checkout.run("--here", "cluster", "ray", "--write") == (0, "['--write']\n", "")
    status, _, err = checkout.run("--here", "cluster")
    assert status == 1
    assert "no cluster ''; there are: ray" in err


def test_the_models_of_other_libraries_are_started_with_the_folder_of_tests_on_the_path(checkout):
    (checkout.root / "tests" / "strangers").mkdir(parents=True)
    (checkout.root / "tests" / "strangers" / "__main__.py").write_text("import sys; print(sys.argv[1:])")
    assert checkout.run("--here", "strangers", "--limit", "3") == (0, "['--limit', '3']\n", "")


def test_an_old_python_is_told_in_one_sentence():
    program = textwrap.dedent(f"""
        import runpy, sys
        sys.hexversion = 0x030A0DF0
        runpy.run_path({str(RUN)!r}, run_name="__main__")
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("run: normscope needs Python 3.11 or newer, and ")
    assert len(done.stderr.splitlines()) == 1
