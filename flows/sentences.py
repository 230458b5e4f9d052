"""What is said beside the figures of a run: comparisons, error bars, reservations.

Each function reads the record and returns one sentence, or None where there is nothing to say.
"""

from typing import Literal, TypeAlias

from flows.reproduction import is_reproduced
from flows.wording import (
    TIMES,
    Result,
    count,
    decimal,
    lookup,
    nats,
    number,
    percent,
    plain,
    points,
    rows,
    size,
    words,
)

Tone: TypeAlias = Literal["plain", "good", "warning", "bad"]
_METHODS = {"ais": "AIS", "exact": "exact enumeration"}


def said(*sentences: str | None) -> tuple[str, ...]:
    """Keep the sentences that have something to say."""
    return tuple(sentence for sentence in sentences if sentence)


def difference(result: Result, path: str, other: str) -> float | None:
    """Subtract the number at ``other`` from the one at ``path``; None where one is missing."""
    first, second = number(result, path), number(result, other)
    return None if first is None or second is None else first - second


def floor_method(result: Result) -> str:
    """Name the classifier that a BNN must beat."""
    return str(lookup(result, "bnn.floor_method") or "trivial classifier")


def missed_floor(result: Result, path: str, floor: str, name: str) -> str | None:
    """Say it when the figure at ``path`` is not above its floor."""
    above = difference(result, path, floor)
    return f"the {name} does not beat the floor" if above is not None and above <= 0 else None


def reproduction(result: Result) -> tuple[str, ...]:
    """Compare the accuracy with what the zoo expects of the recipe, and name what was changed."""
    changes = lookup(result, "zoo.changes")
    if isinstance(changes, list | tuple) and changes:
        return (f"not comparable, the run has {', '.join(plain(change) for change in changes)}",)
    gap = difference(result, "bnn.test_accuracy", "zoo.expected_accuracy")
    if gap is None:
        return ()
    verdict = "reproduced" if is_reproduced(result) else "NOT REPRODUCED"
    return (f"{verdict}: the BNN is {points(gap)} it",)


def agreement(result: Result) -> str | None:
    """Compare the classes of the integer network with the float network's."""
    value = number(result, "bnn.class_agreement")
    if value is None:
        return None
    return f"same class as the float network: {percent(value)}"


def ties(result: Result) -> str | None:
    """Count the activation bits in which the integer and the float network differ."""
    differing, n_bits = number(result, "bnn.bit_mismatches"), number(result, "bnn.n_bits")
    if differing is None or n_bits is None:
        return None
    return f"{count(differing)} of {count(n_bits)} activation bits differ"


def method(result: Result) -> str:
    """Name the estimator of the log-likelihood and its effort."""
    method = words(result, "rbm.method")
    name = _METHODS.get(method, method)
    n_chains, n_temperatures = number(result, "rbm.n_chains"), number(result, "rbm.n_temperatures")
    if n_chains is None or n_temperatures is None:
        return name
    return f"{name}, {count(n_chains)} chains {TIMES} {count(n_temperatures)} temperatures"


def effective(result: Result) -> str | None:
    """Give the effective sample size of the importance weights beside the number of chains."""
    value, n_chains = number(result, "rbm.effective_sample_size"), number(result, "rbm.n_chains")
    if value is None:
        return "not needed: exact" if lookup(result, "rbm.method") == "exact" else None
    return decimal(value, 1) + (f" of {count(n_chains)} chains" if n_chains is not None else "")


def interval(result: Result) -> str | None:
    """Give the lower and upper end of the log-likelihood."""
    lower, upper = number(result, "rbm.lower"), number(result, "rbm.upper")
    if lower is None or upper is None:
        return None
    return f"{nats(lower).removesuffix(' nats')} to {nats(upper)}"


def unreliable(result: Result) -> str | None:
    """Say it when the estimate of the log-likelihood cannot be trusted.

    The mean of the importance weights is unbiased, so its logarithm errs low, and the likelihood
    errs high, when few chains carry the weight.

    References
    ----------
    .. [1] Salakhutdinov, Murray (2008), On the quantitative analysis of deep belief networks.
    """
    if lookup(result, "rbm.is_reliable") is not False:
        return None
    return "UNRELIABLE: few chains carry the weight, which tends to overstate the likelihood"


def qbm_gain(result: Result) -> str | None:
    """Compare the quantum machine with the classical one on the same data."""
    gain = difference(result, "bm.kl", "qbm.kl")
    if gain is None:
        return None
    return f"the QBM is {nats(abs(gain))} {'better' if gain >= 0 else 'worse'} than the BM"


def saving(result: Result) -> str | None:
    """Compare the bytes of the packed weights with float32."""
    packed, floats = number(result, "bnn.packed_bytes"), number(result, "bnn.float_bytes")
    if not packed or floats is None:
        return None
    return f"weights {size(packed)}, as float32 {size(floats)} ({floats / packed:.1f}{TIMES})"


def binary_weights(result: Result) -> str | None:
    """Count the one-bit weights."""
    value = number(result, "bnn.n_binary_weights")
    return None if value is None else f"{count(value)} one-bit weights"


def macs(result: Result) -> str | None:
    """Sum the multiply-accumulates of the layers by precision of their weights."""
    totals: dict[float, float] = {}
    for layer in rows(result, "bnn.layers"):
        bits, n_macs = number(layer, "weight_bits"), number(layer, "macs")
        if bits is not None and n_macs is not None:
            totals[bits] = totals.get(bits, 0) + n_macs
    if not totals:
        return None
    parts = [f"{count(totals[bits])} of {bits:.0f} bit" for bits in sorted(totals)]
    return f"Multiply-accumulates (MACs) per image: {', '.join(parts)}."


def host_speed(result: Result) -> str:
    """Give the time of the host runtime on one image."""
    value = number(result, "verify.host_microseconds_per_image")
    return f"{decimal(value, 1)} µs per image" if value is not None else "time not measured"


def compared(result: Result, where: Literal["host", "arm"]) -> str:
    """Say how many images were compared on one target, and how many differed."""
    n_images = number(result, f"verify.{where}_images")
    found = number(result, f"verify.{where}_mismatches")
    name = "host" if where == "host" else "ARM"
    if n_images is None or found is None:
        return f"{name}: {count(None)}"
    if found > 0:
        return f"{name}: {mismatches(found)} on {count(n_images)} images, DO NOT SHIP"
    return f"{name}: none on {count(n_images)} images"


def mismatches(found: float | None) -> str:
    """Write a number of mismatches with its noun."""
    if found is None:
        return count(None)
    return f"{count(found)} {'mismatch' if found == 1 else 'mismatches'}"


def mismatch_tone(*found: float | None) -> Tone:
    """Bad with any mismatch, good only where everything was compared."""
    if any(value is not None and value > 0 for value in found):
        return "bad"
    return "plain" if any(value is None for value in found) else "good"
