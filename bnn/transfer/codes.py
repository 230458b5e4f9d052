"""Binary codes of many samples, packed: what heads are trained on instead of images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnn.transfer.backbone import Backbone
from kernels import pack, unpack


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedCodes:
    """One bit per feature and sample, with the digest of the network that made them."""

    words: NDArray[np.uint64]
    """Shape (N, ceil(n_bits / 64)), as :func:`kernels.pack` makes them; pad bits are 0."""
    n_bits: int
    """Features of a sample."""
    backbone_digest: str
    """Of the backbone."""

    def __len__(self) -> int:
        return len(self.words)

    def signs(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """±1 of some samples, shape (len(rows), n_bits), float32."""
        bits = unpack(np.ascontiguousarray(self.words[rows]), self.n_bits)
        return 2 * bits.astype(np.float32) - 1

    def save(self, path: Path | str) -> None:
        """Write as ``.npz``, without pickle."""
        with Path(path).open("wb") as file:
            np.savez(
                file,
                words=self.words,
                n_bits=np.int64(self.n_bits),
                backbone_digest=np.array(self.backbone_digest),
            )

    @classmethod
    def load(cls, path: Path | str, backbone: Backbone) -> "PackedCodes":
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the codes are another backbone's.
        """
        with np.load(path, allow_pickle=False) as stored:
            found = str(stored["backbone_digest"])
            check_digest(found, backbone, Path(path))
            return cls(words=stored["words"], n_bits=int(stored["n_bits"]), backbone_digest=found)


def extract_codes(
    backbone: Backbone, images: NDArray[np.uint8], *, batch_size: int = 256
) -> PackedCodes:
    """Pack the binary code of every image: ``n_bits`` bits instead of a float each.

    Parameters and errors are those of :func:`~bnn.transfer.features`.
    """
    parts = []
    for begin in range(0, max(len(images), 1), batch_size):
        signs = backbone.features(images[begin : begin + batch_size], batch_size=batch_size)
        parts.append(pack(signs))
    return PackedCodes(
        words=np.concatenate(parts), n_bits=signs.shape[1], backbone_digest=backbone.digest
    )


def check_digest(found: str, backbone: Backbone, path: Path) -> None:
    """Refuse what was made with another backbone.

    Raises
    ------
    ValueError
        If so.
    """
    if found != backbone.digest:
        raise ValueError(
            f"{path.name}: expected codes or a head of backbone {backbone.digest[:16]}, got "
            f"{found[:16]}; extract and train again with this backbone"
        )
