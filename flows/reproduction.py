"""Whether a run reached the accuracy that the zoo expects of its recipe."""

from flows.wording import Result, lookup, number

N_SIGMA = 2.0
"""Standard deviations below the expected accuracy that still count as reproduced."""


def is_reproduced(result: Result) -> bool | None:
    """Whether a run reached the accuracy that the zoo expects of its recipe.

    It has, if it is not more than two standard deviations below: those over seeds that the zoo
    states, else the binomial error of the run's test accuracy.

    Returns
    -------
    bool or None
        None where nothing is expected: no recipe, one that was not measured, or a changed one.
    """
    expected, accuracy = (
        number(result, "zoo.expected_accuracy"),
        number(result, "bnn.test_accuracy"),
    )
    if expected is None or accuracy is None or lookup(result, "zoo.changes"):
        return None
    spread = number(result, "zoo.expected_spread")
    if spread is None:
        spread = number(result, "bnn.test_accuracy_stderr") or 0.0
    return accuracy >= expected - N_SIGMA * spread
