"""Vectors of RFC 3720, appendix B.4, and the usual check value."""

import pytest

from kernels.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_known_answers(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc
