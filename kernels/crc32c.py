"""CRC-32C (Castagnoli), the checksum of model files: zlib has only the older polynomial."""

_REFLECTED_POLYNOMIAL = 0x82F63B78


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_REFLECTED_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data`` as RFC 3720 defines it: initial value and final XOR all ones."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _TABLE[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
