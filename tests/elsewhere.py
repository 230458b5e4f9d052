"""A device that is the CPU under another name, on which rooms are run: ``python elsewhere.py``.

A tensor there refuses to be mixed with one of the CPU and has no ``numpy()``, as one of a GPU would;
so what a training on a GPU would trip over is found without one. What is computed is the same, and
results are compared for equality; but the fused stages of the CPU round a binary network's statistics
otherwise than the plain modules of another device. test_devices.py runs this file in a process of its own, because
torch knows one such device at a time and for the whole process.
"""

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import bnn
import rbm

_setup_privateuseone_for_python_backend("elsewhere")
CPU, ELSEWHERE = torch.device("cpu"), torch.device("elsewhere", 0)
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """A tensor of that device; ``inner`` is the one of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        """Wrap a tensor of the CPU."""
        strides, offset = inner.stride(), inner.storage_offset()
        result: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=strides,
            storage_offset=offset,
            dtype=inner.dtype,
            device=ELSEWHERE,
        )
        result.inner = inner
        return result

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Do the same on the CPU, unless a tensor of the CPU is among the arguments."""
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        if function not in _MOVES:
            for tensor in tensors:
                if not isinstance(tensor, Elsewhere) and tensor.dim() > 0:
                    raise RuntimeError(f"{function}: expected tensors of one device, got two")
        goes_to_cpu = kwargs.get("device") == CPU
        if "device" in kwargs:
            kwargs["device"] = CPU
        own = {id(x.inner): x for x in tensors if isinstance(x, Elsewhere)}
        inner_args, inner_kwargs = tree_map(
            lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs)
        )
        result = function(*inner_args, **inner_kwargs)
        if function is torch.ops.aten.copy_.default:
            return args[0]
        if goes_to_cpu:
            return result

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return own[id(x)] if id(x) in own else Elsewhere(x)

        return tree_map(wrapped, result)


def _empty(size: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    return Elsewhere(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


_factories = torch.library.Library("aten", "IMPL")
_factories.impl("empty.memory_format", _empty, "PrivateUse1")
_factories.impl("empty_strided", _empty_strided, "PrivateUse1")


def _state(trainer: Any) -> dict[str, np.ndarray]:
    """What a checkpoint gets, after a round of saving and loading."""
    for _ in range(2):
        tensors, counters = trainer.state()
        trainer.load_state(tensors, counters)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def classifier(device: torch.device, *, full_precision: bool) -> list[Any]:
    """Steps of training, the state after them, and what an evaluation finds."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 9, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, 24)
    net = bnn.BinaryConvNet((8, 9, 3), 3, widths=(7, 32), full_precision=full_precision)
    net.to(device)
    trainer = bnn.Trainer(net, bnn.TrainConfig(epochs=2, batch_size=12), len(images))
    found: list[Any] = [trainer.train_step(images, labels) for _ in range(3)]
    found += [_state(trainer), bnn.predict_logits(net, images)]
    if not full_precision:
        found.append(bnn.agreement(net, bnn.integerize(net), images).integer_logits)
    return found


def machine(device: torch.device, **options: Any) -> list[Any]:
    """Updates, the state after them, and the likelihoods and completions of the machine."""
    rng = np.random.default_rng(0)
    visible = torch.from_numpy((rng.random((40, 33)) < 0.4).astype(np.uint8)).to(device)
    model = rbm.RBM(33, 22, seed=1).to(device)
    config = rbm.PCDConfig(epochs=3, batch_size=20, n_chains=9, **options)
    trainer = rbm.Trainer(model, config, len(visible))
    found: list[Any] = [trainer.train_step(visible) for _ in range(4)]
    found.append(_state(trainer))
    known = rbm.tasks.upper_half_known(3, 11).to(device)
    for n_hidden in (22, 5):  # by annealing and exactly
        part = rbm.RBM(33, n_hidden, seed=2).to(device)
        found.append(rbm.log_likelihood(part, visible, n_chains=5, n_temperatures=4))
    completed = rbm.tasks.complete(
        model, visible, known, base_bias=model.base_bias(visible), seed=3, n_steps=2
    )
    return [*found, {"completed": completed.visible.cpu().numpy()}]


def _check(what: str, run: Callable[[torch.device], list[Any]], tolerance: float = 0.0) -> None:
    expected, found = run(CPU), run(ELSEWHERE)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        _compare(b, a, tolerance, what)


def _compare(found: Any, expected: Any, tolerance: float, what: str) -> None:
    if not tolerance:
        np.testing.assert_equal(found, expected, err_msg=what)
        return
    if is_dataclass(expected):
        found, expected = asdict(found), asdict(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            _compare(found[name], value, tolerance, f"{what}, {name}")
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


FLOAT32_STEPS = 3 * 2.0**-20
"""Three steps of float32, each some roundings of 2^-24 away, on values of about 1."""


if __name__ == "__main__":
    for is_full in (False, True):
        tolerance = 0.0 if is_full else FLOAT32_STEPS
        _check(f"classifier, {is_full}", partial(classifier, full_precision=is_full), tolerance)
    for options in ({}, {"method": "cd", "weight_decay": 0.01}, {"centred": False}):
        _check(f"machine, {options}", partial(machine, **options))
    mixed = torch.ones(3).to(ELSEWHERE)
    for wrong in (lambda: mixed + torch.ones(3), mixed.numpy):
        try:
            wrong()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("expected an error, got a result of two devices")
