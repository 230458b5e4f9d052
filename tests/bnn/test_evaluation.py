import numpy as np
import pytest
import torch

import bnn

# The default network scores 95 to 96.5 % over seeds; the twin 95.5 to 97 %.
DIGITS_GATE = 0.93


def test_digits_gate(trained, digits) -> None:
    evaluation = bnn.evaluate(trained, digits.test_images, digits.test_labels)
    assert evaluation.n_samples == 450
    assert evaluation.accuracy >= DIGITS_GATE
    assert evaluation.accuracy == np.mean(evaluation.predictions == digits.test_labels)


def test_digits_gate_of_the_twin(digits) -> None:
    twin = bnn.BinaryConvNet((8, 8, 1), 10, full_precision=True)
    config = bnn.TrainConfig(epochs=12, batch_size=64)
    bnn.fit(twin, digits.train_images, digits.train_labels, config)
    evaluation = bnn.evaluate(twin, digits.test_images, digits.test_labels)
    assert evaluation.accuracy >= DIGITS_GATE


def test_bits_of_a_trained_network_agree(trained, digits) -> None:
    integer_net = bnn.integerize(trained)
    result = bnn.agreement(trained, integer_net, digits.test_images)
    n_bits_per_image = 4 * 4 * 32 + 2 * 2 * 64 + 2 * 2 * 128
    assert result.n_images == 450
    assert result.n_bits == 450 * n_bits_per_image
    # Sums are exact in both; only a normalised value within rounding of 0 may tip over.
    assert result.n_bit_mismatches <= 1e-6 * result.n_bits
    assert result.class_agreement == 1.0
    assert np.array_equal(result.integer_logits, integer_net(digits.test_images))


def test_agreement_counts_what_differs(ragged) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 7, 3), dtype=np.uint8)
    integer_net = bnn.integerize(ragged)
    assert bnn.agreement(ragged, integer_net, images).n_bit_mismatches == 0
    with torch.no_grad():
        ragged.stages[-1].norm.weight.neg_()
        ragged.stages[-1].norm.bias.neg_()
    different = bnn.agreement(ragged, integer_net, images)
    # Every bit of the last stage, 4 x 3 pixels of 40 channels, is inverted.
    assert different.n_bit_mismatches == 20 * 4 * 3 * 40
    assert different.class_agreement < 1.0


def test_layers_are_compared_in_units(ragged) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 7, 3), dtype=np.uint8)
    labels = np.arange(20) % 5
    integer_net = bnn.integerize(ragged)
    found = bnn.agreement(ragged, integer_net, images, labels, batch_size=7)
    assert [layer.n_values for layer in found.layers] == [20 * 60, 20 * 396, 20 * 480, 20 * 5]
    assert [layer.is_bits for layer in found.layers] == [True, True, True, False]
    assert found.layers[-1].unit == integer_net.output_scale
    assert found.layers[-1].largest < 1e-2  # float32 logits, of accumulators below 2^13
    accuracy = float(np.mean(integer_net(images).argmax(1) == labels))
    assert found.integer_accuracy == found.float_accuracy == accuracy
    with torch.no_grad():
        ragged.head.bias += 3 * integer_net.output_scale
    shifted = bnn.agreement(ragged, integer_net, images).layers[-1]
    assert shifted.largest == pytest.approx(3, abs=1e-2)
    assert shifted.rms == pytest.approx(3, abs=1e-2)
    assert shifted.n_mismatches == shifted.n_values
    lines = str(found).splitlines()
    assert len(lines) == 1 + 4 + 2
    assert lines[-2] == "same class: 100.00% of 20 images"
    assert lines[-1] == f"accuracy: {accuracy:.2%} in floats, {accuracy:.2%} in integers"
    with pytest.raises(ValueError, match="labels: expected 20, one per image, got 3"):
        bnn.agreement(ragged, integer_net, images, labels[:3])


def test_predictions_do_not_depend_on_the_batch_size(ragged) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 7, 3), dtype=np.uint8)
    images.setflags(write=False)
    logits = bnn.predict_logits(ragged, images)
    assert logits.shape == (20, 5)
    np.testing.assert_array_equal(logits, bnn.predict_logits(ragged, images, batch_size=7))
    np.testing.assert_array_equal(logits.argmax(1), bnn.integerize(ragged)(images).argmax(1))


def test_training_mode_is_left_as_it_was(ragged) -> None:
    images = np.zeros((2, 9, 7, 3), np.uint8)
    for mode in (True, False):
        ragged.train(mode)
        bnn.predict_logits(ragged, images)
        bnn.agreement(ragged, bnn.integerize(ragged), images)
        assert ragged.training is mode


def test_loss_is_cross_entropy(ragged) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 3, 4, 0])
    logits = bnn.predict_logits(ragged, images).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(6), labels].mean()
    assert bnn.evaluate(ragged, images, labels).loss == pytest.approx(expected, rel=1e-5)


def test_wrong_arguments_are_refused(ragged) -> None:
    images = np.zeros((2, 9, 7, 3), np.uint8)
    with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
        bnn.predict_logits(ragged, images, batch_size=0)
    with pytest.raises(ValueError, match="expected equal numbers above 0, got 2 and 3"):
        bnn.evaluate(ragged, images, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="images: expected one or more, got none"):
        bnn.agreement(ragged, bnn.integerize(ragged), images[:0])
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 9, 7, 3\)"):
        bnn.predict_logits(ragged, images[:, :8])
