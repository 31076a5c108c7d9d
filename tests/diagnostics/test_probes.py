"""The registry of probes: every entry is imported when it is looked up, and is what its package exports."""

import pytest

from normscope import analysis, diagnostics
from normscope.diagnostics import PROBES
from normscope.registry import UnknownName


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_is_what_its_package_exports(name: str) -> None:
    assert PROBES[name] is getattr(diagnostics, name, None) or PROBES[name] is getattr(analysis, name)


def test_a_misspelt_probe_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="there is no probe 'paritty': did you mean 'parity'"):
        PROBES["paritty"]
