"""What a run says it was computed with."""

import subprocess
from pathlib import Path

import pytest
import torch

from normscope.training import outcome as environment


@pytest.fixture(autouse=True)
def forget_the_commit():
    environment._commit.cache_clear()
    yield
    environment._commit.cache_clear()


def package_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the module lies in ``folder``."""
    folder.mkdir(parents=True)
    (folder / "outcome.py").write_text("")
    monkeypatch.setattr(environment, "__file__", str(folder / "outcome.py"))
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_file_that_tells_a_checkout_from_an_installed_copy_exists() -> None:
    assert Path(environment.__file__).is_file()
    checkout = subprocess.run(["git", "ls-files", "--error-unmatch", environment.__file__], check=False).returncode == 0
    assert ("commit" in environment.versions()) == checkout


def test_versions_name_what_decides_a_number() -> None:
    found = environment.versions()
    assert {"normscope", "torch", "numpy", "python"} <= set(found)
    assert found["torch"] == torch.__version__
    assert all(isinstance(text, str) and text for text in found.values())


def test_a_checkout_names_its_commit_and_says_when_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package_in(tmp_path / "src" / "normscope" / "train", monkeypatch)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert environment.versions()["commit"] == commit
    environment._commit.cache_clear()
    (folder / "outcome.py").write_text("changed")
    assert environment.versions()["commit"] == f"{commit}+changes"


def test_an_installed_copy_inside_somebody_elses_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_in(tmp_path / ".venv" / "normscope" / "train", monkeypatch)
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert "commit" not in environment.versions()


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "commit" not in environment.versions()


def test_a_git_that_may_not_be_run_is_no_fault_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in environment.versions()


def test_the_processor_is_named() -> None:
    assert torch.backends.cpu.get_cpu_capability() in environment.device_name(torch.device("cpu"))
