"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from normscope.results.store import RunFolder
from normscope.training.checkpoint import CheckpointDamaged, Progress, restore, save, set_aside


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make a model and its optimizer, one update old."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    (model(torch.randn(5, 3)) * torch.randn(5, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_what_is_saved_is_restored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    model, optimizer = parts()
    assert restore(folder, model, optimizer) is None
    progress = Progress(step=4, best_key=[0.5, 0.1], best_weights={"weight": torch.randn(3)}, losses=[0.25])
    save(folder, model, optimizer, progress)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    other, state = parts()
    found = restore(folder, other, state)
    assert found is not None
    assert torch.equal(found.best_weights["weight"], progress.best_weights["weight"])
    assert (found.step, found.best_key, found.losses) == (4, [0.5, 0.1], [0.25])
    assert torch.equal(other.weight, model.weight)
    moments = [one.state_dict()["state"][0]["exp_avg"] for one in (optimizer, state)]
    assert torch.equal(*moments)


def test_a_checkpoint_of_an_older_version_goes_on_with_the_lines_of_its_metrics(tmp_path: Path) -> None:
    folder, (model, optimizer) = RunFolder(tmp_path), parts()
    lines = b'{"step": 2}\n{"step": 4}\n'
    folder.metrics.write_bytes(lines + b'{"step": 6}\n{"st')
    progress = {key: value for key, value in vars(Progress(step=4)).items() if key != "rows"}
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**content, "progress": {**progress, "metrics_bytes": len(lines)}}, folder.checkpoint)
    found = restore(folder, *parts())
    assert found is not None
    assert (found.step, found.rows) == (4, ['{"step": 2}', '{"step": 4}'])


@pytest.mark.parametrize("content", [b"", b"junk", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named_and_can_be_set_aside(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointDamaged, match=r"checkpoint\.pt cannot be read \(\w+\): it is damaged"):
        restore(folder, *parts())
    set_aside(folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"checkpoint.damaged": content}


@pytest.mark.parametrize("change", ["model", "progress", "nothing in it"])
def test_a_file_of_another_run_is_named(tmp_path: Path, change: str) -> None:
    folder = RunFolder(tmp_path)
    model, optimizer = parts()
    content = {
        "model": nn.Linear(4, 4).state_dict() if change == "model" else model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": {"stride": 4} if change == "progress" else vars(Progress()),
    }
    torch.save({} if change == "nothing in it" else content, folder.checkpoint)
    with pytest.raises(CheckpointDamaged, match="or not of this version"):
        restore(folder, *parts())


def test_a_hostile_file_is_not_executed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (victim,))

    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    torch.save({"model": Hostile()}, folder.checkpoint, pickle_module=pickle)
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        restore(folder, *parts())
    assert not victim.exists()
