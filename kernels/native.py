"""Runs model files with the C runtime, loaded by ctypes; the calls release the GIL."""

import ctypes
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.backends import BACKENDS, Backend, forced_backend, has_dot_product
from kernels.errors import BackendUnavailable, ModelFormatError
from kernels.model import JSON, DType, Tensor
from kernels.model_format import read_model
from kernels.packing import pack_bits
from kernels.reference import run_model

_MODEL_WORDS = 8  # sizeof(bs_model) / 8
_IMAGE_DTYPES = {
    DType.U8: np.dtype(np.uint8),
    DType.I8: np.dtype(np.int8),
    DType.I32: np.dtype(np.int32),
    DType.BITS: np.dtype(np.uint8),
}


class Library:
    """The functions of ``c/bitspin.h``, with addresses as integers.

    Parameters
    ----------
    path
        Shared library built by :func:`kernels.build.build_library` for this machine.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        address, n_bytes = ctypes.c_void_p, ctypes.c_uint64
        self._open = library.bs_open
        self._open.argtypes, self._open.restype = [address, address, n_bytes], ctypes.c_int
        self._run = library.bs_run
        self._run.argtypes, self._run.restype = [address] * 4, ctypes.c_int
        self._set_backend = library.bs_set_backend
        self._set_backend.argtypes = [address, ctypes.c_uint32]
        self._set_backend.restype = ctypes.c_int
        self._sizes = (library.bs_arena_bytes, library.bs_input_bytes, library.bs_output_count)
        for function in self._sizes:
            function.argtypes, function.restype = [address], n_bytes
        self._strerror = library.bs_strerror
        self._strerror.argtypes, self._strerror.restype = [ctypes.c_int], ctypes.c_char_p

    def open(self, data: bytes, backend: Backend | None = None) -> "OpenModel":
        """Check ``data`` with the C reader.

        Parameters
        ----------
        data
            A whole model file.
        backend
            What runs it; by default the fastest that the library finds on this processor.

        Raises
        ------
        ModelFormatError
            With the sentence of ``bs_strerror``.
        BackendUnavailable
            If this processor does not have the back end.
        """
        file = np.zeros(-(-len(data) // 8), np.uint64)  # 8-byte aligned
        file.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        handle = np.zeros(_MODEL_WORDS, np.uint64)
        self._check(self._open(handle.ctypes.data, file.ctypes.data, len(data)))
        if backend is not None and self._set_backend(handle.ctypes.data, backend.code):
            raise BackendUnavailable(f"backend {backend.name}: needs {backend.needs}")
        return OpenModel(self, handle, file)

    def sizes(self, handle: NDArray[np.uint64]) -> tuple[int, int, int]:
        """Arena bytes, input bytes and number of output values of an open model."""
        arena, n_input, n_output = (int(f(handle.ctypes.data)) for f in self._sizes)
        return arena, n_input, n_output

    def run(self, handle: int, arena: int, source: int, output: int) -> None:
        """Run one input; all arguments are addresses."""
        self._check(self._run(handle, arena, source, output))

    def _check(self, error: int) -> None:
        if error:
            message = self._strerror(error).decode()
            raise ModelFormatError(f"model: refused by the C runtime: {message}")


class OpenModel:
    """A model that the C reader has accepted, with the memory it lies in.

    Constant, so several threads may run it; every call of :meth:`run` has its own arena.
    """

    def __init__(
        self, library: Library, handle: NDArray[np.uint64], file: NDArray[np.uint64]
    ) -> None:
        self._library, self._handle, self._file = library, handle, file
        self._handle_address = handle.ctypes.data
        self.arena_bytes, self.input_bytes, self.output_count = library.sizes(handle)

    def run(self, inputs: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Run every row of ``inputs``, shape (N, input_bytes); returns (N, output_count)."""
        inputs = np.ascontiguousarray(inputs)
        outputs = np.empty((len(inputs), self.output_count), np.int32)
        arena = np.empty(-(-self.arena_bytes // 8), np.uint64)
        memory, source, target = arena.ctypes.data, inputs.ctypes.data, outputs.ctypes.data
        for i in range(len(inputs)):
            self.run_at(memory, source + i * self.input_bytes, target + i * 4 * self.output_count)
        return outputs

    def run_at(self, arena: int, source: int, output: int) -> None:
        """Run one input; the arguments are addresses, aligned as ``bitspin.h`` asks."""
        self._library.run(self._handle_address, arena, source, output)


class Runtime:
    """A model file, ready to classify images on this machine.

    Parameters
    ----------
    model
        Contents of a ``.bspn`` file, or its path.
    library
        Compiled runtime; by default it is built for this machine, or taken from the cache.

    Raises
    ------
    ModelFormatError
        If the file is damaged or not a model; the message names the field.
    BackendUnavailable
        If no library was given and none can be built.

    Notes
    -----
    May be shared by threads. The Python reader checks the file first, because it names the field
    that is wrong and checks the logical digest; the C reader then checks it again. A back end that
    is forced (:mod:`kernels.backends`) when the object is made runs it; ``reference`` is numpy.
    """

    def __init__(self, model: bytes | Path | str, library: Path | None = None) -> None:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        parsed = read_model(data)
        self.metadata: dict[str, JSON] = parsed.metadata
        self.input = parsed.tensors[0]
        self.n_out = prod(parsed.tensors[parsed.ops[-1].out].dims)
        self._run: Callable[[NDArray[Any]], NDArray[np.int32]]
        backend = forced_backend()
        if backend is not None and backend.code is None:
            self._run = partial(run_model, parsed)
            return
        if library is None:
            # Here, because `python -m kernels.build` must not find its module already imported.
            from kernels.build import build_library

            library = build_library("host")
        if backend is None and has_dot_product():
            backend = BACKENDS["dotprod"]
        opened = Library(library).open(data, backend)
        source = self.input
        self._run = lambda images: opened.run(_encode(source, images))

    def __call__(self, images: NDArray[Any]) -> NDArray[np.int32]:
        """Run a batch of images.

        Parameters
        ----------
        images
            Shape (N, H, W, C), of the dtype of the model's input: uint8, int8 or int32; uint8 0 and
            1 if that is packed bits.

        Returns
        -------
        NDArray
            Shape (N, n_out), int32, exact.

        Raises
        ------
        TypeError, ValueError
            If dtype, shape or values are not those of the model's input.
        """
        _check_images(self.input, images)
        return self._run(images)


def encode_images(tensor: Tensor, images: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of ``images`` as the model's input ``tensor`` wants them, shape (N, input bytes).

    Raises
    ------
    TypeError, ValueError
        If dtype, shape or values are not those of the tensor.
    """
    _check_images(tensor, images)
    return _encode(tensor, images)


def _encode(tensor: Tensor, images: NDArray[Any]) -> NDArray[np.uint8]:
    if tensor.dtype is DType.BITS:
        images = pack_bits(images.astype(np.bool_))
    octets = np.ascontiguousarray(images).view(np.uint8)
    return octets.reshape(len(images), tensor.n_bytes)


def _check_images(tensor: Tensor, images: NDArray[Any]) -> None:
    dtype = _IMAGE_DTYPES[tensor.dtype]
    if images.dtype != dtype:
        raise TypeError(f"images: expected dtype {dtype}, got {images.dtype}")
    if images.ndim != 4 or images.shape[1:] != tensor.dims:
        expected = ", ".join(map(str, tensor.dims))
        raise ValueError(f"images: expected shape (N, {expected}), got {images.shape}")
    if tensor.dtype is DType.BITS and images.size and images.max() > 1:
        raise ValueError(f"images: expected bits 0 and 1, got {images.max()}")
