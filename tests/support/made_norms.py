"""One norm of every kind whose derivative is known, and the shape of its input."""

from torch import nn

from normscope import norms

MAPS = (6, 8, 3, 5)
MADE = {
    "layer_norm": (lambda: nn.LayerNorm(8, eps=0.1), (6, 3, 8)),
    "rms_norm": (lambda: nn.RMSNorm(8, eps=0.1), (6, 3, 8)),
    "scale_norm": (lambda: norms.ScaleNorm(8), (6, 3, 8)),
    "ada_norm": (lambda: norms.AdaNorm(8, scale=1.5, k=0.2), (6, 3, 8)),
    "ada_norm released": (lambda: norms.AdaNorm(8, eps=0.1, convention="released"), (6, 3, 8)),
    "detach_norm": (lambda: norms.DetachNorm(8), (6, 3, 8)),
    "detach_norm mean": (lambda: norms.DetachNorm(8, std=False), (6, 3, 8)),
    "detach_norm std": (lambda: norms.DetachNorm(8, mean=False), (6, 3, 8)),
    "batch_norm": (lambda: norms.BatchNorm(8), (6, 3, 8)),
    "batch_norm maps": (lambda: nn.BatchNorm2d(8), MAPS),
    "batch_norm fixed": (lambda: nn.BatchNorm2d(8).eval(), MAPS),
    "group_norm": (lambda: nn.GroupNorm(4, 8), MAPS),
    "instance_norm": (lambda: nn.InstanceNorm2d(8, affine=True), MAPS),
}
