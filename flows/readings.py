"""The figures of a run, each beside what it must be compared with: twin, floor, error bar, count.

The HTML and Markdown reports, the Prefect artifacts and the terminal summary all show these
readings, so that they cannot say different things about one run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

from flows.wording import (
    TIMES,
    Result,
    count,
    decimal,
    duration,
    lookup,
    nats,
    number,
    percent,
    points,
    rows,
    size,
    words,
)

Tone: TypeAlias = Literal["plain", "good", "warning", "bad"]


@dataclass(frozen=True)
class Reading:
    """One figure in words, with the sentences that belong beside it."""

    name: str
    value: str
    beside: tuple[str, ...] = ()
    tone: Tone = "plain"


def _difference(result: Result, path: str, other: str) -> float | None:
    first, second = number(result, path), number(result, other)
    return None if first is None or second is None else first - second


def _said(*sentences: str | None) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if sentence)


def _floor_method(result: Result) -> str:
    return str(lookup(result, "bnn.floor_method") or "trivial classifier")


def _bnn(result: Result) -> Reading:
    above = _difference(result, "bnn.test_accuracy", "bnn.floor_accuracy")
    below_floor = above is not None and above <= 0
    return Reading(
        "BNN test accuracy",
        percent(number(result, "bnn.test_accuracy"), number(result, "bnn.test_accuracy_stderr")),
        _said(
            f"full-precision twin {percent(number(result, 'bnn.twin_accuracy'))}",
            f"floor {percent(number(result, 'bnn.floor_accuracy'))} ({_floor_method(result)})",
            "the BNN does not beat the floor" if below_floor else None,
        ),
        "bad" if below_floor else "plain",
    )


def _ais_is_unreliable(result: Result) -> bool:
    return lookup(result, "rbm.is_reliable") is False


def _method(result: Result) -> str:
    method = words(result, "rbm.method")
    n_chains, n_temperatures = number(result, "rbm.n_chains"), number(result, "rbm.n_temperatures")
    if n_chains is None or n_temperatures is None:
        return method
    return f"{method}, {count(n_chains)} chains {TIMES} {count(n_temperatures)} temperatures"


def _effective(result: Result) -> str | None:
    effective = number(result, "rbm.effective_sample_size")
    if effective is None:
        return None
    return f"{decimal(effective, 1)} of {count(number(result, 'rbm.n_chains'))} chains"


def _interval(result: Result) -> str | None:
    lower, upper = number(result, "rbm.lower"), number(result, "rbm.upper")
    if lower is None or upper is None:
        return None
    return f"{nats(lower).removesuffix(' nats')} to {nats(upper)}"


def _unreliable_words(result: Result) -> str | None:
    # The mean of the importance weights is unbiased, so its logarithm errs low and the
    # likelihood high when few chains carry the weight (boltzmann machines: AIS, Neal 2001).
    if not _ais_is_unreliable(result):
        return None
    return "UNRELIABLE: too few chains carry the weight, which tends to overstate the likelihood"


def _likelihood(result: Result) -> Reading:
    above = _difference(result, "rbm.test_log_likelihood", "rbm.floor_log_likelihood")
    below_floor = above is not None and above <= 0
    effective, interval = _effective(result), _interval(result)
    return Reading(
        "RBM test log-likelihood",
        nats(
            number(result, "rbm.test_log_likelihood"), number(result, "rbm.log_likelihood_stderr")
        ),
        _said(
            _unreliable_words(result),
            interval and f"interval {interval}",
            _method(result),
            effective and f"effective sample size {effective}",
            f"floor {nats(number(result, 'rbm.floor_log_likelihood'))} (independent bits)",
            "the RBM does not beat the floor" if below_floor else None,
        ),
        "bad" if below_floor else "warning" if _ais_is_unreliable(result) else "plain",
    )


def _qbm_gain(result: Result) -> str | None:
    gain = _difference(result, "bm.kl", "qbm.kl")
    if gain is None:
        return None
    return f"the QBM is {nats(abs(gain))} {'better' if gain >= 0 else 'worse'} than the BM"


def _divergence(result: Result) -> Reading:
    return Reading(
        "KL divergence, QBM",
        nats(number(result, "qbm.kl")),
        _said(
            f"BM {nats(number(result, 'bm.kl'))} (same data, no transverse field)",
            _qbm_gain(result),
            f"TBM {nats(number(result, 'tbm.kl'))} (on data of its own)",
        ),
    )


def _ratio(result: Result) -> str | None:
    packed, floats = number(result, "bnn.packed_bytes"), number(result, "bnn.float_bytes")
    if not packed or floats is None:
        return None
    return f"weights {size(packed)}, as float32 {size(floats)} ({floats / packed:.1f}{TIMES})"


def _model(result: Result) -> Reading:
    n_binary = number(result, "bnn.n_binary_weights")
    return Reading(
        "Model file",
        size(number(result, "export.bytes")),
        _said(
            f"{count(number(result, 'export.bytes'))} bytes",
            f"{count(n_binary)} one-bit weights" if n_binary is not None else None,
            _ratio(result),
        ),
    )


def _mismatches(result: Result) -> float | None:
    found = [number(result, f"verify.{where}_mismatches") for where in ("host", "arm")]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def _compared(result: Result, where: Literal["host", "arm"]) -> str:
    n_images = number(result, f"verify.{where}_images")
    found = number(result, f"verify.{where}_mismatches")
    name = "host" if where == "host" else "ARM"
    if n_images is None or found is None:
        return f"{name}: {count(None)}"
    if found > 0:
        return f"{name}: {count(found)} MISMATCHES on {count(n_images)} images"
    return f"{name}: none on {count(n_images)} images"


def _mismatch_tone(found: float | None) -> Tone:
    return "plain" if found is None else "bad" if found > 0 else "good"


def _verification(result: Result) -> Reading:
    found = _mismatches(result)
    return Reading(
        "Bit mismatches",
        count(found),
        (
            _compared(result, "host"),
            _compared(result, "arm"),
            "against the integer network in torch",
        ),
        _mismatch_tone(found),
    )


def _instructions(result: Result) -> Reading:
    return Reading(
        "ARM instructions per image",
        count(number(result, "verify.arm_instructions_per_image")),
        (
            f"{words(result, 'verify.arm_target')}, counted by {words(result, 'verify.emulator')}",
            f"host: {_microseconds(result)} per image",
        ),
    )


def _microseconds(result: Result) -> str:
    value = number(result, "verify.host_microseconds_per_image")
    return f"{decimal(value, 1)} µs" if value is not None else count(None)


def _accuracy_table(result: Result) -> tuple[Reading, ...]:
    def beside_bnn(path: str) -> str | None:
        gap = _difference(result, "bnn.test_accuracy", path)
        return None if gap is None else f"the BNN is {points(gap)}" + ("" if gap else " it")

    n_test = number(result, "data.n_test")
    bnn = _bnn(result)
    return (
        Reading(
            "BNN (one-bit weights and activations)",
            bnn.value,
            _said(
                f"{count(n_test)} test rows; ± is one standard error (binomial)",
                bnn.beside[2] if bnn.tone == "bad" else None,
            ),
            bnn.tone,
        ),
        Reading(
            "Integer network (what ships)",
            percent(number(result, "bnn.integer_accuracy")),
            _said(_agreement(result), _ties(result)),
        ),
        Reading(
            "Full-precision twin",
            percent(number(result, "bnn.twin_accuracy")),
            _said("same architecture in floats", beside_bnn("bnn.twin_accuracy")),
        ),
        Reading(
            f"Floor: {_floor_method(result)}",
            percent(number(result, "bnn.floor_accuracy")),
            _said(beside_bnn("bnn.floor_accuracy")),
        ),
        Reading(
            "Majority class",
            percent(number(result, "bnn.majority_accuracy")),
            _said("always the same answer", beside_bnn("bnn.majority_accuracy")),
        ),
    )


def _agreement(result: Result) -> str | None:
    agreement = number(result, "bnn.class_agreement")
    if agreement is None:
        return None
    return f"same class as the float network on {percent(agreement)} of the test rows"


def _ties(result: Result) -> str | None:
    differing, n_bits = number(result, "bnn.bit_mismatches"), number(result, "bnn.n_bits")
    if differing is None or n_bits is None:
        return None
    return f"{count(differing)} of {count(n_bits)} activation bits differ from the float network's"


def _likelihood_table(result: Result) -> tuple[Reading, ...]:
    main = _likelihood(result)
    n_visible, n_hidden = number(result, "rbm.n_visible"), number(result, "rbm.n_hidden")
    above = _difference(result, "rbm.test_log_likelihood", "rbm.floor_log_likelihood")
    gap = _difference(result, "rbm.train_log_likelihood", "rbm.test_log_likelihood")
    side = "above" if above is not None and above > 0 else "below"
    return (
        Reading(
            f"Test log-likelihood, RBM {count(n_visible)} {TIMES} {count(n_hidden)}",
            main.value,
            _said(
                _unreliable_words(result),
                _method(result),
                "mean per test row, ± one standard error",
            ),
            main.tone,
        ),
        Reading("Interval", _interval(result) or count(None), ("lower and upper end",)),
        Reading(
            "Effective sample size",
            _effective(result) or count(None),
            _said(_unreliable_words(result) or "of the importance weights"),
            "warning" if _ais_is_unreliable(result) else "plain",
        ),
        Reading(
            "Training log-likelihood",
            nats(number(result, "rbm.train_log_likelihood")),
            _said(None if gap is None else f"{nats(gap)} from training to test (overfitting)"),
        ),
        Reading(
            "Floor: independent bits",
            nats(number(result, "rbm.floor_log_likelihood")),
            _said(None if above is None else f"the RBM is {nats(abs(above))} {side}"),
        ),
        Reading(
            "Error of completing half images",
            decimal(number(result, "rbm.completion_error")),
            (f"filling in the mean: {decimal(number(result, 'rbm.completion_baseline_error'))}",),
        ),
    )


def _divergence_table(result: Result) -> tuple[Reading, ...]:
    n_parameters, n_outcomes = number(result, "tbm.n_parameters"), number(result, "tbm.n_outcomes")
    field = number(result, "qbm.mean_transverse_field")
    entropy = number(result, "tbm.entropy")
    return (
        Reading(
            "Transductive machine (TBM)",
            nats(number(result, "tbm.kl")),
            _said(
                f"{count(n_parameters)} parameters on {count(n_outcomes)} outcomes",
                None if entropy is None else f"entropy of the data {nats(entropy)}",
                "on the boundary: parameters diverge, the divergence still converges"
                if lookup(result, "tbm.boundary") is True
                else None,
            ),
        ),
        Reading(
            "Quantum machine (QBM)",
            nats(number(result, "qbm.kl")),
            _said(
                _qbm_gain(result),
                None if field is None else f"mean transverse field {decimal(field, 2)}",
            ),
        ),
        Reading(
            "Boltzmann machine (BM)",
            nats(number(result, "bm.kl")),
            ("same data as the QBM, no transverse field",),
        ),
    )


def _export_table(result: Result) -> tuple[Reading, ...]:
    return (
        Reading(
            words(result, "export.file"),
            size(number(result, "export.bytes")),
            _said(*_model(result).beside),
        ),
        Reading("SHA-256 of the file", words(result, "export.sha256")),
        Reading(
            "Logical digest", words(result, "export.logical_digest"), ("equal on every target",)
        ),
        Reading("Host runtime", size(number(result, "export.host_library_bytes"))),
        Reading(
            "ARM runtime",
            size(number(result, "export.arm_library_bytes")),
            (words(result, "verify.arm_target"),),
        ),
    )


def _verification_table(result: Result) -> tuple[Reading, ...]:
    def line(where: Literal["host", "arm"], name: str, how: str) -> Reading:
        found = number(result, f"verify.{where}_mismatches")
        n_images = count(number(result, f"verify.{where}_images"))
        verdict = (
            "integers differ from torch: do not ship" if found else "equal to torch, bit for bit"
        )
        beside = _said(f"{n_images} images", verdict if found is not None else None, how)
        word = "mismatch" if found == 1 else "mismatches"
        value = count(found) if found is None else f"{count(found)} {word}"
        return Reading(name, value, beside, _mismatch_tone(found))

    emulated = f"run by {words(result, 'verify.emulator')}"
    return (
        line("host", "Host runtime", f"{_microseconds(result)} per image"),
        line("arm", f"ARM runtime ({words(result, 'verify.arm_target')})", emulated),
        Reading(
            "ARM instructions per image",
            count(number(result, "verify.arm_instructions_per_image")),
            ("counted, not timed",),
        ),
    )


def _seconds_table(result: Result) -> tuple[Reading, ...]:
    spent = lookup(result, "seconds")
    steps = dict(spent) if isinstance(spent, Mapping) else {}
    total = number(result, "seconds.total")
    last = [step for step in ("total",) if step in steps]
    table = []
    for step in chain((step for step in steps if step != "total"), last):
        taken = number(steps, step)
        share = None if not total or taken is None or step == "total" else f"{taken / total:.0%}"
        note = "wall clock; trainings run side by side" if step == "total" else share
        table.append(Reading(step, duration(taken), _said(note)))
    return tuple(table)


HEADLINES: tuple[Callable[[Result], Reading], ...] = (
    _bnn,
    _likelihood,
    _divergence,
    _model,
    _verification,
    _instructions,
)
"""The first row of the report."""

TABLES: Mapping[str, Callable[[Result], tuple[Reading, ...]]] = {
    "accuracy": _accuracy_table,
    "likelihood": _likelihood_table,
    "divergence": _divergence_table,
    "export": _export_table,
    "verification": _verification_table,
    "seconds": _seconds_table,
}
"""Every table of a run by its name."""


def headlines(result: Result) -> tuple[Reading, ...]:
    """Readings of the first row of the report, in order."""
    return tuple(headline(result) for headline in HEADLINES)


def table(result: Result, name: str) -> tuple[Reading, ...]:
    """Readings of one table of :data:`TABLES`."""
    return TABLES[name](result)


def warnings(result: Result) -> tuple[Reading, ...]:
    """Headlines that a reader must not miss: mismatches, unreliable estimates, missed floors."""
    return tuple(entry for entry in headlines(result) if entry.tone in ("warning", "bad"))


def top_confusions(result: Result, n_shown: int = 5) -> tuple[Reading, ...]:
    """Pairs of classes that are taken for each other most often, most frequent first."""
    labels = lookup(result, "data.label_names")
    names = [str(label) for label in labels] if isinstance(labels, list | tuple) else []
    matrix = lookup(result, "bnn.confusion")
    if not isinstance(matrix, list | tuple):
        return ()
    pairs = [
        (hits, true, predicted)
        for true, row in enumerate(matrix)
        for predicted, hits in enumerate(row)
        if true != predicted and hits > 0
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))

    def name(index: int) -> str:
        return " ".join(names[index].split()) if index < len(names) else str(index)

    return tuple(
        Reading(
            f"{name(true)} taken for {name(predicted)}",
            count(hits),
            (f"{hits / sum(matrix[true]):.1%} of {name(true)}",),
        )
        for hits, true, predicted in pairs[:n_shown]
    )


__all__ = [
    "HEADLINES",
    "TABLES",
    "Reading",
    "Tone",
    "headlines",
    "rows",
    "table",
    "top_confusions",
    "warnings",
]
