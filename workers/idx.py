"""Reader of the IDX format of the MNIST family: big-endian header, then unsigned bytes.

Header: two zero bytes, the type (8 = unsigned byte), the number of dimensions, then each
dimension as a 32-bit integer; LeCun, Cortes, Burges, The MNIST database of handwritten digits.
"""

import math

import numpy as np
from numpy.typing import NDArray

from workers.image_data import DataError

_UNSIGNED_BYTE = 8


def read_idx(payload: bytes, *, n_dims: int, origin: str) -> NDArray[np.uint8]:
    """Decode one IDX file of unsigned bytes.

    Parameters
    ----------
    payload
        The decompressed file.
    n_dims
        Dimensions expected: 3 for images, 1 for labels.
    origin
        Name of the file in error messages.

    Returns
    -------
    NDArray
        Read-only view of ``payload`` with ``n_dims`` axes.

    Raises
    ------
    DataError
        If the magic number, a dimension or the length is not what the format says.
    """
    header_size = 4 + 4 * n_dims
    if len(payload) < header_size:
        raise DataError(
            f"{origin}: expected an IDX header of {header_size} bytes, got {len(payload)} bytes; "
            "the file is cut off, get it again"
        )
    magic = bytes([0, 0, _UNSIGNED_BYTE, n_dims])
    if payload[:4] != magic:
        raise DataError(
            f"{origin}: expected IDX magic {magic.hex()} (unsigned bytes, {n_dims} dimensions), "
            f"got {payload[:4].hex()}; check that this is the right file"
        )
    dims = [int(size) for size in np.frombuffer(payload, dtype=">u4", count=n_dims, offset=4)]
    if 0 in dims:
        raise DataError(f"{origin}: expected dimensions above 0, got {dims}; get the file again")
    expected = header_size + math.prod(dims)
    if len(payload) != expected:
        raise DataError(
            f"{origin}: expected {expected} bytes for dimensions {dims}, got {len(payload)}; "
            "the file is damaged, get it again"
        )
    return np.frombuffer(payload, dtype=np.uint8, offset=header_size).reshape(dims)
