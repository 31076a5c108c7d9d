"""One norm of every kind whose derivative is known, and the shape of its input."""

from torch import nn

from normscope import norms

MIXES_POSITIONS = {key for key in norms.NORMS if getattr(norms.NORMS[key](8), "mixes_positions", False)}
"""Norms whose moments are over the positions of a sample: frn, group_norm, instance_norm."""
NEEDS_POSITIONS = {"frn", "instance_norm"}
"""Those of them that do not take samples of one position."""
MAPS = (6, 8, 3, 5)
MADE = {
    "layer_norm": (lambda: nn.LayerNorm(8, eps=0.1), (6, 3, 8)),
    "rms_norm": (lambda: nn.RMSNorm(8, eps=0.1), (6, 3, 8)),
    "scale_norm": (lambda: norms.ScaleNorm(8), (6, 3, 8)),
    "ada_norm": (lambda: norms.AdaNorm(8, scale=1.5, k=0.2), (6, 3, 8)),
    "ada_norm released": (lambda: norms.AdaNorm(8, eps=0.1, convention="released"), (6, 3, 8)),
    "ada_norm attached": (lambda: norms.AdaNorm(8, scale=1.5, k=0.2, detach=False), (6, 3, 8)),
    "detach_norm": (lambda: norms.DetachNorm(8), (6, 3, 8)),
    "detach_norm mean": (lambda: norms.DetachNorm(8, std=False), (6, 3, 8)),
    "detach_norm std": (lambda: norms.DetachNorm(8, mean=False), (6, 3, 8)),
    "detach_norm held": (lambda: norms.DetachNorm(8, eps=0.1, hold_size=True), (6, 3, 8)),
    "detach_norm std held": (lambda: norms.DetachNorm(8, mean=False, hold_size=True), (6, 3, 8)),
    "batch_norm": (lambda: norms.BatchNorm(8), (6, 3, 8)),
    "batch_norm maps": (lambda: nn.BatchNorm2d(8), MAPS),
    "batch_norm fixed": (lambda: nn.BatchNorm2d(8).eval(), MAPS),
    "group_norm": (lambda: norms.GroupNorm(8), (6, 5, 8)),
    "group_norm maps": (lambda: nn.GroupNorm(4, 8), MAPS),
    "instance_norm": (lambda: norms.InstanceNorm(8), (6, 5, 8)),
    "instance_norm fixed": (lambda: norms.InstanceNorm(8, track_running_stats=True).eval(), (6, 5, 8)),
    "instance_norm maps": (lambda: nn.InstanceNorm2d(8, affine=True), MAPS),
}
