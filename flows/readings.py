"""The headline figures of a run, each beside what it must be compared with.

The HTML and Markdown reports, the Prefect artifacts and the terminal summary all show these
readings and the ones of :mod:`flows.tables`, so that they cannot say different things of one run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flows import sentences
from flows.sentences import Tone, said
from flows.wording import Result, count, has_machines, nats, number, percent, size, words


@dataclass(frozen=True)
class Reading:
    """One figure in words, with the sentences that belong beside it."""

    name: str
    value: str
    beside: tuple[str, ...] = ()
    tone: Tone = "plain"


def _bnn(result: Result) -> Reading:
    missed = sentences.missed_floor(result, "bnn.test_accuracy", "bnn.floor_accuracy", "BNN")
    floor = percent(number(result, "bnn.floor_accuracy"))
    return Reading(
        "BNN test accuracy",
        percent(number(result, "bnn.test_accuracy"), number(result, "bnn.test_accuracy_stderr")),
        said(
            missed,
            f"full-precision twin {percent(number(result, 'bnn.twin_accuracy'))}",
            f"floor {floor} ({sentences.floor_method(result)})",
        ),
        "bad" if missed else "plain",
    )


def _likelihood(result: Result) -> Reading:
    missed = sentences.missed_floor(
        result, "rbm.test_log_likelihood", "rbm.floor_log_likelihood", "RBM"
    )
    doubt = sentences.unreliable(result)
    effective, interval = sentences.effective(result), sentences.interval(result)
    stderr = number(result, "rbm.log_likelihood_stderr")
    return Reading(
        "RBM test log-likelihood",
        nats(number(result, "rbm.test_log_likelihood"), stderr),
        said(
            doubt,
            missed,
            interval and f"3-sigma interval of log Z alone: {interval}",
            sentences.method(result),
            effective and f"effective sample size {effective}",
            f"floor {nats(number(result, 'rbm.floor_log_likelihood'))} (independent bits)",
        ),
        "bad" if missed else "warning" if doubt else "plain",
    )


def _divergence(result: Result) -> Reading:
    return Reading(
        "KL divergence, QBM",
        nats(number(result, "qbm.kl")),
        said(
            f"BM {nats(number(result, 'bm.kl'))} (same data, no transverse field)",
            sentences.qbm_gain(result),
            f"TBM {nats(number(result, 'tbm.kl'))} (on data of its own)",
        ),
    )


def _model(result: Result) -> Reading:
    n_bytes = number(result, "export.bytes")
    return Reading(
        "Model file",
        size(n_bytes),
        said(
            None if n_bytes is None else f"{count(n_bytes)} bytes",
            sentences.binary_weights(result),
            sentences.saving(result),
        ),
    )


def _verification(result: Result) -> Reading:
    found = [number(result, f"verify.{where}_mismatches") for where in ("host", "arm")]
    known = [value for value in found if value is not None]
    return Reading(
        "Images with any differing bit",
        count(sum(known) if known else None),
        (
            sentences.compared(result, "host"),
            sentences.compared(result, "arm"),
            "against the integer network in torch",
        ),
        sentences.mismatch_tone(*found),
    )


def _instructions(result: Result) -> Reading:
    target, emulator = words(result, "verify.arm_target"), words(result, "verify.emulator")
    counted = number(result, "verify.arm_instructions_per_image")
    return Reading(
        "ARM instructions per image",
        count(counted),
        said(
            None if counted is None else f"{target}, counted by {emulator}",
            f"host: {sentences.host_speed(result)}",
        ),
    )


HEADLINES: tuple[Callable[[Result], Reading], ...] = (
    _bnn,
    _likelihood,
    _divergence,
    _model,
    _verification,
    _instructions,
)
"""The first row of the report, in order."""
_OF_MACHINES = (_likelihood, _divergence)


def headlines(result: Result) -> tuple[Reading, ...]:
    """Read the figures of the first row of the report, those that the run was asked for."""
    left_out = () if has_machines(result) else _OF_MACHINES
    return tuple(headline(result) for headline in HEADLINES if headline not in left_out)


def warnings(result: Result) -> tuple[Reading, ...]:
    """Pick the headlines nobody must miss: mismatches, unreliable estimates, missed floors."""
    return tuple(entry for entry in headlines(result) if entry.tone in ("warning", "bad"))
