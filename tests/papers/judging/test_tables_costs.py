"""What arms cost, against the summary of the same folder."""

from pathlib import Path

import pytest

from normscope.papers.judging.tables import COST, cost_rows, costs
from normscope.results import summarize


@pytest.mark.slow
def test_costs_are_those_of_the_summary(trained: Path) -> None:
    told = costs(trained)
    for ours, arm in zip(told, summarize(trained).arms, strict=True):
        for name in ("label", "parameters", "step_ms", "peak_bytes", "saved_bytes"):
            assert ours[name] == getattr(arm, name)
    assert told[1]["parameters"] > told[0]["parameters"] > 0
    assert all(isinstance(one["step_ms"], float) for one in told)


def test_rows_leave_out_what_was_not_measured() -> None:
    whole = {"label": "none", "parameters": 1234, "step_ms": 1.2345, "peak_bytes": 2_500_000, "saved_bytes": 10**9}
    lost = {**dict.fromkeys(whole), "label": "ada_norm"}
    rows = cost_rows([whole, lost])
    assert rows == [("none", "1,234", "1.23", "2.5", "1,000.0"), ("ada_norm", "", "", "", "")]
    assert {len(row) for row in rows} == {len(COST)}
