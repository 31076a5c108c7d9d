"""Normalization for PyTorch: layers, and the instruments to know which one a network needs.

* Layers stand where ``torch.nn.LayerNorm`` stood: ``normscope.AdaNorm(512)``.
* A study asks whether a norm helps: ``normscope.compare("digits", norms=["layer_norm", "rms_norm"], seeds=10)``, or
  ``normscope compare digits`` on the command line; ``normscope judge results.csv`` judges anybody's table of runs.
* A diagnosis looks at one model: ``normscope.diagnose(model, batch, loss)``.
* Surgery changes the norms of an existing model: ``normscope.swap(model, "layer_norm", "ada_norm")``.

Names and subpackages are imported at their first use: ``import normscope`` costs milliseconds, and reading results
needs no torch. Every exception that the package raises on purpose is a :class:`NormscopeError`.
"""

import importlib
import typing

from normscope.errors import NormscopeError as NormscopeError

if typing.TYPE_CHECKING:
    from normscope import (
        analysis,
        data,
        diagnostics,
        inspection,
        kernels,
        models,
        norms,
        papers,
        placement,
        recurrent,
        report,
        results,
        specs,
        studies,
        surgery,
        tasks,
        training,
    )
    from normscope.diagnostics import Diagnosis, Finding, diagnose
    from normscope.inspection import find_norms
    from normscope.norms import (
        FRN,
        AdaNorm,
        BatchNorm,
        Derf,
        DetachNorm,
        DyT,
        GroupNorm,
        InstanceNorm,
        LayerNorm,
        LayerNormSimple,
        NoNorm,
        RMSNorm,
        ScaleNorm,
        apply_weight_norm,
    )
    from normscope.placement import Placement
    from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from normscope.report import write_report
    from normscope.results import ArmSummary, RunSummary, Summary, judge, summarize
    from normscope.specs import NormSpec, PlacementSpec, find_task
    from normscope.studies import Arm, StudySpec, compare, make_study
    from normscope.surgery import (
        ConversionReport,
        SwapReport,
        norm_parameter_groups,
        norm_parameters,
        swap,
        to_rms_norm,
    )
    from normscope.tasks import Metric, Recipe, Task, Trial
    from normscope.version import __version__ as __version__

__all__ = [
    "FRN",
    "GRU",
    "LSTM",
    "RNN",
    "AdaNorm",
    "Arm",
    "ArmSummary",
    "BatchNorm",
    "ConversionReport",
    "Derf",
    "DetachNorm",
    "Diagnosis",
    "DyT",
    "Finding",
    "GRUCell",
    "GroupNorm",
    "InstanceNorm",
    "LSTMCell",
    "LayerNorm",
    "LayerNormSimple",
    "Metric",
    "NoNorm",
    "NormSpec",
    "NormscopeError",
    "Placement",
    "PlacementSpec",
    "RMSNorm",
    "RNNCell",
    "Recipe",
    "RunSummary",
    "ScaleNorm",
    "StudySpec",
    "Summary",
    "SwapReport",
    "Task",
    "Trial",
    "__version__",
    "analysis",
    "apply_weight_norm",
    "compare",
    "data",
    "diagnose",
    "diagnostics",
    "find_norms",
    "find_task",
    "inspection",
    "judge",
    "kernels",
    "make_study",
    "models",
    "norm_parameter_groups",
    "norm_parameters",
    "norms",
    "papers",
    "placement",
    "recurrent",
    "report",
    "results",
    "specs",
    "studies",
    "summarize",
    "surgery",
    "swap",
    "tasks",
    "to_rms_norm",
    "training",
    "write_report",
]

_NAMES = {
    "analysis": (),
    "data": (),
    "diagnostics": ("Diagnosis", "Finding", "diagnose"),
    "inspection": ("find_norms",),
    "kernels": (),
    "models": (),
    "norms": (
        *("FRN", "AdaNorm", "BatchNorm", "Derf", "DetachNorm", "DyT", "GroupNorm", "InstanceNorm", "LayerNorm"),
        *("LayerNormSimple", "NoNorm", "RMSNorm", "ScaleNorm", "apply_weight_norm"),
    ),
    "papers": (),
    "placement": ("Placement",),
    "recurrent": ("GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"),
    "report": ("write_report",),
    "results": ("ArmSummary", "RunSummary", "Summary", "judge", "summarize"),
    "specs": ("NormSpec", "PlacementSpec", "find_task"),
    "studies": ("Arm", "StudySpec", "compare", "make_study"),
    "surgery": ("ConversionReport", "SwapReport", "norm_parameter_groups", "norm_parameters", "swap", "to_rms_norm"),
    "tasks": ("Metric", "Recipe", "Task", "Trial"),
    "training": (),
}
"""The public subpackages, and the names that each lends to this one."""

_HOME = {name: home for home, names in _NAMES.items() for name in names}
_WITHOUT_TORCH = {"data", "report", "results"}
_OLDEST_TORCH = (2, 11)


def __getattr__(name: str) -> typing.Any:
    if name == "__version__":
        # Reading the metadata of the installed package takes longer than everything else here.
        return importlib.import_module("normscope.version").__version__
    home = _HOME.get(name, name)
    if home not in _NAMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}; it has {', '.join(__all__)}")
    if home not in _WITHOUT_TORCH:
        _require_torch()
    module = importlib.import_module(f"normscope.{home}")
    return module if name == home else getattr(module, name)


def __dir__() -> list[str]:
    return list(__all__)


def _require_torch() -> None:
    """Check that torch is there and not too old, instead of failing somewhere inside.

    Raises:
        ModuleNotFoundError: If there is no torch.
        ImportError: If it is older than this package can use.
    """
    oldest = ".".join(map(str, _OLDEST_TORCH))
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"normscope needs torch >= {oldest}, and torch is not installed. normscope never installs it, so as not to "
            "replace the build that fits your machine: see https://pytorch.org/get-started, or `pip install torch`."
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _OLDEST_TORCH:
        raise ImportError(f"normscope needs torch >= {oldest}, got {torch.__version__}")
