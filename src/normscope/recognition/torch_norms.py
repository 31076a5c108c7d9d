"""The norms of torch, which are known by their class."""

from torch import nn

OVER_FEATURES: dict[type[nn.Module], str] = {nn.LayerNorm: "layer_norm", nn.RMSNorm: "rms_norm"}
"""Those that normalize the last axes."""

FEATURES_ON_AXIS_1: dict[type[nn.Module], str] = {
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.SyncBatchNorm: "batch_norm",
    nn.GroupNorm: "group_norm",
    nn.InstanceNorm1d: "instance_norm",
    nn.InstanceNorm2d: "instance_norm",
    nn.InstanceNorm3d: "instance_norm",
}
"""Those that have a gain and a bias for every entry of axis 1."""

KINDS = {**OVER_FEATURES, **FEATURES_ON_AXIS_1}
"""From a class to what it is called here."""


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """Return the norm of torch that a module is, or is derived from; None for anything else.

    Args:
        module: Any module.
    """
    return next((kind for kind in KINDS if isinstance(module, kind)), None)
