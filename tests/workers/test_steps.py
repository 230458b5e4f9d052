import pytest

from workers.config import JOB_NAMES, RunConfig
from workers.steps import JOBS, STEPS, steps_of


def of(job: str, **bnn: object) -> RunConfig:
    config = RunConfig(job=job)
    return RunConfig(job=job, bnn=type(config.bnn)(**bnn))  # type: ignore[arg-type]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_every_step_comes_after_what_it_reads(job: str, distillation: float) -> None:
    steps = steps_of(of(job, distillation_weight=distillation))
    assert set(steps) == set(JOBS[job])
    done: set[str] = set()
    for name, step in steps.items():
        assert set(step.after) <= done, name
        done.add(name)


def test_the_jobs_are_those_that_a_configuration_may_name() -> None:
    assert set(JOBS) == set(JOB_NAMES)
    assert JOBS["everything"] == tuple(STEPS)
    assert "train_rbm" not in JOBS["bnn"]


def test_without_a_teacher_the_order_is_the_tables() -> None:
    assert list(steps_of(of("everything"))) == list(STEPS)
    assert steps_of(of("bnn"))["train_bnn"].after == ()


def test_a_network_that_distils_waits_for_its_teacher() -> None:
    steps = steps_of(of("bnn", distillation_weight=0.25))
    assert steps["train_bnn"].after == ("train_twin",)
    assert list(steps)[:2] == ["train_twin", "train_bnn"] or list(steps).index("train_twin") < list(
        steps
    ).index("train_bnn")
    assert steps["train_twin"].after == ()
    assert STEPS["train_bnn"].after == ()
