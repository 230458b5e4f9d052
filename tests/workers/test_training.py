from pathlib import Path

import pytest
import torch

from workers.training import checkpoint_store, learning_curve, train


class Halving:
    """Trainer whose value is halved by each step, and that can be killed at one."""

    def __init__(self, n_steps: int = 5) -> None:
        self.n_steps = n_steps
        self.step = 0
        self.value = torch.tensor(1.0)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        return {"value": self.value.clone()}, {"step": self.step}

    def load_state(self, tensors: dict[str, torch.Tensor], counters: dict[str, int]) -> None:
        self.value, self.step = tensors["value"], counters["step"]

    def take_step(self) -> dict[str, float]:
        self.value = self.value / 2
        self.step += 1
        return {"value": float(self.value)}


def test_training_goes_to_the_end_and_is_saved(tmp_path: Path) -> None:
    trainer = Halving()
    assert train(trainer, trainer.take_step, tmp_path, "part", checkpoint_seconds=9.0) == 0
    assert trainer.value == 1 / 32
    final = checkpoint_store(tmp_path, "part").latest()
    assert final is not None
    assert (final.step, float(final.tensors["value"])) == (5, 1 / 32)
    assert learning_curve(tmp_path, "part")[-1] == {"step": 5, "value": 1 / 32}


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    killed = Halving()

    def die_at_three() -> dict[str, float]:
        if killed.step == 3:
            raise KeyboardInterrupt
        return killed.take_step()

    with pytest.raises(KeyboardInterrupt):
        train(killed, die_at_three, tmp_path, "part", checkpoint_seconds=0.0)
    resumed = Halving()
    assert train(resumed, resumed.take_step, tmp_path, "part", checkpoint_seconds=9.0) == 3
    assert resumed.value == 1 / 32
    assert [event["step"] for event in learning_curve(tmp_path, "part")] == [1, 2, 3, 4, 5]


def test_only_the_writer_of_a_group_saves_and_all_agree_on_the_start(tmp_path: Path) -> None:
    trainer = Halving()
    checkpoint_store(tmp_path, "part").save(2, {"value": torch.tensor(0.25)}, {"step": 2})
    found = checkpoint_store(tmp_path, "part").latest()
    first = train(
        trainer,
        trainer.take_step,
        tmp_path,
        "part",
        checkpoint_seconds=0.0,
        is_writer=False,
        agree=lambda own: found,
    )
    assert first == 2
    assert trainer.value == 1 / 32
    assert checkpoint_store(tmp_path, "part").latest_step() == 2
    assert learning_curve(tmp_path, "part") == []
