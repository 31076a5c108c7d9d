"""A norm that does not fit is told before the first run."""

from pathlib import Path

import pytest
import torch

from normscope.catalogue import NORMS
from normscope.study import make_card
from normscope.study.compare import compare
from normscope.study.preflight import ArmMisfit, preflight

MISFIT = r"arm frn cannot be trained on digits: .*got"


def test_every_other_norm_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    preflight(make_card("digits", norms=[name for name in NORMS if name != "frn"]))


def test_a_misfit_is_named_with_its_reason_before_anything_is_written(tmp_path: Path) -> None:
    card = make_card("digits", norms=["layer_norm", "frn"], seeds=[0], steps=10)
    with pytest.raises(ArmMisfit, match=MISFIT):
        compare(card, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_callers_random_numbers_are_untouched() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    preflight(make_card("digits", norms=["layer_norm"]))
    assert torch.equal(torch.rand(4), wanted)
