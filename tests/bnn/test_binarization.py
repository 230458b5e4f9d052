import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnn
from bnn.binarization import Binarization, ModuleClassifier, binarize
from bnn.layers import (
    BatchNorm,
    BinaryConv2d,
    BinaryEmbedding,
    BinaryLinear,
    BinaryLSTMCell,
    Int8Conv2d,
    Int8Head,
    Sign,
)
from tests.bnn.integer_twins import assert_twins_agree


class LeNet(nn.Module):
    """Functions and a view in forward, no normalisation, dropout in both forms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding="same")
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x), inplace=True), 2)
        x = self.drop(x.view(x.size(0), -1))
        x = F.dropout(self.fc1(x).relu(), 0.2, training=self.training)
        return self.fc2(x)


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1:
            down = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.down = nn.Sequential(down, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.down is None else self.down(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += shortcut
        return self.relu(y)


class ResNet(nn.Module):
    """As torchvision writes it: activations in place, one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.block1, self.block2 = Block(8, 8, 1), Block(8, 16, 2)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.block2(self.block1(self.stem(x)))), 1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 10)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": LeNet, "resnet": ResNet, "mlp": mlp}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def signs(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], shape)).float()


def reals(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def trained(name: str, digits) -> tuple[ModuleClassifier, list[float]]:
    net, _ = binarize(seeded(NETWORKS[name]), input_shape=(8, 8, 1))
    classifier = ModuleClassifier(net, (8, 8, 1), 10)
    config = bnn.TrainConfig(steps=30, batch_size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropouts that stay
        infos = bnn.fit(classifier, digits.train_images, digits.train_labels, config)
    return classifier, [info.loss for info in infos]


@pytest.fixture(scope="module", params=NETWORKS)
def converted(request: pytest.FixtureRequest, digits) -> tuple[ModuleClassifier, list[float]]:
    return trained(request.param, digits)


def test_what_is_converted_trains(converted) -> None:
    losses = converted[1]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])


def test_what_is_converted_ships(converted, digits) -> None:
    net = converted[0]
    integer_net = bnn.integerize(net)
    images = digits.test_images[:40]
    logits = assert_twins_agree(integer_net, images)
    agreement = bnn.agreement(net, integer_net, images)
    assert agreement.n_bit_mismatches == 0
    assert (logits.argmax(axis=1) == bnn.predict_logits(net, images).argmax(axis=1)).mean() > 0.97


def cells(report: Binarization) -> list[tuple[str, str, str]]:
    return [(row.layer, row.was, row.now) for row in report.rows]


def test_the_report_of_a_lenet() -> None:
    net, report = binarize(LeNet(), input_shape=(8, 8, 1))
    assert cells(report) == [
        ("conv1", "Conv2d", "Int8Conv2d"),
        ("conv1_norm", "", "BatchNorm"),
        ("relu", "ReLU", ""),
        ("conv2_sign", "", "Sign"),
        ("conv2", "Conv2d", "BinaryConv2d"),
        ("conv2_norm", "", "BatchNorm"),
        ("relu_1", "ReLU", ""),
        ("view", "view", "flatten"),
        ("drop", "Dropout", ""),
        ("fc1_sign", "", "Sign"),
        ("fc1", "Linear", "BinaryLinear"),
        ("fc1_norm", "", "BatchNorm"),
        ("relu_2", "relu", "relu"),
        ("dropout", "Dropout", "Dropout"),
        ("fc2", "Linear", "Int8Head"),
    ]
    assert [row.layer for row in report.unchanged] == ["relu_2", "dropout"]
    assert all(row.why for row in report.unchanged)
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "was", "is", "why"]
    assert lines[2].split()[:4] == ["conv1_norm", "-", "BatchNorm", "sums"]
    assert lines[-1].startswith("note: statistics")
    assert len(lines) == 1 + 15 + 1
    assert {type(module).__name__ for module in net.modules()} >= {"Sign", "BinaryConv2d"}


def test_the_order_is_convolution_pool_norm_sign() -> None:
    net, _ = binarize(LeNet(), input_shape=(8, 8, 1))
    order = [node.name for node in net.graph.nodes if node.op != "output"]
    assert order[1:9] == [
        *("conv1", "max_pool2d_2", "conv1_norm", "conv2_sign"),
        *("conv2", "max_pool2d_3", "conv2_norm", "view_1"),
    ]  # fmt: skip


def test_a_residual_stream_keeps_its_activation_and_signs_read_what_is_before_it() -> None:
    """A ReLU in place would also rectify what the sign reads, and the sign be +1 everywhere."""
    net, report = binarize(seeded(ResNet), input_shape=(8, 8, 1))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("block1.conv1_sign", "stem.1", "stem.2", "block1.conv1"):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.__setitem__(name, (args[0].clone(), out))
        )
    net.eval()(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    normalised = seen["stem.1"][1]
    assert (normalised < 0).any()
    torch.testing.assert_close(seen["stem.2"][1], normalised.clamp(min=0), rtol=0, atol=0)
    expected = torch.where(normalised >= 0, 1.0, -1.0)
    torch.testing.assert_close(seen["block1.conv1"][0], expected, rtol=0, atol=0)
    names = [row.layer for row in report.rows]
    assert ("stem.2", "ReLU", "ReLU") in cells(report)
    assert cells(report).count(("block1.relu", "ReLU", "")) == 2  # only signs read them
    assert isinstance(net.get_submodule("block2.down.0"), BinaryConv2d)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert "_norm" not in " ".join(names)  # every sum had a normalisation already


def test_layers_to_be_kept_get_int8_weights() -> None:
    net, report = binarize(ResNet(), input_shape=(8, 8, 1), keep=("block2.down.0",))
    assert isinstance(net.get_submodule("block2.down.0"), Int8Conv2d)
    assert ("block2.down.0", "Conv2d", "Int8Conv2d") in cells(report)
    assert "block2.down.0_sign" not in {row.layer for row in report.rows}
    assert "block2.conv1_sign" in {row.layer for row in report.rows}


def test_without_kept_ends_pixels_are_normalised_before_their_sign() -> None:
    net, report = binarize(seeded(mlp), keep_first_last=False, input_shape=(8, 8, 1))
    assert cells(report)[:3] == [
        ("1_input_norm", "", "BatchNorm"),
        ("1_sign", "", "Sign"),
        ("1", "Linear", "BinaryLinear"),
    ]
    assert cells(report)[-2:] == [("5", "Linear", "BinaryLinear"), ("5_norm", "", "BatchNorm")]
    sign = net.get_submodule("1_sign")
    found = []
    sign.register_forward_hook(lambda module, args, out: found.append(out))
    net.train()(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert 0.3 < float((found[0] > 0).float().mean()) < 0.7
    assert bnn.integerize(ModuleClassifier(net, (8, 8, 1), 10)).n_classes == 10


def test_joined_activations_get_a_normalisation_of_all_their_channels() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.c, self.fc = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            first = torch.relu(self.a(x))
            both = torch.cat([first, torch.relu(self.b(first))], 1)
            return self.fc(F.adaptive_avg_pool2d(self.c(both), 1).flatten(1))

    net, report = binarize(seeded(Dense), input_shape=(6, 6, 1))
    assert ("c_input_norm", "", "BatchNorm") in cells(report)
    assert net.get_submodule("c_input_norm").n_channels == 8
    assert "b_input_norm" not in {row.layer for row in report.rows}  # its ReLU is passed by
    logits = assert_twins_agree(
        bnn.integerize(ModuleClassifier(net, (6, 6, 1), 3)),
        np.random.default_rng(0).integers(0, 256, (5, 6, 6, 1), dtype=np.uint8),
    )
    assert logits.shape == (5, 3)


def test_a_layer_called_twice_has_a_sign_and_a_norm_per_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))))

    net, report = binarize(Twice(), example=reals((3, 4)))
    added = [row.layer for row in report.rows if not row.was]
    assert added == ["b_sign", "b_norm", "b_sign_2", "b_norm_2"]
    assert len([row for row in report.rows if row.layer == "b"]) == 1
    assert net(reals((5, 4))).shape == (5, 2)


def test_the_module_itself_is_not_changed() -> None:
    module = seeded(ResNet).eval()
    before = copy.deepcopy(module.state_dict())
    net, _ = binarize(module, input_shape=(8, 8, 1))
    assert not net.training
    assert not any(part.training for part in net.modules())
    assert module.state_dict().keys() == before.keys()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert module.stem[2].inplace
    assert binarize(module.train(), input_shape=(8, 8, 1))[0].training


def test_a_dropout_that_stays_follows_the_mode() -> None:
    net, _ = binarize(seeded(LeNet), input_shape=(8, 8, 1))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    net.eval()
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
    assert net.get_submodule("dropout").p == 0.2


class Undecided(nn.Module):
    """A value decides what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.d = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = self.c(torch.relu(self.norm(self.b(x if x.sum() > 0 else -x))))
        return self.d(x.mean((2, 3)))


def test_what_cannot_be_traced_is_converted_module_by_module_and_says_so() -> None:
    net, report = binarize(seeded(Undecided), input_shape=(6, 6, 1))
    assert cells(report) == [
        ("a", "Conv2d", "Int8Conv2d, BatchNorm"),
        ("b", "Conv2d", "BatchNorm, Sign, BinaryConv2d"),
        ("norm", "BatchNorm2d", "BatchNorm"),
        ("c", "Conv2d", "BatchNorm, Sign, BinaryConv2d, BatchNorm"),
        ("d", "Linear", "Int8Head"),
    ]
    assert report.notes[0].startswith("not traceable (symbolically traced variables cannot")
    found = []
    net.b.sign.register_forward_hook(lambda module, args, out: found.append(out))
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(net.train()(x), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert 0.2 < float((found[0] > 0).float().mean()) < 0.8  # not +1 everywhere
    assert float(net.b.layer.latent_weight.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match=r"keep: expected names of layers with weights \(a, b"):
        binarize(Undecided(), input_shape=(6, 6, 1), keep=("z",))


def test_sequences_of_words() -> None:
    """An embedding and a recurrent cell, called in a loop that the trace unrolls."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.extra = nn.Embedding(9, 5), nn.Embedding(9, 5)
            self.cell, self.out = nn.LSTMCell(5, 4), nn.Linear(4, 3)

        def forward(self, words: Tensor) -> Tensor:
            x = self.table(words)
            h, c = self.cell(x[:, 0])
            h, c = self.cell(x[:, 1], (h, c))
            return self.out(h)

    words = torch.tensor([[0, 8], [3, 4]])
    net, report = binarize(Reader(), example=words)
    found = {row.layer: row for row in report.rows}
    assert found["table"].now == "Embedding"
    assert found["table"].why == "bnn.layers has no int8 layer of this kind"
    assert isinstance(net.get_submodule("cell"), BinaryLSTMCell)
    assert found["out"].now == "Int8Head"
    assert net(words).shape == (2, 3)
    both, _ = binarize(Reader(), keep_first_last=False, example=words)
    assert isinstance(both.get_submodule("table"), BinaryEmbedding)
    assert isinstance(both.get_submodule("out"), BinaryLinear)


def test_a_module_as_a_classifier() -> None:
    module = seeded(LeNet).eval()
    twin = ModuleClassifier(module, (8, 8, 1), 10, full_precision=True).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    expected = module(torch.from_numpy(images).reshape(3, 1, 8, 8) / 256)
    torch.testing.assert_close(twin(torch.from_numpy(images)), expected, rtol=0, atol=0)
    assert (twin.input_shape, twin.n_classes, twin.widths) == ((8, 8, 1), 10, ())
    with pytest.raises(ValueError, match="got a full-precision twin"):
        bnn.integerize(twin)
    with pytest.raises(ValueError, match="n_classes: expected 2 or more"):
        ModuleClassifier(module, (8, 8, 1), 1)
    with pytest.raises(TypeError, match="images: expected dtype uint8"):
        twin(torch.zeros(1, 8, 8, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"input_shape: expected \(H, W, C\), got None; or give a batch as example"),
        ({"input_shape": (8, 8)}, r"input_shape: expected \(H, W, C\), got \(8, 8\)"),
        ({"input_shape": (8, 8, 3)}, r"example: expected a module that takes \[\(2, 3, 8, 8\)\]"),
        ({"input_shape": (8, 8, 1), "keep": ("conv9",)}, "keep: expected names of layers .*conv9"),
        ({"input_shape": (8, 8, 1), "quantizer": "no"}, "quantizer: expected one of .*got 'no'"),
        ({"input_shape": (8, 8, 1), "weight_quantizer": "no"}, "weight_quantizer: expected one"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        binarize(LeNet(), **arguments)


def test_a_module_without_inner_layers_is_refused_with_the_report() -> None:
    with pytest.raises(ValueError, match=r"expected a layer that can be binary, got none:\nlayer"):
        binarize(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), input_shape=(2, 2, 1))


def test_the_quantizers_are_the_callers() -> None:
    net, _ = binarize(
        LeNet(), input_shape=(8, 8, 1), quantizer="approx_sign", weight_quantizer="approx_sign"
    )
    assert net.get_submodule("conv2_sign").quantizer == "approx_sign"
    assert type(net.get_submodule("conv2").weight_quantizer).__name__ == "ApproxSign"
    assert {type(m) for m in net.modules()} >= {Sign, BatchNorm, Int8Conv2d, Int8Head}
