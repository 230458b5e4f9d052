"""Products of packed states summed over a batch, on CUDA: :mod:`kernels.statistics`."""

from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.cuda_matmul import matmul
from kernels.cuda_packing import check_words, transpose_bits, transpose_to_panels


def batch_products(
    launcher: Launcher, visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int
) -> Tensor:
    r"""Count how often two units are on together.

    .. math:: c_{ij} = \sum_b v_{bi} h_{bj} = \operatorname{popc}(v_{:i} \wedge h_{:j})

    Parameters
    ----------
    launcher
        Where to run; the states are there.
    visible, hidden
        Shapes (batch, ceil(n_visible / 32)) and (batch, ceil(n_hidden / 32)), int32 words.
    n_visible, n_hidden
        Units.

    Returns
    -------
    Tensor
        Shape (n_visible, n_hidden), int32.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together.

    Notes
    -----
    Both are transposed, so that the batch lies in the words, and multiplied with the AND form.
    """
    check_words("visible", visible, n_visible)
    check_words("hidden", hidden, n_hidden)
    if visible.ndim != 2 or hidden.ndim != 2 or len(visible) != len(hidden):
        raise ValueError(
            "visible, hidden: expected two matrices of equally many rows, "
            f"got shapes {tuple(visible.shape)} and {tuple(hidden.shape)}"
        )
    rows = transpose_bits(launcher, visible, n_visible)
    panels = transpose_to_panels(launcher, hidden, n_hidden)
    return matmul(launcher, rows, panels, len(visible), n_hidden, "and")
