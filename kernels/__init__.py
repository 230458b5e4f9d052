"""Bits and machines: packing, random numbers, the model file and the runtime that executes it.

Compiling and emulating are commands as well as functions, so they are imported from their modules:
:mod:`kernels.build` and :mod:`kernels.emulate`.
"""

from pathlib import Path

from kernels.errors import BackendUnavailable, ModelFormatError
from kernels.model import JSON, DType, Model, Op, OpCode, Tensor, logical_digest, output_shape
from kernels.model_format import read_model, write_model
from kernels.native import Runtime
from kernels.origin import check_origin
from kernels.packing import pack, pack_bits, unpack, unpack_bits
from kernels.panels import Layout
from kernels.philox import Purpose, normal, permutation, random_words, uniform
from kernels.reference import run_model
from kernels.version import __version__

__all__ = [
    "JSON",
    "BackendUnavailable",
    "DType",
    "Layout",
    "Model",
    "ModelFormatError",
    "Op",
    "OpCode",
    "Purpose",
    "Runtime",
    "Tensor",
    "__version__",
    "logical_digest",
    "normal",
    "output_shape",
    "pack",
    "pack_bits",
    "permutation",
    "random_words",
    "read_model",
    "run_model",
    "uniform",
    "unpack",
    "unpack_bits",
    "write_model",
]

check_origin(Path(__file__).parent)
