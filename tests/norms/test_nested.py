"""Nested tensors, strided and jagged, are normalized as their parts are, forward and backward."""

import pytest
import torch
from torch import Tensor, nn

from normscope.norms import NORMS

SIZES = (3, 1, 5)


def parts(seed: int = 0, *, least: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(max(least, size), 8, generator=generator, dtype=torch.float64) for size in SIZES]


def by_parts(name: str, module: nn.Module, given: list[Tensor]) -> list[Tensor]:
    if name == "batch_norm":
        return list(module(torch.cat(given)).split(SIZES))
    return [module(one[None])[0] for one in given]


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", list(NORMS))
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_normalized_as_its_parts_are(name: str, layout: torch.layout) -> None:
    found = []
    for nested in (True, False):
        module = NORMS[name](8, dtype=torch.float64)
        # A single position of an instance has no variance, and is refused.
        least = 2 if name == "instance_norm" else 1
        leaves = [one.requires_grad_() for one in parts(least=least)]
        if nested:
            x = torch.nested.as_nested_tensor(leaves, layout=layout)
            y = module(x)
            assert (y.is_nested, y.layout) == (True, layout)
            out = list((y + x).unbind())
        else:
            out = [a + b for a, b in zip(by_parts(name, module, leaves), leaves, strict=True)]
        sum((one * g).sum() for one, g in zip(out, parts(1, least=least), strict=True)).backward()
        found.append([*out, *(one.grad for one in leaves), *(p.grad for p in module.parameters())])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_residual_is_added_and_one_that_is_not_alike_is_refused(layout: torch.layout) -> None:
    module = NORMS["rms_norm"](8, dtype=torch.float64)
    x = torch.nested.as_nested_tensor(parts(), layout=layout)
    residual = x * 0.5
    y, total = module(x, residual)
    for got, sums, a in zip(y.unbind(), total.unbind(), parts(), strict=True):
        torch.testing.assert_close(sums, a * 1.5, rtol=0, atol=0)
        torch.testing.assert_close(got, module(a * 1.5), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="expects a residual nested like its input"):
        module(x, torch.zeros(9, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expects \[..., 8\]"):
        module(torch.nested.as_nested_tensor([one[:, :7] for one in parts()], layout=layout))
