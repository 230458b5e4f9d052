"""Tokens that come as pixels, and the signs that a binary embedding gives them."""

from torch import Tensor, nn

from bnn.layers.binary_embedding import BinaryEmbedding
from bnn.layers.int8 import PIXEL_UNIT


class TokenEmbedding(nn.Module):
    """Binary embedding of an image (1, T, 1) whose pixels are the numbers of T tokens.

    Parameters
    ----------
    embedding
        Of at most 256 entries.

    Raises
    ------
    ValueError
        If there are more.
    """

    def __init__(self, embedding: BinaryEmbedding) -> None:
        super().__init__()
        if embedding.n_entries > 256:
            raise ValueError(
                f"embedding: expected at most 256 entries, tokens of a byte, "
                f"got {embedding.n_entries}"
            )
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """Look up ``x``, shape (N, 1, 1, T), token times ``PIXEL_UNIT``, to (N, n_dim, T), ±1.

        Raises
        ------
        ValueError
            If the shape is another, or a token has no entry.
        """
        if x.dim() != 4 or x.shape[1:3] != (1, 1):
            raise ValueError(f"x: expected shape (N, 1, 1, T), got {tuple(x.shape)}")
        tokens = (x[:, 0, 0] / PIXEL_UNIT).round().long()
        rows: Tensor = self.embedding(tokens)
        return rows.transpose(1, 2)
