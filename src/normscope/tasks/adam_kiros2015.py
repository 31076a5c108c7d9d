"""Adam as the code of skip-thoughts has it: decay rates taken for their complements, and so no bias correction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class AdamKiros2015(torch.optim.Optimizer):
    r"""Adam of the published code of skip-thoughts and of order embeddings.

    .. math::
        m_t = b_1 g_t + (1 - b_1) m_{t-1}, \quad v_t = b_2 g_t^2 + (1 - b_2) v_{t-1}, \quad
        w_t = (1 - \gamma \lambda) w_{t-1}
        - \gamma \frac{\sqrt{1 - b_2^t}}{1 - b_1^t} \, \frac{m_t}{\sqrt{v_t} + \epsilon}

    with :math:`b_1 = 1 - \beta_1 = 0.1` and :math:`b_2 = 1 - \beta_2 = 0.001`. Adam corrects by :math:`1 - \beta_1^t`
    and :math:`1 - \beta_2^t`; with b in the place of beta both are nearly 1 at once, and nothing is corrected. The
    first update is 3.5 times, and later ones up to 6.6 times, as large as Adam's with a constant gradient.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate gamma.
        betas: Decay rates beta of the moments, as in Adam.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay lambda, which the published code does not have.

    References:
        Kiros et al. (2015). Skip-thought vectors. arXiv:1506.06726, the file training/optim.py of its code.
        Kingma, Ba (2015). Adam. arXiv:1412.6980, whose equations have the decay rates beta.
        Departs from it in: decoupled weight decay, if asked for.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # pyright: ignore
        """Make an update of all parameters that have a gradient.

        Args:
            closure: Computes the loss again, with gradients.

        Returns:
            What ``closure`` returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            b1, b2 = (1 - beta for beta in group["betas"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
                state["step"] += 1
                first, second = 1 - b1 ** state["step"], 1 - b2 ** state["step"]
                m, v = state["m"], state["v"]
                m.lerp_(parameter.grad, b1)
                v.mul_(1 - b2).addcmul_(parameter.grad, parameter.grad, value=b2)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-group["lr"] * second**0.5 / first)
        return loss
