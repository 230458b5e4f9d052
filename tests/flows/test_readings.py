from typing import Any

import pytest

from flows.readings import Reading, headlines, warnings


def headline(result: dict[str, Any], name: str) -> Reading:
    return next(entry for entry in headlines(result) if entry.name == name)


def test_a_good_run_needs_no_warning(sample_result: dict[str, Any]) -> None:
    assert warnings(sample_result) == ()
    assert [entry.value for entry in headlines(sample_result)] == [
        "90.53 ± 0.29 %",
        "\N{MINUS SIGN}241.83 ± 0.81 nats",
        "0.0614 nats",
        "25.3 kB",
        "0",
        "3,184,922",
    ]


def test_accuracy_stands_beside_twin_and_floor(sample_result: dict[str, Any]) -> None:
    beside = headline(sample_result, "BNN test accuracy").beside
    assert beside == (
        "full-precision twin 91.80 %",
        "floor 84.12 % (logistic regression on 10000 rows)",
    )


@pytest.mark.parametrize("accuracy", [0.8, 0.8412])
def test_accuracy_that_is_not_above_the_floor_is_bad(
    sample_result: dict[str, Any], accuracy: float
) -> None:
    sample_result["bnn"]["test_accuracy"] = accuracy
    entry = headline(sample_result, "BNN test accuracy")
    assert entry.tone == "bad"
    assert entry.beside[0] == "the BNN does not beat the floor"


def test_unreliable_likelihood_says_so_first(sample_result: dict[str, Any]) -> None:
    sample_result["rbm"]["is_reliable"] = False
    entry = headline(sample_result, "RBM test log-likelihood")
    assert entry.tone == "warning"
    assert entry.beside[0].startswith("UNRELIABLE")
    assert entry in warnings(sample_result)


def test_likelihood_stands_beside_method_and_floor(sample_result: dict[str, Any]) -> None:
    beside = headline(sample_result, "RBM test log-likelihood").beside
    minus = "\N{MINUS SIGN}"
    assert beside == (
        f"3-sigma interval of log Z alone: {minus}243.40 to {minus}240.20 nats",
        "AIS, 100 chains \N{MULTIPLICATION SIGN} 1,000 temperatures",
        "effective sample size 34.2 of 100 chains",
        f"floor {minus}368.50 nats (independent bits)",
    )


def test_exact_likelihood_needs_no_sample_size(sample_result: dict[str, Any]) -> None:
    sample_result["rbm"].update(
        method="exact", effective_sample_size=None, n_chains=None, n_temperatures=None
    )
    beside = headline(sample_result, "RBM test log-likelihood").beside
    assert "exact enumeration" in beside
    assert "effective sample size not needed: exact" in beside


@pytest.mark.parametrize(
    ("host", "arm", "value", "tone"),
    [
        (0, 0, "0", "good"),
        (3, 0, "3", "bad"),
        (0, 1, "1", "bad"),
        (0, None, "0", "plain"),
        (2, None, "2", "bad"),
        (None, None, "not measured", "plain"),
    ],
)
def test_mismatches_count_on_both_targets(
    sample_result: dict[str, Any], host: int | None, arm: int | None, value: str, tone: str
) -> None:
    sample_result["verify"].update(host_mismatches=host, arm_mismatches=arm)
    entry = headline(sample_result, "Images with any differing bit")
    assert (entry.value, entry.tone) == (value, tone)
    assert ("DO NOT SHIP" in " ".join(entry.beside)) == (tone == "bad")


def test_one_mismatch_is_singular_and_names_the_images(sample_result: dict[str, Any]) -> None:
    sample_result["verify"]["arm_mismatches"] = 1
    beside = headline(sample_result, "Images with any differing bit").beside
    assert beside[:2] == (
        "host: none on 10,000 images",
        "ARM: 1 mismatch on 256 images, DO NOT SHIP",
    )


def test_qbm_that_loses_is_said_to_lose(sample_result: dict[str, Any]) -> None:
    sample_result["qbm"]["kl"] = 0.2042
    beside = headline(sample_result, "KL divergence, QBM").beside
    assert "the QBM is 0.1000 nats worse than the BM" in beside


def test_an_empty_record_is_not_measured_throughout() -> None:
    assert {entry.value for entry in headlines({})} == {"not measured"}
    assert warnings({}) == ()
