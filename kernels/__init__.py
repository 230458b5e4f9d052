"""Bitwise kernels."""
