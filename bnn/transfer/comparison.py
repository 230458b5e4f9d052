"""What a frozen binary backbone is worth on a target task, always beside four baselines."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnn.evaluation import predict_logits
from bnn.hybrid.calibration import recalibrate
from bnn.models import Classifier
from bnn.training import TrainConfig, fit
from bnn.transfer.backbone import Backbone, head_inputs, packed_bytes
from bnn.transfer.codes import extract_codes
from bnn.transfer.fine_tuning import fine_tune, fresh_network, modules_from
from bnn.transfer.heads import Features, HeadConfig, train_head

Images = NDArray[np.uint8]
Extractor = Callable[[Images], Features]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferRow:
    """One way to the target's labels."""

    name: str
    """Features and head."""
    is_baseline: bool
    """Whether it does without the trained binary backbone."""
    accuracy: float
    """Share of the target's test images classified correctly."""
    head_bytes: int
    """Bytes that this target needs of its own: head, and what was trained for it, packed."""
    code_bits: int | None
    """Bits of one sample's features as a cache holds them; None if the whole network is trained."""
    milliseconds: float
    """Wall time per test image, extraction and head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferResult:
    """All rows; ``str()`` is a table."""

    rows: tuple[TransferRow, ...]
    """The four head options, then the baselines."""
    backbone_digest: str
    """SHA-256 of the backbone, equal before and after."""
    backbone_bytes: int
    """Bytes of the backbone as it is stored."""
    majority: float
    """Share of the most frequent class among the test labels: what no features are worth."""

    def row(self, name: str) -> TransferRow:
        """Row by name."""
        return {row.name: row for row in self.rows}[name]

    def __str__(self) -> str:
        lines = [f"{'':<26}{'accuracy':>10}{'head bytes':>12}{'code bits':>11}{'ms/image':>10}"]
        for row in self.rows:
            code = "-" if row.code_bits is None else str(row.code_bits)
            name = f"({row.name})" if row.is_baseline else row.name
            lines.append(
                f"{name:<26}{row.accuracy:>9.1%} {row.head_bytes:>12}{code:>11}"
                f"{row.milliseconds:>10.3f}"
            )
        lines.append(
            f"in brackets: without the backbone of {self.backbone_bytes} bytes; "
            f"majority class {self.majority:.1%}"
        )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A task to transfer to."""

    train_images: Images
    """Shape (N, H, W, C), uint8, as the backbone takes them."""
    train_labels: NDArray[np.int64]
    """Shape (N,), 0 ... n_classes - 1."""
    test_images: Images
    """Shape (M, H, W, C), uint8."""
    test_labels: NDArray[np.int64]
    """Shape (M,)."""
    n_classes: int
    """2 or more."""


def compare_transfer(
    net: Classifier,
    twin: Classifier,
    target: Target,
    *,
    head: HeadConfig | None = None,
    n_hidden: int = 64,
    n_layers: int = 1,
    tuning: HeadConfig | None = None,
    scratch: TrainConfig | None = None,
    seed: int = 0,
) -> TransferResult:
    """Transfer a trained binary network to a target in four ways, and four baselines beside them.

    Parameters
    ----------
    net
        Trained on the source; frozen here.
    twin
        Its full-precision twin, trained on the source: the real extractor of equal width.
    target
        Images and labels of the target.
    head
        Of every row but the hidden one and the trained networks.
    n_hidden
        Units of the hidden head.
    n_layers
        Binary layers that are fine-tuned.
    tuning
        How, as for :func:`~bnn.transfer.fine_tune`.
    scratch
        How the network from scratch is trained; the default is that of :func:`bnn.fit`.
    seed
        Of the random network and the network from scratch.

    Returns
    -------
    TransferResult
        Nothing is promised about the order of the rows' accuracies: on an easy target raw inputs
        and random bits are hard to beat.

    Raises
    ------
    RuntimeError
        If the backbone's bytes changed.
    ValueError, TypeError
        If images or labels are not fit for the network.

    References
    ----------
    .. [1] Leroux et al. (2017), Transfer learning with binary neural networks, arXiv:1711.10761;
       the protocol from its abstract, the baselines are added here.
    """
    head = head or HeadConfig()
    hidden = HeadConfig(
        n_hidden=n_hidden, epochs=head.epochs, batch_size=head.batch_size, seed=head.seed
    )
    backbone = Backbone(net)
    before = backbone.digest
    random_net = fresh_network(net, target.n_classes, seed)
    recalibrate(random_net, target.train_images)
    random = Backbone(random_net)

    def pixels(images: Images) -> Features:
        return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)

    def real(images: Images) -> Features:
        return backbone.features(images, "pre_sign")

    n_code = extract_codes(backbone, target.train_images[:1]).n_bits
    n_twin = head_inputs(twin, target.train_images[:1]).shape[1]
    n_pixels = int(np.prod(net.input_shape))
    rows = [
        _headed("bits, linear", lambda x: extract_codes(backbone, x), target, head, n_code),
        _headed("pre-sign, linear", real, target, head, 32 * n_code),
        _headed("bits, hidden", lambda x: extract_codes(backbone, x), target, hidden, n_code),
        _fine_tuned(net, target, n_layers, tuning),
        _headed("raw inputs, linear", pixels, target, head, 8 * n_pixels, True),
        _headed(
            "random bits, linear", lambda x: extract_codes(random, x), target, head, n_code, True
        ),
        _headed(
            "real twin, linear", lambda x: head_inputs(twin, x), target, head, 32 * n_twin, True
        ),
        _from_scratch(net, target, scratch, seed),
    ]
    if backbone.digest != before:
        raise RuntimeError(f"backbone: expected digest {before[:16]}, got {backbone.digest[:16]}")
    return TransferResult(
        rows=tuple(rows),
        backbone_digest=before,
        backbone_bytes=packed_bytes(backbone.net),
        majority=float(np.bincount(target.test_labels).max() / len(target.test_labels)),
    )


def _headed(
    name: str,
    extract: Extractor,
    target: Target,
    config: HeadConfig,
    code_bits: int,
    is_baseline: bool = False,
) -> TransferRow:
    trained = train_head(
        extract(target.train_images), target.train_labels, target.n_classes, config
    )
    begin = time.perf_counter()
    predictions = trained.predict(extract(target.test_images))
    seconds = time.perf_counter() - begin
    return TransferRow(
        name=name,
        is_baseline=is_baseline,
        accuracy=float(np.mean(predictions == target.test_labels)),
        head_bytes=trained.n_bytes(),
        code_bits=code_bits,
        milliseconds=1000 * seconds / len(predictions),
    )


def _fine_tuned(
    net: Classifier, target: Target, n_layers: int, config: HeadConfig | None
) -> TransferRow:
    tuned = fine_tune(
        net,
        target.train_images,
        target.train_labels,
        target.n_classes,
        n_layers=n_layers,
        config=config,
    )
    own = sum(packed_bytes(module) for module in modules_from(tuned, n_layers))
    return _whole(f"last {n_layers} fine-tuned", tuned, target, own, is_baseline=False)


def _from_scratch(
    net: Classifier, target: Target, config: TrainConfig | None, seed: int
) -> TransferRow:
    fresh = fresh_network(net, target.n_classes, seed)
    fit(fresh, target.train_images, target.train_labels, config)
    return _whole("from scratch", fresh, target, packed_bytes(fresh), is_baseline=True)


def _whole(
    name: str, net: Classifier, target: Target, own_bytes: int, *, is_baseline: bool
) -> TransferRow:
    begin = time.perf_counter()
    logits = predict_logits(net, target.test_images)
    seconds = time.perf_counter() - begin
    return TransferRow(
        name=name,
        is_baseline=is_baseline,
        accuracy=float(np.mean(logits.argmax(axis=1) == target.test_labels)),
        head_bytes=own_bytes,
        code_bits=None,
        milliseconds=1000 * seconds / len(logits),
    )
