"""Training the last binary layers and a new head; everything before them stays frozen."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from bnn.hybrid.graph import device_of, layer_graph
from bnn.layers import BatchNorm, BinaryLayer
from bnn.models import Classifier
from bnn.transfer.backbone import binary_layer_names, head_name
from bnn.transfer.heads import HeadConfig
from kernels import permutation


def fresh_network(net: Classifier, n_classes: int, seed: int) -> Classifier:
    """An untrained network of the architecture of ``net``, for other classes."""
    made = type(net)(
        net.input_shape,
        n_classes,
        widths=net.widths,
        seed=seed,
        full_precision=net.full_precision,
        quantizer=net.quantizer,
    )
    return made.to(device_of(net))


def with_new_head(net: Classifier, n_classes: int, seed: int = 0) -> Classifier:
    """A copy of ``net`` whose last layer is new and has ``n_classes`` outputs."""
    made = fresh_network(net, n_classes, seed)
    prefix = head_name(net) + "."
    own, state = made.state_dict(), net.state_dict()
    made.load_state_dict(
        {name: own[name] if name.startswith(prefix) else state[name] for name in own}
    )
    return made.eval()


def modules_from(net: Classifier, n_layers: int) -> list[nn.Module]:
    """Layers of ``net`` from the ``n_layers``-th last binary one on, in order of evaluation.

    Raises
    ------
    ValueError
        If there are not so many.
    """
    names = binary_layer_names(net)
    if not 0 <= n_layers <= len(names):
        raise ValueError(f"n_layers: expected 0 ... {len(names)} binary layers, got {n_layers}")
    called = [str(node.target) for node in layer_graph(net).nodes if node.op == "call_module"]
    first = names[-n_layers] if n_layers else head_name(net)
    modules = dict(net.named_modules())
    begin = called.index(first)
    before = set(called[:begin])
    return [modules[name] for name in dict.fromkeys(called[begin:]) if name not in before]


def fine_tune(
    net: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n_layers: int = 1,
    config: HeadConfig | None = None,
) -> Classifier:
    """Copy a network, give it a new head, and train that and the last binary layers.

    Latent weights are trained straight-through and clipped after each step; normalisations from
    the first trained layer on follow the batches, those before it stay in evaluation mode, and no
    parameter before it takes a gradient. The network has to come with its latent weights: one that
    was stored as bits has forgotten how far each is from a change of sign.

    Parameters
    ----------
    net
        A trained binary network; it is not changed.
    images, labels
        Of the target, shapes (N, H, W, C) uint8 and (N,) in 0 ... n_classes - 1.
    n_classes
        Of the target.
    n_layers
        K, binary layers that are trained; 0 trains the head alone.
    config
        Epochs, batch size, rate and seed; its hidden layer and weight decay are not used.

    Returns
    -------
    Classifier
        Of the same class, in evaluation mode, its parameters trainable again.

    Raises
    ------
    ValueError
        If there are not so many binary layers, fewer than two images, or labels out of range.
    """
    config = config or HeadConfig(learning_rate=0.005)
    if len(images) < 2 or len(images) != len(labels):
        raise ValueError(
            f"images, labels: expected equal numbers above 1, got {len(images)} and {len(labels)}"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"labels: expected 0 ... {n_classes - 1}, got {labels.min()} ... {labels.max()}"
        )
    tuned = with_new_head(net, n_classes, config.seed).requires_grad_(False)
    trained = modules_from(tuned, n_layers)
    for module in trained:
        module.requires_grad_(True).train()
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    submodules = [part for module in trained for part in module.modules()]
    batch_size = min(config.batch_size, len(images))
    n_steps = config.epochs * (len(images) // batch_size)
    for step in range(n_steps):
        epoch, batch = divmod(step, len(images) // batch_size)
        rows = permutation(config.seed, len(images), epoch=epoch)
        rows = rows[batch * batch_size : (batch + 1) * batch_size]
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        _step(tuned, optimizer, submodules, images[rows], labels[rows], rate)
    return tuned.requires_grad_(True).eval()


def _step(
    net: Classifier,
    optimizer: torch.optim.Adam,
    submodules: list[nn.Module],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rate: float,
) -> None:
    device = device_of(net)
    for group in optimizer.param_groups:
        group["lr"] = rate
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    loss = F.cross_entropy(net(torch.from_numpy(images).to(device)), targets)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for module in submodules:
        if isinstance(module, BinaryLayer):
            module.clip_latent()
        elif isinstance(module, BatchNorm):
            module.update_running(module.batch_mean, module.batch_var)
