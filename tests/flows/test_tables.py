from typing import Any

from flows.readings import Reading
from flows.tables import TABLES, top_confusions


def reading(result: dict[str, Any], table: str, name: str) -> Reading:
    return next(entry for entry in TABLES[table](result) if entry.name.startswith(name))


def test_accuracy_differences_have_the_right_side(sample_result: dict[str, Any]) -> None:
    twin = reading(sample_result, "accuracy", "Full-precision")
    floor = reading(sample_result, "accuracy", "Floor")
    integers = reading(sample_result, "accuracy", "Integer network")
    assert twin.beside == ("the BNN is 1.27 points below it",)
    assert floor.beside[1] == "the BNN is 6.41 points above it"
    assert integers.beside == (
        "same class as the float network: 100.00 %",
        "3 of 104,960,000 activation bits differ",
    )


def test_likelihood_names_the_gap_to_training(sample_result: dict[str, Any]) -> None:
    training = reading(sample_result, "likelihood", "RBM, training")
    assert training.beside == ("2.7150 nats above the test rows",)
    floor = reading(sample_result, "likelihood", "Floor")
    assert floor.beside == ("the RBM is 126.67 nats above it",)
    del sample_result["rbm"]["train_log_likelihood"]
    names = [entry.name for entry in TABLES["likelihood"](sample_result)]
    assert "RBM, training rows" not in names


def test_boundary_of_the_tbm_is_said(sample_result: dict[str, Any]) -> None:
    before = reading(sample_result, "divergence", "Transductive").beside
    sample_result["tbm"]["boundary"] = True
    after = reading(sample_result, "divergence", "Transductive").beside
    assert after == (*before, "on the boundary: parameters diverge, the divergence still converges")


def test_saving_is_packed_against_floats(sample_result: dict[str, Any]) -> None:
    beside = reading(sample_result, "export", "Model").beside
    times = "\N{MULTIPLICATION SIGN}"
    assert beside == (
        "25,344 bytes",
        "92,160 one-bit weights",
        f"weights 23.3 kB, as float32 415.9 kB (17.8{times})",
    )


def test_verification_without_arm_is_not_measured(sample_result: dict[str, Any]) -> None:
    sample_result["verify"] = {"host_images": 10, "host_mismatches": 0}
    host, arm, instructions = TABLES["verification"](sample_result)
    assert (host.value, host.tone) == ("0 mismatches", "good")
    assert (arm.value, arm.tone, arm.beside) == ("not measured", "plain", ())
    assert instructions.value == "not measured"


def test_longest_step_comes_first_and_the_total_last() -> None:
    seconds = {"total": 10.0, "export": 2.5, "a step": None, "verify": 5.0}
    table = TABLES["seconds"]({"seconds": seconds})
    assert [(entry.name, entry.value) for entry in table] == [
        ("verify", "5.00 s"),
        ("export", "2.50 s"),
        ("a step", "not measured"),
        ("total", "10.0 s"),
    ]
    assert table[1].beside == ("25% of the total",)


def test_top_confusions_are_sorted_and_named() -> None:
    result = {
        "data": {"label_names": ["cat", "dog"]},
        "bnn": {"confusion": [[5, 0, 5], [1, 9, 0], [0, 0, 0]]},
    }
    first, second = top_confusions(result)
    assert first == Reading("cat, taken for 2", "5", ("50.00 % of the rows that are cat",))
    assert second.name == "dog, taken for cat"
    assert len(top_confusions(result, n_shown=1)) == 1
    assert top_confusions({}) == ()


def test_every_table_bears_an_empty_record() -> None:
    for name, table in TABLES.items():
        assert all(entry.tone == "plain" for entry in table({})), name
