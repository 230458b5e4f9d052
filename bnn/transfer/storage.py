"""One backbone and any number of heads on disk: ``.npz`` files without pickle.

The backbone's latent weights are stored as bits, and every head names the backbone it belongs to.
"""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bnn.models import Classifier
from bnn.quantizers import int8_scale, int8_weights
from bnn.transfer.backbone import Backbone, digest, packed_state
from bnn.transfer.codes import check_digest
from bnn.transfer.heads import Head, Precision
from kernels import unpack_bits

Network = TypeVar("Network", bound=Classifier)


def save_backbone(backbone: Backbone, path: Path | str) -> int:
    """Write the packed weights and statistics of a backbone; returns the bytes written."""
    arrays = packed_state(backbone.net)
    return _write(path, {"digest": np.array(backbone.digest), **_prefixed("net.", arrays)})


def load_backbone(path: Path | str, net: Classifier) -> Backbone:
    """Read what :func:`save_backbone` wrote into a network of the same architecture.

    Parameters
    ----------
    path
        The file.
    net
        A network built with the same class, shape and widths; changed in place: latent weights
        become ±1.

    Raises
    ------
    ValueError
        If names or shapes are not those of ``net``, or the file does not have its own digest.
    """
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    expected = str(arrays.pop("digest"))
    own = _prefixed("net.", packed_state(net))
    shapes = [{name: (a.shape, a.dtype) for name, a in x.items()} for x in (arrays, own)]
    if shapes[0] != shapes[1]:
        different = sorted(
            name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)
        )
        raise ValueError(
            f"{Path(path).name}: expected the tensors of {type(net).__name__}, differing in "
            f"{different[:4]}; build the network with the same shape and widths"
        )
    state = {}
    for name, value in net.state_dict().items():
        array = arrays[f"net.{name}"]
        if array.shape != tuple(value.shape) or array.dtype == np.uint32:
            bits = unpack_bits(array, value[0].numel())
            array = 2 * bits.astype(np.float32).reshape(tuple(value.shape)) - 1
        state[name] = torch.from_numpy(array)
    net.load_state_dict(state)
    if digest(net) != expected:
        raise ValueError(f"{Path(path).name}: expected digest {expected[:16]}; the file is damaged")
    return Backbone(net)


def save_head(
    head: Head, path: Path | str, backbone: Backbone, precision: Precision = "fp32"
) -> int:
    """Write a head of ``backbone``, weights as float32 or int8; returns the bytes written."""
    if precision not in ("fp32", "int8"):
        raise ValueError(f"precision: expected 'fp32' or 'int8', got {precision!r}")
    arrays: dict[str, NDArray[Any]] = {"digest": np.array(backbone.digest)}
    for number, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        arrays[f"bias_{number}"] = bias.detach().numpy()
        if precision == "fp32":
            arrays[f"weight_{number}"] = weight.detach().numpy()
        else:
            scale = int8_scale(weight, per_channel=True)
            integers = int8_weights(weight.detach(), scale)
            arrays[f"weight_{number}"] = integers.numpy().astype(np.int8)
            arrays[f"scale_{number}"] = scale.reshape(-1).numpy()
    return _write(path, arrays)


def load_head(path: Path | str, backbone: Backbone) -> Head:
    """Read what :func:`save_head` wrote.

    Raises
    ------
    ValueError
        If the head belongs to another backbone.
    """
    with np.load(path, allow_pickle=False) as stored:
        check_digest(str(stored["digest"]), backbone, Path(path))
        n_layers = sum(name.startswith("weight_") for name in stored.files)
        weights, biases = [], []
        for number in range(n_layers):
            weight = torch.from_numpy(stored[f"weight_{number}"].astype(np.float32))
            if f"scale_{number}" in stored.files:
                weight *= torch.from_numpy(stored[f"scale_{number}"]).reshape(-1, 1)
            weights.append(weight)
            biases.append(torch.from_numpy(stored[f"bias_{number}"]))
    head = Head(weights[0].shape[1], len(biases[-1]), len(biases[0]) if n_layers > 1 else 0)
    with torch.no_grad():
        for own, value in zip([*head.weights, *head.biases], [*weights, *biases], strict=True):
            own.copy_(value)
    return head.requires_grad_(False)


def _prefixed(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {prefix + name: array for name, array in arrays.items()}


def _write(path: Path | str, arrays: dict[str, NDArray[Any]]) -> int:
    path = Path(path)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path.stat().st_size
