"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from pathlib import Path

import pytest
import torch

from normscope.results.store import RunFolder
from normscope.train import checkpoint

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert checkpoint.load(folder, CPU) is None
    state = {"model": {"weight": torch.randn(3)}, "progress": {"step": 4, "losses": [0.5], "best_key": []}}
    checkpoint.save(folder, state)
    loaded = checkpoint.load(folder, CPU)
    assert loaded is not None
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert loaded["progress"] == state["progress"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .*; delete it to begin this run again"):
        checkpoint.load(folder, CPU)


def test_a_hostile_file_is_not_executed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (victim,))

    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    torch.save({"model": Hostile()}, folder.checkpoint, pickle_module=pickle)
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(folder, CPU)
    assert not victim.exists()
