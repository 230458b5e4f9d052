import numpy as np
import pytest
import torch

import bnn
from bnn.integer import IntegerLayer, IntegerNet

NETWORKS = [
    ((9, 7, 3), (5, 33, 40)),
    ((8, 8, 1), (32, 64)),
    ((1, 1, 13), (31, 64, 1)),
    ((3, 5, 2), (4,)),
    ((2, 2, 1), (3, 7)),
]


def literal_layer(layer: IntegerLayer, x: np.ndarray) -> np.ndarray:
    """One image through one layer with Python loops and int64, from the definition."""
    n_out, kernel_h, kernel_w, _ = layer.weights.shape
    p = layer.padding
    border = 0 if layer.kind == "conv_u8" else -1
    x = np.pad(x.astype(np.int64), ((p, p), (p, p), (0, 0)), constant_values=border)
    rows, columns = x.shape[0] - kernel_h + 1, x.shape[1] - kernel_w + 1
    acc = np.empty((rows, columns, n_out), np.int64)
    for i in range(rows):
        for j in range(columns):
            for c in range(n_out):
                window = x[i : i + kernel_h, j : j + kernel_w]
                acc[i, j, c] = (window * layer.weights[c].astype(np.int64)).sum()
    if layer.bias is not None:
        acc += layer.bias
    pooled = np.empty(layer.output_shape, np.int64)
    for i in range(pooled.shape[0]):
        for j in range(pooled.shape[1]):
            s = layer.pool
            pooled[i, j] = acc[i * s : i * s + s, j * s : j * s + s].max(axis=(0, 1))
    if layer.threshold is None:
        return pooled
    return np.where((pooled >= layer.threshold) ^ layer.flip, 1, -1)


@pytest.mark.parametrize(("shape", "widths"), NETWORKS)
def test_equals_the_literal_definition(
    shape: tuple[int, int, int], widths: tuple[int, ...], randomise_norms
) -> None:
    net = bnn.BinaryConvNet(shape, 4, widths, seed=1)
    randomise_norms(net, np.random.default_rng(2))
    integer_net = bnn.integerize(net)
    images = np.random.default_rng(3).integers(0, 256, (5, *shape), dtype=np.uint8)
    logits = integer_net(images)
    assert logits.dtype == np.int32
    assert logits.shape == (5, 4)
    np.testing.assert_array_equal(logits, integer_net(images, exact=True))
    np.testing.assert_array_equal(logits, integer_net(images, batch_size=2))
    for image, expected in zip(images, logits, strict=True):
        x = image
        for layer in integer_net.layers:
            x = literal_layer(layer, x)
        np.testing.assert_array_equal(x.ravel(), expected)
    assert bnn.agreement(net, integer_net, images).n_bit_mismatches == 0


def test_float_logits_are_the_integers_times_the_scale(ragged) -> None:
    images = np.random.default_rng(3).integers(0, 256, (30, 9, 7, 3), dtype=np.uint8)
    integer_net = bnn.integerize(ragged)
    expected = integer_net(images).astype(np.float32) * np.float32(integer_net.output_scale)
    np.testing.assert_array_equal(bnn.predict_logits(ragged, images), expected)


def dense(kind: str, weights: list[list[int]], **fields: object) -> IntegerLayer:
    array = np.array(weights, np.int8)
    return IntegerLayer(
        name="dense",
        kind=kind,
        weights=array.reshape(len(array), 1, 1, -1),
        input_shape=(1, 1, array.shape[1]),
        **fields,
    )


def test_bounds_and_magnitude() -> None:
    pixels = dense("conv_u8", [[2, -3, 0]], bias=np.array([7], np.int32))
    assert [b.tolist() for b in pixels.bounds()] == [[-765 + 7], [510 + 7]]
    assert pixels.magnitude() == 255 * 5 + 7
    bits = dense("conv_b1_i8", [[2, -3, 0], [1, 1, 1]])
    assert [b.tolist() for b in bits.bounds()] == [[-5, -3], [5, 3]]
    assert bits.magnitude() == 5


@pytest.mark.parametrize(("n_in", "exponent"), [(518, 24), (519, 53)])
def test_sums_beyond_float32_are_still_exact(n_in: int, exponent: int) -> None:
    """519 products of 255 and 127 exceed 2^24, so the evaluation has to switch to float64."""
    layer = dense("conv_u8", [[127] * n_in, [127] * (n_in - 1) + [126]])
    assert (layer.magnitude() < 1 << 24) == (exponent == 24)
    images = np.full((1, 1, 1, n_in), 255, np.uint8)
    images[0, 0, 0, 0] = 254
    total = 255 * 127 * n_in - 127
    assert IntegerNet(layers=(layer,))(images).tolist() == [[total, total - 255]]


def test_accumulators_beyond_int32_are_refused() -> None:
    layer = dense("conv_u8", [[127] * 66_313])
    with pytest.raises(ValueError, match="dense: expected accumulators that fit int32, got up to"):
        IntegerNet(layers=(layer,))


def test_ties_go_to_the_lowest_index() -> None:
    net = IntegerNet(layers=(dense("conv_u8", [[1, 0], [1, 0], [0, 1]]),))
    assert net(np.array([[[[5, 5]]]], np.uint8)).argmax(axis=1).tolist() == [0]


def test_wrong_images_are_refused(ragged) -> None:
    integer_net = bnn.integerize(ragged)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 9, 7, 3\)"):
        integer_net(np.zeros((1, 9, 7, 1), np.uint8))
    with pytest.raises(TypeError, match="images: expected dtype uint8, got int64"):
        integer_net(np.zeros((1, 9, 7, 3), np.int64))


def test_the_network_is_read_only_to_the_oracle(ragged) -> None:
    before = {name: value.clone() for name, value in ragged.state_dict().items()}
    bnn.integerize(ragged)(np.zeros((1, 9, 7, 3), np.uint8))
    assert all(torch.equal(before[name], value) for name, value in ragged.state_dict().items())
