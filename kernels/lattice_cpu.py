"""Sweeps of Ising lattices in numpy, on whole words: the twin of ``cuda/lattice.cu``.

Bits, colours and random numbers are those of :mod:`kernels.lattice`. Neighbours are counted in bit
planes by full adders; which spins have which counts gives the plane of each bit of the thresholds.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.cuda_lattice import THRESHOLD_BITS, Thresholds
from kernels.philox import Purpose, philox4x32

_BLOCK_BITS: Final = 4
_FIRST_BITS: Final = 8
"""Drawn for all spins: they leave an eighth of the words with an undecided spin."""
_ONE: Final = np.uint32(1)
_CARRY: Final = np.uint32(31)


def sweep(
    black: Tensor,
    white: Tensor,
    thresholds: Thresholds,
    *,
    seed: int,
    n_sweeps: int,
    first_sweep: int,
) -> None:
    """Update tensors on the CPU in place, as :func:`kernels.cuda_lattice.sweep`."""
    colours = _words(black), _words(white)
    for number in range(first_sweep, first_sweep + n_sweeps):
        for colour in (0, 1):
            own, other = colours[colour], colours[1 - colour]
            own[...] = _drawn(other, thresholds, seed=seed, number=number, colour=colour)


def count_totals(black: Tensor, white: Tensor, *, in_time: bool) -> NDArray[np.int64]:
    """Count as :func:`kernels.cuda_lattice.count_totals`."""
    b, w = _words(black), _words(white)
    neighbours = np.roll(w, 1, axis=1), np.roll(w, -1, axis=1), w, _beside(w, 0)
    unlike_in_time = np.zeros(len(b), np.int64)
    if in_time:
        unlike_in_time += _ones(b ^ np.roll(w, -1, axis=0)) + _ones(w ^ np.roll(b, -1, axis=0))
    unlike = np.stack([_ones(b ^ words) for words in neighbours]).sum(axis=0)
    return np.stack([_ones(b) + _ones(w), unlike, unlike_in_time])


def _words(colour: Tensor) -> NDArray[np.uint32]:
    return colour.numpy().view(np.uint32)


def _ones(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Bits that are 1 in each slice."""
    ones: NDArray[np.int64] = np.bitwise_count(words).sum(axis=(1, 2), dtype=np.int64)
    return ones


def _beside(words: NDArray[np.uint32], colour: int) -> NDArray[np.uint32]:
    """Neighbours in the row of spins of ``colour`` whose compact index is not their own."""
    previous = words << _ONE | np.roll(words, 1, axis=2) >> _CARRY
    following = words >> _ONE | np.roll(words, -1, axis=2) << _CARRY
    slices, rows = np.ogrid[: words.shape[0], : words.shape[1]]
    is_following = (slices + rows + colour)[:, :, None] % 2 == 1
    return np.where(is_following, following, previous)


def _drawn(
    other: NDArray[np.uint32],
    thresholds: Thresholds,
    *,
    seed: int,
    number: int,
    colour: int,
) -> NDArray[np.uint32]:
    """Draw one colour: u and thresholds are compared from the highest bit down."""
    classes = _classes(other, colour, len(thresholds)).reshape(-1, other.size)
    levels = np.array(thresholds).reshape(-1)
    always = levels == 1 << THRESHOLD_BITS
    on = np.bitwise_or.reduce(classes[always], axis=0)
    undecided = np.bitwise_or.reduce(classes[~always & (levels > 0)], axis=0)
    slice_words = other.shape[1] * other.shape[2]
    for bits in (range(_FIRST_BITS), range(_FIRST_BITS, THRESHOLD_BITS)):
        active = np.flatnonzero(undecided)
        blocks = np.arange(bits.start // _BLOCK_BITS, bits.stop // _BLOCK_BITS)
        counter = np.empty((active.size, blocks.size, 4), np.uint32)
        counter[..., 0] = blocks
        counter[..., 1] = active[:, None] % slice_words
        counter[..., 2] = number
        counter[..., 3] = 2 * (active[:, None] // slice_words) + colour
        counter[..., 3] |= int(Purpose.GIBBS_VISIBLE) << 24
        random = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
        open_, up, spins = undecided[active], on[active], classes[:, active]
        for bit, r in zip(bits, random.reshape(active.size, len(bits)).T, strict=True):
            has_bit = levels >> (THRESHOLD_BITS - 1 - bit) & 1 == 1
            plane = np.bitwise_or.reduce(spins[has_bit], axis=0)
            up |= open_ & plane & ~r
            open_ &= ~(plane ^ r)
        undecided[active], on[active] = open_, up
    drawn: NDArray[np.uint32] = on.reshape(other.shape)
    return drawn


def _classes(other: NDArray[np.uint32], colour: int, n_time_classes: int) -> NDArray[np.uint32]:
    """Spins with n_time neighbours up in time and n in the slice: [n_time, n, slice, row, word].

    With one class in time the neighbours there do not count.
    """
    a, b = np.roll(other, 1, axis=1), np.roll(other, -1, axis=1)
    c, d = other, _beside(other, colour)
    odd, carry = a ^ b ^ c, a & b | c & (a | b)
    low, middle, high = odd ^ d, carry ^ odd & d, carry & odd & d
    in_slice = np.stack([~(low | middle | high), low & ~middle, middle & ~low, low & middle, high])
    if n_time_classes == 1:
        return in_slice[None]
    past, future = np.roll(other, 1, axis=0), np.roll(other, -1, axis=0)
    in_time = np.stack([~(past | future), past ^ future, past & future])
    classes: NDArray[np.uint32] = in_time[:, None] & in_slice
    return classes
