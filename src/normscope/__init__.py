"""Normalization for PyTorch: layers, and the instruments to know which one a network needs.

Layers stand where ``torch.nn.LayerNorm`` stood: ``normscope.AdaNorm(512)``. A study asks whether one of them helps:
``normscope.compare(card)``, or ``normscope compare digits`` on the command line. A diagnosis looks at one model:
``normscope.diagnose(model, batch, loss)``. ``normscope.swap(model, "layer_norm", "ada_norm")`` puts a norm into a model
that is already there.

Nothing is imported before it is used: ``import normscope`` costs milliseconds, and reading results needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from normscope.version import __version__ as __version__

if TYPE_CHECKING:
    from normscope.diagnostics import Diagnosis, diagnose
    from normscope.norms import (
        FRN,
        AdaNorm,
        BatchNorm,
        Derf,
        DetachNorm,
        DyT,
        LayerNorm,
        LayerNormSimple,
        NoNorm,
        RMSNorm,
        ScaleNorm,
        apply_weight_norm,
    )
    from normscope.results import Summary
    from normscope.studies import Arm, StudySpec, compare, make_study
    from normscope.surgery import norm_parameter_groups, norm_parameters, swap, to_rms_norm
    from normscope.tasks import Metric, Recipe, Trial

__all__ = [
    "FRN",
    "AdaNorm",
    "Arm",
    "BatchNorm",
    "Derf",
    "DetachNorm",
    "Diagnosis",
    "DyT",
    "LayerNorm",
    "LayerNormSimple",
    "Metric",
    "NoNorm",
    "RMSNorm",
    "Recipe",
    "ScaleNorm",
    "StudySpec",
    "Summary",
    "Trial",
    "apply_weight_norm",
    "compare",
    "diagnose",
    "make_study",
    "norm_parameter_groups",
    "norm_parameters",
    "swap",
    "to_rms_norm",
]

_HOME = {
    **dict.fromkeys(("Arm", "StudySpec", "compare", "make_study"), "studies"),
    "Summary": "results",
    **dict.fromkeys(("Diagnosis", "diagnose"), "diagnostics"),
    **dict.fromkeys(("Metric", "Recipe", "Trial"), "tasks"),
    **dict.fromkeys(("norm_parameter_groups", "norm_parameters", "swap", "to_rms_norm"), "surgery"),
}
_OLDEST_TORCH = (2, 11)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = _HOME.get(name, "norms")
    if home != "results":
        _require_torch()
    return getattr(import_module(f"normscope.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _require_torch() -> None:
    """Say what to do where torch is absent or too old, instead of failing somewhere inside.

    Raises:
        ModuleNotFoundError: If there is no torch.
        ImportError: If it is older than this package can use.
    """
    oldest = ".".join(map(str, _OLDEST_TORCH))
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"normscope needs torch >= {oldest}, and there is none here. It is not installed for you, so that it never "
            "replaces the build that fits your machine: see https://pytorch.org/get-started, or `pip install torch`."
        ) from error
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < _OLDEST_TORCH:
        raise ImportError(f"normscope needs torch >= {oldest}, got {torch.__version__}")
