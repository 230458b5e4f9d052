"""The tables of a run: every figure with its comparison, grouped by what it is about."""

from collections.abc import Callable, Mapping
from typing import Literal

from flows import sentences
from flows.readings import Reading
from flows.reproduction import is_reproduced
from flows.sentences import said
from flows.wording import (
    TIMES,
    Result,
    count,
    decimal,
    duration,
    has_machines,
    lookup,
    nats,
    number,
    percent,
    plain,
    points,
    size,
    words,
)


def _beside_bnn(result: Result, path: str) -> str | None:
    gap = sentences.difference(result, "bnn.test_accuracy", path)
    return None if gap is None else f"the BNN is {points(gap)} it"


def _accuracy(result: Result) -> tuple[Reading, ...]:
    missed = sentences.missed_floor(result, "bnn.test_accuracy", "bnn.floor_accuracy", "BNN")
    stderr = number(result, "bnn.test_accuracy_stderr")
    n_test = count(number(result, "data.n_test"))
    return (
        Reading(
            "BNN, one-bit",
            percent(number(result, "bnn.test_accuracy"), stderr),
            said(missed, f"{n_test} test rows, binomial error"),
            "bad" if missed else "plain",
        ),
        Reading(
            "Integer network, as shipped",
            percent(number(result, "bnn.integer_accuracy")),
            said(sentences.agreement(result), sentences.ties(result)),
        ),
        Reading(
            "Full-precision twin",
            percent(number(result, "bnn.twin_accuracy")),
            said(_beside_bnn(result, "bnn.twin_accuracy")),
        ),
        Reading(
            "Floor",
            percent(number(result, "bnn.floor_accuracy")),
            said(sentences.floor_method(result), _beside_bnn(result, "bnn.floor_accuracy")),
        ),
        Reading(
            "Majority class",
            percent(number(result, "bnn.majority_accuracy")),
            said(_beside_bnn(result, "bnn.majority_accuracy")),
        ),
        *_expected(result),
    )


def _expected(result: Result) -> tuple[Reading, ...]:
    """What the zoo says of a run by recipe."""
    recipe = lookup(result, "zoo.recipe")
    if recipe is None:
        return ()
    expected = number(result, "zoo.expected_accuracy")
    return (
        Reading(
            f"Zoo, {plain(recipe)}",
            "not yet measured"
            if expected is None
            else percent(expected, number(result, "zoo.expected_spread")),
            said(*sentences.reproduction(result)),
            "warning" if is_reproduced(result) is False else "plain",
        ),
    )


def _gap_words(gap: float | None, other: str, subject: str = "") -> str | None:
    if gap is None:
        return None
    return f"{subject}{nats(abs(gap))} {'above' if gap > 0 else 'below'} {other}"


def _effective(result: Result) -> Reading:
    doubt = sentences.unreliable(result)
    return Reading(
        "Effective sample size",
        sentences.effective(result) or count(None),
        said("few chains carry the weight" if doubt else "of the importance weights"),
        "warning" if doubt else "plain",
    )


def _likelihood(result: Result) -> tuple[Reading, ...]:
    test, floor = "rbm.test_log_likelihood", "rbm.floor_log_likelihood"
    shape = f"{words(result, 'rbm.n_visible')} {TIMES} {words(result, 'rbm.n_hidden')}"
    missed = sentences.missed_floor(result, test, floor, "RBM")
    doubt = sentences.unreliable(result)
    above = sentences.difference(result, test, floor)
    gap = sentences.difference(result, "rbm.train_log_likelihood", test)
    baseline = percent(number(result, "rbm.completion_baseline_error"))
    spread = "± counts log Z and the choice of rows"
    return (
        Reading(
            f"RBM {shape}, test rows",
            nats(number(result, test), number(result, "rbm.log_likelihood_stderr")),
            said(missed, doubt, sentences.method(result), spread),
            "bad" if missed else "warning" if doubt else "plain",
        ),
        Reading(
            "3-sigma interval",
            sentences.interval(result) or count(None),
            ("error of log Z alone",),
        ),
        _effective(result),
        *([] if gap is None else [_training(result, gap)]),
        Reading(
            "Floor: independent bits",
            nats(number(result, floor)),
            said(_gap_words(above, "it", "the RBM is ")),
        ),
        Reading(
            "Wrong pixels, half completed",
            percent(number(result, "rbm.completion_error")),
            (f"each pixel's majority: {baseline}",),
        ),
    )


def _training(result: Result, gap: float) -> Reading:
    value = nats(number(result, "rbm.train_log_likelihood"))
    return Reading("RBM, training rows", value, said(_gap_words(gap, "the test rows")))


def _divergence(result: Result) -> tuple[Reading, ...]:
    field, entropy = number(result, "qbm.mean_transverse_field"), number(result, "tbm.entropy")
    n_parameters = count(number(result, "tbm.n_parameters"))
    n_outcomes = count(number(result, "tbm.n_outcomes"))
    on_boundary = lookup(result, "tbm.boundary") is True
    return (
        Reading(
            "Transductive machine (TBM)",
            nats(number(result, "tbm.kl")),
            said(
                f"{n_parameters} parameters on {n_outcomes} outcomes",
                None if entropy is None else f"entropy of the data {nats(entropy)}",
                "on the boundary: parameters diverge, the divergence still converges"
                if on_boundary
                else None,
            ),
        ),
        Reading(
            "Quantum machine (QBM)",
            nats(number(result, "qbm.kl")),
            said(
                sentences.qbm_gain(result),
                None if field is None else f"mean transverse field {decimal(field, 2)}",
            ),
        ),
        Reading(
            "Boltzmann machine (BM)",
            nats(number(result, "bm.kl")),
            ("same data as the QBM, no transverse field",),
        ),
    )


def _export(result: Result) -> tuple[Reading, ...]:
    n_bytes = number(result, "export.bytes")
    return (
        Reading(
            f"Model, {words(result, 'export.file')}",
            size(n_bytes),
            said(
                None if n_bytes is None else f"{count(n_bytes)} bytes",
                sentences.binary_weights(result),
                sentences.saving(result),
            ),
        ),
        Reading("Host runtime", size(number(result, "export.host_library_bytes"))),
        Reading(
            "ARM runtime",
            size(number(result, "export.arm_library_bytes")),
            (words(result, "verify.arm_target"),),
        ),
    )


def _compared(result: Result, where: Literal["host", "arm"], name: str, how: str | None) -> Reading:
    found = number(result, f"verify.{where}_mismatches")
    n_images = number(result, f"verify.{where}_images")
    images = None if n_images is None else f"{count(n_images)} images"
    verdict = None
    if found is not None:
        equal = "equal to torch, bit for bit"
        verdict = "integers differ from torch: DO NOT SHIP" if found else equal
    tone = sentences.mismatch_tone(found)
    return Reading(name, sentences.mismatches(found), said(verdict, images, how), tone)


def _verification(result: Result) -> tuple[Reading, ...]:
    target, emulator = words(result, "verify.arm_target"), words(result, "verify.emulator")
    was_run = number(result, "verify.arm_images") is not None
    emulated = f"run by {emulator}" if was_run else None
    return (
        _compared(result, "host", "Host runtime", sentences.host_speed(result)),
        _compared(result, "arm", f"ARM runtime ({target})", emulated),
        Reading(
            "ARM instructions per image",
            count(number(result, "verify.arm_instructions_per_image")),
            said("counted, not timed" if was_run else None),
        ),
    )


def _seconds(result: Result) -> tuple[Reading, ...]:
    """Longest step first: the record's keys are in no order that means anything."""
    spent = lookup(result, "seconds")
    steps = dict(spent) if isinstance(spent, Mapping) else {}
    total = number(steps, "total")
    table = []
    for step in sorted(steps, key=lambda step: -(number(steps, step) or 0)):
        if step == "total":
            continue
        taken = number(steps, step)
        share = None if not total or taken is None else f"{taken / total:.0%} of the total"
        table.append(Reading(step, duration(taken), said(share)))
    if "total" in steps:
        table.append(Reading("total", duration(total), ("wall clock; steps run side by side",)))
    return tuple(table)


TABLES: Mapping[str, Callable[[Result], tuple[Reading, ...]]] = {
    "accuracy": _accuracy,
    "likelihood": _likelihood,
    "divergence": _divergence,
    "export": _export,
    "verification": _verification,
    "seconds": _seconds,
}
"""Every table of a run by its name."""

MACHINE_TABLES = ("likelihood", "divergence")
"""Tables of the Boltzmann machines, which a run of the classifier alone has none of."""


def tables(result: Result) -> dict[str, tuple[Reading, ...]]:
    """Read every table that the run was asked for."""
    left_out = () if has_machines(result) else MACHINE_TABLES
    return {name: read(result) for name, read in TABLES.items() if name not in left_out}


def top_confusions(result: Result, n_shown: int = 5) -> tuple[Reading, ...]:
    """Find the pairs of classes that are taken for each other most often, most frequent first."""
    labels, matrix = lookup(result, "data.label_names"), lookup(result, "bnn.confusion")
    if not isinstance(matrix, list | tuple):
        return ()
    names = [plain(label) for label in labels] if isinstance(labels, list | tuple) else []
    names += [str(index) for index in range(len(names), len(matrix))]
    pairs = sorted(
        (-hits, true, predicted)
        for true, row in enumerate(matrix)
        for predicted, hits in enumerate(row)
        if true != predicted and hits > 0
    )
    return tuple(
        Reading(
            f"{names[true]}, taken for {names[predicted]}",
            count(-hits),
            (f"{percent(-hits / sum(matrix[true]))} of the rows that are {names[true]}",),
        )
        for hits, true, predicted in pairs[:n_shown]
    )
