"""An RMS norm made of a layer norm is that layer norm on centered rows, whatever its conventions."""

import pytest
import torch
from torch import Tensor, nn

from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import NormInModel
from normscope.norms import ChannelsFirst, LayerNorm, RMSNorm
from normscope.surgery.to_rms_norm.norms import BiasedRMSNorm, converted, make_exact, put_rms
from support.foreign import LayerNorm2d


class Offset(nn.Module):
    """A layer norm with the gain 1 + w that works in float32 within."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(6)), 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.float(), (6,), 1 + self.weight.float(), None, self.eps).to(x.dtype)


def known(module: nn.Module) -> NormInModel:
    norm = recognize(("0",), module)
    assert isinstance(norm, NormInModel)
    return norm


@pytest.mark.parametrize(
    ("make", "shape", "kind"),
    [
        (lambda: nn.LayerNorm(6, eps=1e-3), (5, 6), RMSNorm),
        (lambda: nn.LayerNorm(6, elementwise_affine=False), (5, 6), RMSNorm),
        (lambda: LayerNorm(6, weight=False), (5, 6), BiasedRMSNorm),
        (lambda: LayerNorm2d(6), (2, 6, 3, 5), ChannelsFirst),
        (lambda: ChannelsFirst(nn.LayerNorm(6)), (2, 6, 3, 5), ChannelsFirst),
        (Offset, (5, 6), RMSNorm),
    ],
)
def test_conventions(make, shape: tuple[int, ...], kind: type[nn.Module]) -> None:
    old = make().double()
    with torch.no_grad():
        for name, parameter in old.named_parameters():
            if kind is not RMSNorm or not name.endswith("bias"):
                parameter.uniform_(0.5, 1.5)
    x = torch.randn(shape, dtype=torch.float64)
    axis = 1 if len(shape) == 4 else -1
    x = x - x.mean(axis, keepdim=True)
    new = converted(known(old), old)
    assert isinstance(new, kind)
    # Float32 within the old one, in one case.
    torch.testing.assert_close(new(x), old(x), rtol=0, atol=1e-6 if isinstance(old, Offset) else 1e-12)


def test_exact_and_what_is_seen() -> None:
    model = nn.Sequential(Offset()).double()
    norm = known(model[0])
    x = torch.randn(5, 6, dtype=torch.float64)
    want = model(x)
    model[0].register_forward_hook(lambda module, given, z: z)
    make_exact(model, [norm])
    assert len(model[0]._forward_hooks) == 1
    assert type(model[0]) is LayerNorm
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-6)
    moments = put_rms(model, [norm])
    model(x - x.mean(-1, keepdim=True))
    model(x + 3)
    near, far = moments["0"]
    assert near < 1e-15
    assert far > 0.5
