"""A norm that does not fit is told before the first run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from normscope.data import DataNotFound
from normscope.norms import NORMS
from normscope.studies.compare import compare
from normscope.studies.preflight import ArmMisfit, preflight
from normscope.studies.spec import make_study
from support.made_norms import NEEDS_POSITIONS

MISFIT = r"arm frn cannot be trained on digits: .*got"


def test_every_other_norm_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    preflight(make_study("digits", norms=[name for name in NORMS if name not in NEEDS_POSITIONS]))


def test_a_misfit_is_named_with_its_reason_before_anything_is_written(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["layer_norm", "frn"], seeds=[0], steps=10)
    with pytest.raises(ArmMisfit, match=MISFIT):
        compare(study_spec, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_callers_random_numbers_are_untouched() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    preflight(make_study("digits", norms=["layer_norm"]))
    assert torch.equal(torch.rand(4), wanted)


SCORES = "return 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]])"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("return F.cross_entropy(model(batch[0]), batch[1])", "return batch.nonsense"), "has no attribute 'nonsense'"),
        (("return F.cross_entropy(model(batch[0]), batch[1])", "return model(batch[0])"), r"scalar tensor, got Tensor"),
        ((SCORES, "return parts[3]"), "KeyError: 3"),
        ((SCORES, "return parts[3] if part == 'test' else [1.0]"), "KeyError: 3"),
        ((SCORES, "return 'good'"), "evaluate must return numbers"),
        ((SCORES, "return [[1.0, 2.0]]"), "mean expects for every example 1"),
        (("nn.ReLU()", "nn.Linear(9, 9)"), "shapes cannot be multiplied"),
    ],
)
def test_what_a_user_wrote_wrongly_is_told_before_the_first_run(
    change: tuple[str, str], told: str, user_file: Callable[..., str], tmp_path: Path
) -> None:
    study_spec = make_study(user_file(change), norms=["layer_norm"], seeds=[0])
    with pytest.raises(ArmMisfit, match=rf"arm layer_norm cannot be trained on my_file.py:make: (?s:.*){told}"):
        compare(study_spec, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("driven", [False, True])
def test_a_users_file_that_is_right_passes(driven: bool, user_file: Callable[..., str]) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    preflight(make_study(user_file(driven=driven), norms=["layer_norm", "none", "ada_norm"]))
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize(("part", "name"), [("valid", "validation"), ("test", "test")])
def test_scores_that_are_not_finite_before_training_are_named(
    part: str, name: str, driven: bool, user_file: Callable[..., str]
) -> None:
    file = user_file((SCORES, f"return [1.0, float('nan') if part == {part!r} else 2.0]"), driven=driven)
    told = (
        f"the {name} score of 1 of 2 examples was not finite \\(the first: example 1, nan\\); a run in which .* scored"
    )
    with pytest.warns(UserWarning, match=told):
        preflight(make_study(file, norms=["layer_norm"], seeds=1))


def test_data_that_are_not_here_are_told_as_such(user_file: Callable[..., str]) -> None:
    change = ("    y = ", "    if seed == 5:\n        raise DataNotFound('no set')\n    y = ")
    top = ("from torch import nn\n", "from torch import nn\nfrom normscope.data import DataNotFound\n")
    with pytest.raises(DataNotFound, match="no set"):
        preflight(make_study(user_file(change, top), norms=["layer_norm"], seeds=[5]))


def test_what_is_wrong_in_tuning_only_is_told_too(user_file: Callable[..., str]) -> None:
    takes = ("def make(norm, placement, seed)", "def make(norm, placement, seed, split)")
    wrong = ("    y = ", "    if split == 'tune':\n        split.nonsense()\n    y = ")
    name = user_file(takes, wrong)
    preflight(make_study(name, norms=["layer_norm"]))
    with pytest.raises(ArmMisfit, match=r"split.nonsense"):
        preflight(make_study(name, norms=["layer_norm"], tune=True))


class Asserting(NORMS["layer_norm"]):  # pyright: ignore[reportGeneralTypeIssues,reportUntypedBaseClass]
    """A norm that fails in its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("only 99 dimensions")


@pytest.mark.parametrize("task", ["digits", "own"])
def test_an_error_in_somebodys_norm_names_the_arm_and_where_it_is_from(
    task: str, user_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NORMS, "asserting", Asserting)
    monkeypatch.setattr(NORMS, "_origins", {"asserting": "gentle-norms 0.2"})
    name = user_file() if task == "own" else task
    reason = r"AssertionError: only 99 dimensions \(asserting is defined by gentle-norms 0.2\)$"
    told = rf"arm asserting cannot be trained on (?s:.*){reason}"
    with pytest.raises(ArmMisfit, match=told):
        preflight(make_study(name, norms=["layer_norm", "asserting"], seeds=[0]))
    with pytest.raises(ArmMisfit, match=r"\(asserting is defined by gentle-norms 0.2\)$"):
        preflight(make_study("digits", norms=["layer_norm+asserting:final"], placements=["pre"], seeds=[0]))
