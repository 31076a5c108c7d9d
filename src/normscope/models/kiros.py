"""Layers that start as in the code of Kiros et al. (2015), which that of the order embeddings shares."""

import torch
from torch import nn

from normscope.recurrent import GRU

SCALE = 0.1
"""Weights are drawn uniformly from -0.1 to 0.1."""


class KirosGRU(GRU):
    """A GRU with the initial weights of Kiros' code: uniform, orthogonal for every gate's ``U``, biases zero."""

    def reset_parameters(self) -> None:
        """Draw the weights, and set the norms as their constructors do."""
        super().reset_parameters()
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)
                elif "_hh_" in name:
                    for gate in parameter.chunk(3):
                        nn.init.orthogonal_(gate)
                else:
                    nn.init.uniform_(parameter, -SCALE, SCALE)


class UniformEmbedding(nn.Embedding):
    """Embeddings drawn uniformly from -0.1 to 0.1."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, -SCALE, SCALE)


class UniformLinear(nn.Linear):
    """A linear map with weights drawn uniformly from -0.1 to 0.1, and biases of zero."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, -SCALE, SCALE)
        nn.init.zeros_(self.bias)
