"""Models of a few lines, one of each way to end, that stand for a library in the tests."""

import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from strangers.libraries import Attempt, Call

BATCH = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """A layer, a norm, a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last(self.norm(self.first(x)).relu())}


class WantsLayerNorm(Plain):
    """Has another shape as soon as its norm is not torch's."""

    shape_too = True

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = super().forward(x)["logits"]
        if type(self.norm) is not nn.LayerNorm:
            logits = logits[:, :2] if self.shape_too else logits / 0
        return {"logits": logits}


class DividesByZeroAfterASwap(WantsLayerNorm):
    """Is not finite as soon as its norm is not torch's."""

    shape_too = False


class HangsAfterASwap(Plain):
    """Waits for an hour as soon as its norm is not torch's."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if type(self.norm) is not nn.LayerNorm:
            time.sleep(3600)
        return super().forward(x)


class DiesAfterASwap(Plain):
    """Ends its process as soon as its norm is not torch's."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if type(self.norm) is not nn.LayerNorm:
            os._exit(3)
        return super().forward(x)


class TakesMemoryAfterASwap(Plain):
    """Asks for 40 GB as soon as its norm is not torch's."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if type(self.norm) is not nn.LayerNorm:
            torch.ones(10_000_000_000)
        return super().forward(x)


class DoesNotTrain(Plain):
    """Has an output that no parameter has a part in."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(x)["logits"].detach()}


class NotTheSameTwice(Plain):
    """Counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"logits": super().forward(x)["logits"] + self.calls}


class TakesLongToBuild(Plain):
    """Computes for a minute."""

    def __init__(self) -> None:
        super().__init__()
        end = time.process_time() + 60
        while time.process_time() < end:
            pass


class CannotBeCalled(Plain):
    """Raises."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("no forward here")


class WithoutNorm(nn.Sequential):
    """One layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    each.__name__: each
    for each in (
        *(
            Plain,
            WantsLayerNorm,
            DividesByZeroAfterASwap,
            HangsAfterASwap,
            DiesAfterASwap,
            TakesMemoryAfterASwap,
            DoesNotTrain,
        ),
        *(NotTheSameTwice, TakesLongToBuild, CannotBeCalled, WithoutNorm),
    )
}


def _attempts(name: str) -> Iterator[Attempt]:
    yield Attempt(how=name, build=MODELS[name], calls=lambda model: [Call(BATCH)])


LIBRARIES = {"tiny": (lambda: list(MODELS), _attempts)}
