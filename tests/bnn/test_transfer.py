import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bnn import TrainConfig, fit
from bnn.hybrid import recalibrate
from bnn.layers import BinaryLayer
from bnn.models import Classifier, build_model
from bnn.transfer import (
    Backbone,
    Head,
    HeadConfig,
    PackedCodes,
    Target,
    compare_transfer,
    extract_codes,
    features,
    fine_tune,
    fresh_network,
    head_inputs,
    load_backbone,
    load_head,
    packed_bytes,
    quantised,
    save_backbone,
    save_head,
    train_head,
)
from kernels import Purpose, normal, uniform


def images_of(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    draws = uniform(seed, Purpose.DIAGNOSTICS, math.prod(shape), index=7)[0]
    return (draws * 256).astype(np.uint8).reshape(shape)


@pytest.fixture
def net() -> Classifier:
    made = build_model("binary_conv_net", (9, 7, 2), 5, (6, 33), seed=3)
    recalibrate(made, images_of((64, 9, 7, 2)))
    return made


@dataclass(frozen=True)
class Source:
    net: Classifier
    twin: Classifier
    target: Target


@pytest.fixture(scope="module")
def source(digits: object) -> Source:
    """Digits 0-4 are the source, 5-9 the target."""

    def part(
        images: NDArray[np.uint8], labels: NDArray[np.int64], least: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        rows = (labels >= least) & (labels < least + 5)
        return images[rows], labels[rows] - least

    train = part(digits.train_images, digits.train_labels, 0)
    nets = []
    for full_precision in (False, True):
        made = build_model("binary_conv_net", (8, 8, 1), 5, (32, 64), full_precision=full_precision)
        fit(made, *train, TrainConfig(epochs=5))
        nets.append(made)
    train_images, train_labels = part(digits.train_images, digits.train_labels, 5)
    test_images, test_labels = part(digits.test_images, digits.test_labels, 5)
    target = Target(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        n_classes=5,
    )
    return Source(nets[0], nets[1], target)


def test_features_are_the_last_sign_and_what_it_is_taken_of(net: Classifier) -> None:
    images = images_of((11, 9, 7, 2), seed=1)
    net.train()
    bits = features(net, images, batch_size=4)
    real = features(net, images, "pre_sign", batch_size=4)
    assert net.training
    net.eval()
    with torch.no_grad():
        expected = net.activations(torch.from_numpy(images))
        before = net.stages[1](expected[0])
    assert bits.shape == (11, 33 * 4 * 3)
    assert np.array_equal(bits, expected[-1].flatten(1).numpy())
    # Rounding of the normalisation between batch sizes in float32.
    np.testing.assert_allclose(real, before.flatten(1).numpy(), rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.where(real >= 0, 1, -1), bits)
    assert np.array_equal(bits, features(net, images))
    assert np.array_equal(
        features(net, images, code_name="signs.0"), expected[0].flatten(1).numpy()
    )
    assert np.array_equal(head_inputs(net, images), bits)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", ["binary_mlp", "react_resnet", "keyword_spotter"])
def test_packed_codes_are_those_of_the_simulated_network(name: str) -> None:
    shape = (1, 40, 40) if name == "keyword_spotter" else (16, 16, 3)
    net = build_model(name, shape, 4, seed=5)
    images = images_of((7, *shape), seed=2)
    recalibrate(net, images)
    backbone = Backbone(net)
    codes = extract_codes(backbone, images, batch_size=3)
    for module in backbone.net.modules():
        if isinstance(module, BinaryLayer):
            module.simulate = True
    signs = backbone.features(images)
    assert codes.n_bits == signs.shape[1]
    assert codes.words.shape == (7, -(-codes.n_bits // 64))
    assert codes.words.dtype == np.uint64
    # The products are the same integers; other sums of floats may differ by their order, so a
    # pre-activation of less than 1e-4 may have either sign.
    near_zero = np.abs(backbone.features(images, "pre_sign")) < 1e-4
    assert near_zero.mean() < 0.01
    assert ((codes.signs() == signs) | near_zero).all()
    assert np.array_equal(codes.signs(np.array([5, 0])), codes.signs()[[5, 0]])


def test_a_backbone_cannot_be_trained(net: Classifier) -> None:
    backbone = Backbone(net)
    before, images = backbone.digest, images_of((40, 9, 7, 2), seed=3)
    labels = np.arange(40) % 4
    state = {name: value.clone() for name, value in backbone.net.state_dict().items()}
    codes = extract_codes(backbone, images)
    train_head(codes, labels, 4, HeadConfig(epochs=2, n_hidden=8))
    fine_tune(backbone.net, images, labels, 4, config=HeadConfig(epochs=1))
    assert backbone.digest == before
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(state[name], value), name
    assert not any(module.training for module in backbone.net.modules())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.net.parameters())
    # It is a copy: the original may be trained on.
    with torch.no_grad():
        net.stages[1].conv.latent_weight.neg_()
    assert backbone.digest == before
    assert Backbone(net).digest != before


def test_the_digest_sees_signs_and_statistics_and_not_latent_magnitudes(net: Classifier) -> None:
    digest = Backbone(net).digest
    with torch.no_grad():
        net.stages[1].conv.latent_weight.mul_(0.5)
        assert Backbone(net).digest == digest
        net.stages[1].norm.running_mean[3] += 1e-3
        changed = Backbone(net).digest
        assert changed != digest
        net.stages[1].conv.latent_weight[2, 1, 0, 2].neg_()
        assert Backbone(net).digest not in (digest, changed)


def test_a_linear_head_is_the_minimum_of_logistic_regression() -> None:
    x = normal(1, Purpose.DIAGNOSTICS, 300 * 3)[0].reshape(300, 3) * [1, 40, 0.02] + [5, -9, 0]
    x = np.concatenate([x, np.full((300, 1), 7.0)], axis=1).astype(np.float32)
    noise = normal(2, Purpose.DIAGNOSTICS, 300)[0]
    labels = ((x[:, 0] - 5) + (x[:, 1] + 9) / 40 + 0.5 * noise > 0).astype(np.int64)
    config = HeadConfig(epochs=300, weight_decay=0.0, batch_size=300, learning_rate=0.05)
    head = train_head(x, labels, 2, config)
    with torch.no_grad():
        p = torch.softmax(head(torch.from_numpy(x)), dim=1)[:, 1].numpy()
    # At the minimum the residuals are orthogonal to every feature and to the constant.
    standard = (x[:, :3] - x[:, :3].mean(0)) / x[:, :3].std(0)
    assert np.abs(standard.T @ (p - labels) / 300).max() < 2e-3
    assert abs(float((p - labels).mean())) < 2e-3
    # The constant feature carries nothing, and its weight stayed 0.
    assert float(head.weights[0][:, 3].abs().max()) == 0.0
    again = train_head(x, labels, 2, config)
    assert all(
        torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True)
    )


def test_a_hidden_head_learns_what_no_linear_one_can() -> None:
    signs = np.where(normal(4, Purpose.DIAGNOSTICS, 800)[0].reshape(400, 2) >= 0, 1, -1)
    labels = (signs[:, 0] == signs[:, 1]).astype(np.int64)
    x = signs.astype(np.float32)
    hidden = train_head(x, labels, 2, HeadConfig(n_hidden=8, seed=1))
    linear = train_head(x, labels, 2)
    assert (hidden.predict(x) == labels).all()
    assert (linear.predict(x) == labels).mean() < 0.8
    other = train_head(x, labels, 2, HeadConfig(n_hidden=8, seed=2))
    assert not torch.equal(hidden.weights[0], other.weights[0])


def test_codes_and_their_signs_train_the_same_head(net: Classifier) -> None:
    backbone, images = Backbone(net), images_of((50, 9, 7, 2), seed=5)
    labels = np.arange(50) % 3
    codes = extract_codes(backbone, images)
    config = HeadConfig(epochs=3, batch_size=16)
    packed, plain = (train_head(x, labels, 3, config) for x in (codes, codes.signs()))
    for a, b in zip(packed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert packed.n_bytes() == 4 * (3 * 396 + 3)
    assert packed.n_bytes("int8") == 3 * 396 + 8 * 3
    assert Head(66, 3, 10).n_bytes() == 4 * (66 * 10 + 10 + 10 * 3 + 3)


def test_int8_heads_are_within_half_a_step_and_a_cache_is_refused_by_others(
    net: Classifier, tmp_path: Path
) -> None:
    backbone, images = Backbone(net), images_of((50, 9, 7, 2), seed=5)
    codes = extract_codes(backbone, images)
    head = train_head(codes, np.arange(50) % 3, 3, HeadConfig(epochs=3))
    step = head.weights[0].abs().amax(1, keepdim=True) / 127
    error = (quantised(head).weights[0] - head.weights[0]).abs()
    # Half a step, and the rounding of the division and the product.
    assert bool((error <= step * (0.5 + 1e-4)).all())
    assert float(error.max()) > 0
    save_head(head, tmp_path / "int8.npz", backbone, "int8")
    assert torch.equal(
        load_head(tmp_path / "int8.npz", backbone).weights[0], quantised(head).weights[0]
    )
    codes.save(tmp_path / "codes.npz")
    loaded = PackedCodes.load(tmp_path / "codes.npz", backbone)
    assert np.array_equal(loaded.words, codes.words)
    assert loaded.n_bits == codes.n_bits == 396
    other = Backbone(fresh_network(net, 5, seed=9))
    for load, file in ((PackedCodes.load, "codes.npz"), (load_head, "int8.npz")):
        with pytest.raises(ValueError, match=rf"{file}: expected codes or a head of backbone"):
            load(tmp_path / file, other)


def test_a_network_from_scratch_has_the_quantizer_of_its_model() -> None:
    made = build_model("binary_conv_net", (9, 7, 2), 5, (6, 33), quantizer="approx_sign")
    fresh = fresh_network(made, 3, seed=9)
    assert fresh.quantizer == "approx_sign"
    assert str(fresh.signs) == str(made.signs)
    assert str(fresh.signs) != str(build_model("binary_conv_net", (9, 7, 2), 5, (6, 33)).signs)


def test_one_backbone_on_disk_serves_two_heads(net: Classifier, tmp_path: Path) -> None:
    images = images_of((60, 9, 7, 2), seed=6)
    labels = {"parity": np.arange(60) % 2, "thirds": np.arange(60) % 3}
    backbone = Backbone(net)
    codes = extract_codes(backbone, images)
    expected = {}
    for name, targets in labels.items():
        head = train_head(codes, targets, int(targets.max()) + 1, HeadConfig(epochs=3, n_hidden=4))
        expected[name] = head.predict(codes)
        save_head(head, tmp_path / f"{name}.npz", backbone)
    save_backbone(backbone, tmp_path / "backbone.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "backbone.npz",
        "parity.npz",
        "thirds.npz",
    ]
    loaded = load_backbone(tmp_path / "backbone.npz", fresh_network(net, 5, seed=9))
    assert loaded.digest == backbone.digest
    own = extract_codes(loaded, images)
    assert np.array_equal(own.words, codes.words)
    for name in labels:
        head = load_head(tmp_path / f"{name}.npz", loaded)
        assert np.array_equal(head.predict(own), expected[name])
    narrow = build_model("binary_conv_net", (9, 7, 2), 5, (6, 32))
    with pytest.raises(ValueError, match=r"backbone.npz: expected the tensors of BinaryConvNet"):
        load_backbone(tmp_path / "backbone.npz", narrow)


def test_latent_weights_are_stored_as_bits(net: Classifier) -> None:
    floats = sum(v.numel() * 4 for v in net.state_dict().values())
    n_weights = net.stages[1].conv.latent_weight.numel()
    words = 33 * -(-n_weights // 33 // 32)
    assert packed_bytes(net) == floats - 4 * n_weights + 4 * words


def test_fine_tuning_changes_the_last_layers_and_nothing_before(net: Classifier) -> None:
    net = build_model("binary_conv_net", (9, 7, 2), 5, (6, 12, 33), seed=3)
    images = images_of((64, 9, 7, 2), seed=7)
    recalibrate(net, images)
    tuned = fine_tune(net, images, np.arange(64) % 3, 3, n_layers=1, config=HeadConfig(epochs=2))
    assert tuned.n_classes == 3
    assert tuned(torch.from_numpy(images[:2])).shape == (2, 3)
    old, new = net.state_dict(), tuned.state_dict()
    same = {
        name
        for name in new
        if old[name].shape == new[name].shape and torch.equal(old[name], new[name])
    }
    assert same == {name for name in new if name.startswith(("stages.0", "stages.1"))}
    assert float(new["stages.2.conv.latent_weight"].abs().max()) <= 1.0
    assert not any(module.training for module in tuned.modules())
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    head_only = fine_tune(
        net, images, np.arange(64) % 3, 3, n_layers=0, config=HeadConfig(epochs=1)
    ).state_dict()
    assert all(
        torch.equal(old[name], head_only[name]) for name in new if not name.startswith("head")
    )
    with pytest.raises(ValueError, match=r"n_layers: expected 0 ... 2 binary layers, got 3"):
        fine_tune(net, images, np.arange(64) % 3, 3, n_layers=3)


def test_digits_transfer_with_every_baseline(source: Source) -> None:
    result = compare_transfer(
        source.net,
        source.twin,
        source.target,
        head=HeadConfig(epochs=10),
        tuning=HeadConfig(epochs=3, learning_rate=0.005),
        scratch=TrainConfig(epochs=2),
    )
    assert [row.name for row in result.rows if not row.is_baseline] == [
        "bits, linear",
        "pre-sign, linear",
        "bits, hidden",
        "last 1 fine-tuned",
    ]
    assert [row.name for row in result.rows if row.is_baseline] == [
        "raw inputs, linear",
        "random bits, linear",
        "real twin, linear",
        "from scratch",
    ]
    bits, real = result.row("bits, linear"), result.row("pre-sign, linear")
    assert bits.accuracy >= 0.90
    assert bits.accuracy >= result.majority + 0.6
    assert real.accuracy >= bits.accuracy - 0.01
    assert (bits.code_bits, real.code_bits) == (256, 32 * 256)
    assert result.row("raw inputs, linear").code_bits == 8 * 64
    assert bits.head_bytes == 4 * (256 * 5 + 5)
    assert all(row.milliseconds > 0 for row in result.rows)
    table = str(result)
    assert all(row.name in table and f"{row.accuracy:.1%}" in table for row in result.rows)
    assert result.backbone_digest == Backbone(source.net).digest


def test_bad_input_is_refused(net: Classifier) -> None:
    x = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"labels: expected 0 ... 1, got 0 ... 2; number"):
        train_head(x, np.arange(3), 2)
    with pytest.raises(ValueError, match="expected one label per sample, got 3 and"):
        train_head(x, np.arange(2), 2)
    with pytest.raises(ValueError, match=r"where: expected 'bits' or 'pre_sign', got 'code'"):
        features(net, images_of((1, 9, 7, 2)), "code")
    with pytest.raises(ValueError, match="images: expected one or more"):
        features(net, images_of((0, 9, 7, 2)))
    with pytest.raises(ValueError, match="epochs: expected 1 or more, got 0"):
        HeadConfig(epochs=0)
    with pytest.raises(ValueError, match="expected a network that takes signs"):
        Backbone(build_model("binary_conv_net", (9, 7, 2), 5, (6,), full_precision=True))
