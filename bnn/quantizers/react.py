"""ReActNet's activations: a sign and a PReLU whose thresholds are learned per channel."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.quantizers.base import Quantizer
from bnn.quantizers.bireal import approx_sign


class RSign(Quantizer):
    r"""Sign with a learned shift per channel.

    .. math:: q(x)_c = \operatorname{sign}(x_c + b_c), \qquad
              \frac{\partial q_c}{\partial x_c} = \frac{\partial q_c}{\partial b_c}
              := 2 - 2|x_c + b_c| \text{ if } |x_c + b_c| \le 1 \text{ else } 0

    The threshold of the paper is :math:`-b_c`; b starts at 0, where this is
    :func:`~bnn.quantizers.approx_sign`.

    Parameters
    ----------
    n_channels
        C, the second axis of the input.
    binarize
        Sign with its pseudo-gradient. The default is the paper's and saves x for backward;
        :func:`~bnn.quantizers.ste_sign` saves one bit per element.

    References
    ----------
    .. [1] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    """

    def __init__(self, n_channels: int, binarize: Callable[[Tensor], Tensor] = approx_sign) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_channels))
        """b, shape (C,)."""
        self.binarize = binarize

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, shape (N, C, ...)."""
        return self.binarize(x + along_channels(self.shift, x))


class RPReLU(nn.Module):
    r"""PReLU with learned shifts of its input and its output; not a quantizer.

    .. math:: f(x)_c = \operatorname{PReLU}(x_c + m_c) + n_c, \qquad
              \operatorname{PReLU}(z) = z \text{ if } z > 0 \text{ else } s_c z

    with the gradient of these formulas. Shifts start at 0, slopes at 0.25.

    Parameters
    ----------
    n_channels
        C, the second axis of the input.

    References
    ----------
    .. [1] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(n_channels))
        """m, shape (C,)."""
        self.slope = nn.Parameter(torch.full((n_channels,), 0.25))
        """s, shape (C,)."""
        self.shift_out = nn.Parameter(torch.zeros(n_channels))
        """n, shape (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate ``x``, shape (N, C, ...)."""
        y = F.prelu(x + along_channels(self.shift_in, x), self.slope.to(x.dtype))
        return y + along_channels(self.shift_out, x)


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """``values``, shape (C,), in the dtype of ``like`` and broadcast along its second axis.

    Raises
    ------
    ValueError
        If ``like`` has no second axis of C.
    """
    if like.dim() < 2 or like.shape[1] != len(values):
        raise ValueError(
            f"x: expected shape (N, {len(values)}, ...), got {tuple(like.shape)}; "
            "build the module with the channels of its input"
        )
    return values.to(like.dtype).reshape(-1, *[1] * (like.dim() - 2))
