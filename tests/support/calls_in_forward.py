"""A module whose forward calls norms as functions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import rms_norm


def helper(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x)
        x = F.layer_norm(x, (4,))
        x = torch.nn.functional.group_norm(x, 2)
        return self.more(rms_norm(x, (4,)))

    def more(self, x: Tensor) -> Tensor:
        loss = x.square().mean()
        return helper(x) + loss + self.norm(x.to(self.norm.weight.dtype)) * self.norm.bias

    def never_called(self, x: Tensor) -> Tensor:
        return F.normalize(x)
