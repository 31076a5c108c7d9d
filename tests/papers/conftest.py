"""A paper about digits, and a real study of it: small enough to be trained while the tests wait."""

from pathlib import Path

import pytest

from normscope.papers.judging.cell import Count, Paper
from normscope.studies import compare
from normscope.studies.spec import Arm, StudySpec
from support.digits_paper import SEEDS, InThisProcess, difference, make_studies, value


@pytest.fixture
def paper() -> Paper:
    first = difference(3.0, id="digits/none-layer_norm")
    return Paper(
        name="digits1998",
        title="Nobody (1998). Digits",
        cells=(first, value(2.5, id="digits/layer_norm"), value(1.0, id="mnist_mlp/layer_norm", task="mnist_mlp")),
        counts=(
            Count(
                id="worse",
                tables=("table1",),
                source="Table 1",
                says="no norm is worse on 1 of 1 data sets",
                cells=(first.id,),
                wanted=(-1,),
                published=1,
            ),
        ),
        studies=make_studies,
        stand_ins={},
        figures={},
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train layer norm on digits, eight seeds of 40 updates, and no norm at a rate at which it learns nothing."""
    out = tmp_path_factory.mktemp("papers") / "digits"
    card = StudySpec(
        question="Does it learn?",
        task="digits",
        arms=(Arm.parse("none", "pre", learning_rate=1e-6), Arm.parse("layer_norm", "pre")),
        baseline=1,
        margin=0.5,
        seeds=SEEDS,
        steps=40,
    )
    compare(card, out=out, engine=InThisProcess())
    return out


@pytest.fixture(scope="session")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train no norm at a learning rate that no number survives, and layer norm at its own."""
    out = tmp_path_factory.mktemp("papers") / "exploded"
    card = StudySpec(
        question="Does it explode?",
        task="digits",
        arms=(Arm.parse("none", "pre", learning_rate=1e18), Arm.parse("layer_norm", "pre")),
        baseline=1,
        margin=0.5,
        seeds=SEEDS[:6],
        steps=10,
    )
    compare(card, out=out, engine=InThisProcess())
    return out
