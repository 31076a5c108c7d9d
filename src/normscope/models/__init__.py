"""Networks: each takes ``norm``, which makes a norm of a given width, and imports no norm."""

from normscope.models.convnet import ConvNet as ConvNet
from normscope.models.mlp import MLP as MLP
from normscope.models.residual_mlp import ResidualMLP as ResidualMLP
