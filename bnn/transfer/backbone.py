"""A frozen binary network as a feature extractor: one set of bits that serves many tasks."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.hybrid.graph import device_of, evaluation_mode, layer_graph
from bnn.hybrid.inputs import before_sign, binary_inputs, convolution_of
from bnn.layers import BinaryLayer
from bnn.models import Classifier
from kernels import pack_bits

Where = Literal["bits", "pre_sign"]
"""The last sign of a network, or the real numbers that it is taken of."""


class Backbone:
    """A copy of a trained network that nothing can train.

    Its parameters take no gradient, its normalisations use their running statistics, and it is no
    ``nn.Module``, so that the ``train()`` and ``parameters()`` of a larger network miss it.

    Parameters
    ----------
    net
        A binary classifier; what follows its last sign is not used.

    Raises
    ------
    ValueError
        If the network takes no sign of an activation.

    References
    ----------
    .. [1] Leroux et al. (2017), Transfer learning with binary neural networks, arXiv:1711.10761.
    """

    def __init__(self, net: Classifier) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.code_name = list(binary_inputs(self.net))[-1]
        """Full name of the last sign, whose output is the code."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything the network computes with, binary weights as bits; hexadecimal."""
        return digest(self.net)

    def features(
        self, images: NDArray[np.uint8], where: Where = "bits", *, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Features of images; parameters, returns and errors as :func:`features`."""
        return features(self.net, images, where, code_name=self.code_name, batch_size=batch_size)


def features(
    net: Classifier,
    images: NDArray[np.uint8],
    where: Where = "bits",
    *,
    code_name: str | None = None,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Binary code of images, or the real numbers before its sign.

    Parameters
    ----------
    net
        A binary classifier, used with its running statistics; nothing of it changes.
    images
        Shape (N, H, W, C), uint8.
    where
        "bits": ±1, the output of the last sign; "pre_sign": what the sign is taken of, in a plain
        network the output of the batch normalisation.
    code_name
        Name of another sign.
    batch_size
        Images at a time; bounds memory.

    Returns
    -------
    NDArray
        Shape (N, n_features), float32: (C, H, W) in that order, flattened.

    Raises
    ------
    ValueError, TypeError
        If the place is unknown, the network takes no sign, or the images are not fit for it.
    """
    if where not in ("bits", "pre_sign"):
        raise ValueError(f"where: expected 'bits' or 'pre_sign', got {where!r}")
    name = code_name or list(binary_inputs(net))[-1]

    def pick(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Tensor:
        x: Tensor = output if where == "bits" else before_sign(module, arguments[0])
        return x

    return _watch(net, images, name, pick, batch_size)


def head_inputs(
    net: Classifier, images: NDArray[np.uint8], *, batch_size: int = 256
) -> NDArray[np.float32]:
    """What the last layer of any classifier is given, such as a full-precision twin.

    Parameters and errors are those of :func:`features`.

    Returns
    -------
    NDArray
        Shape (N, n_features), float32.
    """

    def pick(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Tensor:
        x: Tensor = arguments[0]
        return x

    return _watch(net, images, head_name(net), pick, batch_size)


def head_name(net: Classifier) -> str:
    """Full name of the last layer with weights."""
    modules = dict(net.named_modules())
    names = [str(node.target) for node in layer_graph(net).nodes if node.op == "call_module"]
    weighted = [name for name in names if any(p.dim() > 1 for p in modules[name].parameters())]
    return weighted[-1]


def binary_layer_names(net: Classifier) -> list[str]:
    """Full names of the layers with binary weights, in order of evaluation."""
    modules = dict(net.named_modules())
    names = [str(node.target) for node in layer_graph(net).nodes if node.op == "call_module"]
    found = [name for name in names if isinstance(convolution_of(modules[name]), BinaryLayer)]
    return list(dict.fromkeys(found))


def packed_state(net: nn.Module) -> dict[str, NDArray[Any]]:
    """All that a network computes with, by name; latent weights as bits where signs are enough.

    A latent weight is 32-bit words per row of its last axis, packed, under its name; one whose
    magnitude counts (a scale, a third level) is floats like everything else.
    """
    packed = _packed_names(net)
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in net.state_dict().items():
        array = value.detach().cpu().numpy()
        arrays[name] = pack_bits(array.reshape(len(array), -1)) if name in packed else array
    return arrays


def packed_bytes(net: nn.Module) -> int:
    """Bytes of :func:`packed_state`."""
    return sum(array.nbytes for array in packed_state(net).values())


def digest(net: Classifier) -> str:
    """SHA-256 of class, shape and :func:`packed_state`, hexadecimal: equal for equal functions."""
    identity = f"{type(net).__name__} {net.input_shape} {net.widths}"
    sha = hashlib.sha256(identity.encode())
    for name, array in packed_state(net).items():
        sha.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _packed_names(net: nn.Module) -> set[str]:
    """Names of the latent weights of which the network uses nothing but the sign."""
    names = set()
    for prefix, module in net.named_modules():
        if isinstance(module, BinaryLayer):
            quantizer = module.weight_quantizer
            if quantizer.levels == (-1.0, 1.0) and not quantizer.is_scaled:
                if type(quantizer).__name__ not in _SHIFTING:
                    names.add(f"{prefix}.latent_weight" if prefix else "latent_weight")
    return names


_SHIFTING = ("IRNetSign", "ReCUSign", "StochasticSign", "RSign")
"""Quantizers whose output is not the sign of the latent weight itself."""


def _watch(
    net: Classifier,
    images: NDArray[np.uint8],
    name: str,
    pick: Callable[[nn.Module, tuple[Any, ...], Any], Tensor],
    batch_size: int,
) -> NDArray[np.float32]:
    """What ``pick`` takes of the calls of one module, all images in order, a row each."""
    if not len(images):
        raise ValueError("images: expected one or more, got none")
    rows: list[NDArray[np.float32]] = []

    def collect(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        rows.append(pick(module, arguments, output).flatten(1).to(torch.float32).cpu().numpy())

    handle = net.get_submodule(name).register_forward_hook(collect)
    try:
        with evaluation_mode(net), torch.no_grad():
            for begin in range(0, len(images), batch_size):
                batch = torch.from_numpy(images[begin : begin + batch_size].copy())
                net(batch.to(device_of(net)))
    finally:
        handle.remove()
    return np.concatenate(rows)
