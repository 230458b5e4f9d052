"""Adam on one flat vector: few lines, and a state that is two tensors and nothing else."""

import torch
from torch import Tensor


class Adam:
    r"""Adam with bias correction, algorithm 1 of [1]_.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
              v \leftarrow \beta_2 v + (1-\beta_2) g^2,
              \quad \Delta = -\eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    Element by element in a fixed order, so equal inputs give equal bytes on every worker.

    Parameters
    ----------
    n_parameters
        Length P of the flat vector of all parameters.
    betas
        Decay rates of the two moments.
    eps
        Added to the root of the second moment.
    device
        Of the moments; the CPU by default.

    References
    ----------
    .. [1] Kingma, Ba (2015), Adam: a method for stochastic optimization, arXiv:1412.6980.
    """

    def __init__(
        self,
        n_parameters: int,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        device: torch.device | None = None,
    ) -> None:
        self.betas = betas
        self.eps = eps
        self.first_moment = torch.zeros(n_parameters, device=device)
        """m, shape (P,), float32."""
        self.second_moment = torch.zeros(n_parameters, device=device)
        """v, shape (P,), float32."""

    def change(self, gradient: Tensor, step: int, learning_rate: float) -> Tensor:
        """Take in the gradient of step ``step`` (from 0) and return what to add, shape (P,)."""
        beta_1, beta_2 = self.betas
        self.first_moment.mul_(beta_1).add_(gradient, alpha=1 - beta_1)
        self.second_moment.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        root = (self.second_moment / (1 - beta_2 ** (step + 1))).sqrt_().add_(self.eps)
        return (self.first_moment / root).mul_(-learning_rate / (1 - beta_1 ** (step + 1)))
