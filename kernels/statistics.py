"""Products of packed states summed over a batch: the statistics of contrastive divergence.

States are (batch, units); their product v^T h runs along the batch. Both are transposed, so that
the batch lies in the words, and multiplied with the AND form.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.backends import kernel_target
from kernels.host import KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words
from kernels.matmul import Panels, empty_aligned, matmul, native_layout
from kernels.panels import WIDTH, Layout
from kernels.reference_sampling import transpose_bits_reference


def transpose_bits(
    words: NDArray[np.uint32], n_bits: int, *, library: KernelLibrary | None = None
) -> NDArray[np.uint32]:
    """Transpose a matrix of bits that is packed along its rows.

    Parameters
    ----------
    words
        Shape (n_rows, ceil(n_bits / 32)), uint32.
    n_bits
        True length of a row.
    library
        An emulator; its best back end runs. By default this machine's current back end.

    Returns
    -------
    NDArray
        Shape (n_bits, ceil(n_rows / 32)), uint32; bits past n_rows are zero.

    Raises
    ------
    TypeError
        If ``words`` is not uint32.
    ValueError
        If the number of words does not belong to ``n_bits``.
    BackendUnavailable
        If the back end that was asked for is absent.
    """
    _check("words", words, n_bits)
    target = kernel_target(library)
    if target is None:
        return transpose_bits_reference(words, n_bits)
    out = np.empty((n_bits, n_words(len(words), CHANNEL_WORD)), CHANNEL_WORD)
    source = np.ascontiguousarray(words)
    target.library.call("bsk_transpose_bits", target.code, source, len(words), n_bits, 1, out)
    return out


def batch_products(
    v_bits: NDArray[np.uint32],
    n_v: int,
    h_bits: NDArray[np.uint32],
    n_h: int,
    *,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    r"""How often two units are on together: states in {0, 1}, summed over the batch.

    .. math:: (v^\top h)_{ij} = \sum_b v_{bi} h_{bj} = \operatorname{popc}(v_{:i} \wedge h_{:j})

    Parameters
    ----------
    v_bits, h_bits
        Shapes (batch, ceil(n_v / 32)) and (batch, ceil(n_h / 32)), uint32.
    n_v, n_h
        Units of each.
    n_threads
        As :func:`kernels.matmul.matmul`.
    library
        As :func:`transpose_bits`.

    Returns
    -------
    NDArray
        Shape (n_v, n_h), int32.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As :func:`transpose_bits`; ValueError also if the batches differ.
    """
    _check("v_bits", v_bits, n_v)
    _check("h_bits", h_bits, n_h)
    batch = len(v_bits)
    if len(h_bits) != batch:
        raise ValueError(f"h_bits: expected batch {batch} (v_bits), got {len(h_bits)}")
    rows = transpose_bits(v_bits, n_v, library=library)
    return matmul(
        rows, _panels(h_bits, n_h, library), form="and", n_threads=n_threads, library=library
    )


def _panels(h_bits: NDArray[np.uint32], n_h: int, library: KernelLibrary | None) -> Panels:
    """The transposed states as columns of a product, in the order of lanes written at once."""
    batch, target = len(h_bits), kernel_target(library)
    if target is None or native_layout(target) is not Layout.LANES:
        return Panels.of(transpose_bits(h_bits, n_h, library=library), batch, library=library)
    width = WIDTH[Layout.LANES]
    data = empty_aligned((-(-n_h // width) * width * n_words(batch, CHANNEL_WORD),), CHANNEL_WORD)
    data[:] = 0  # columns that do not exist
    source = np.ascontiguousarray(h_bits)
    target.library.call("bsk_transpose_bits", target.code, source, batch, n_h, width, data)
    return Panels(data, n_h, batch, Layout.LANES)


def _check(name: str, words: NDArray[np.uint32], n_bits: int) -> None:
    if words.dtype != CHANNEL_WORD:
        raise TypeError(f"{name}: expected uint32, got {words.dtype}")
    expected = n_words(n_bits, CHANNEL_WORD)
    if n_bits < 0 or words.ndim != 2 or words.shape[1] != expected:
        raise ValueError(
            f"{name}: expected shape (n_rows, {expected}) for {n_bits} bits, got {words.shape}"
        )
