"""What a training step saves for backward, counted with hooks over distinct storages."""

import torch

from bnn.bench import saved_bytes
from bnn.bench_nets import PackedNet, PlainNet
from bnn.layers import BinaryConv2d, ConvNorm, Int8Conv2d, Sign, run_stages


def _data(n: int):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 28, 28, 1), generator=draws, dtype=torch.uint8)
    return images, torch.randint(0, 10, (n,), generator=draws)


def test_the_whole_net_saves_an_eighth_of_plain_torch() -> None:
    images, labels = _data(32)
    plain, packed = (saved_bytes(net, images, labels) for net in (PlainNet(), PackedNet()))
    assert plain > 25_000_000  # 32 of 128 images; four tensors of floats per layer
    assert packed * 8 <= plain


def _saved(module, x) -> dict[str, int]:
    kept: list[torch.Tensor] = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run_stages([module], [Sign()], x)
    owned = [p.data_ptr() for p in module.parameters()]
    return sum(t.nbytes for t in kept if t.data_ptr() not in owned)


def test_a_binary_stage_saves_its_sums_in_16_bits_their_choices_and_bits() -> None:
    module = ConvNorm(BinaryConv2d(64, 32, kernel=3, padding=1), 32, pool=2)
    x = torch.ones(4, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    n_outputs = 4 * 4 * 4 * 32
    assert _saved(module, x) == 4 * 8 * 8 * 64 // 8 + n_outputs // 8 + 3 * n_outputs


def test_an_int8_stage_saves_its_pixels_and_a_bit_of_each_output() -> None:
    module = ConvNorm(Int8Conv2d(1, 32, kernel=3, padding=1), 32)
    x = torch.ones(4, 1, 8, 8)
    weights = 32 * 9 * 4 + 32 * 4  # the int8 weights as floats, and their scales
    assert _saved(module, x) == 4 * 8 * 8 * 4 + 4 * 8 * 8 * 32 // 8 + weights
