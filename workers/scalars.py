"""Scalars of a training for TensorBoard, written only where the configuration asks for them.

Nothing is read back from here, and nothing of it is in the run key: a run that is watched has the
bytes of one that is not. The package comes with Ray Train.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bnn.training import StepInfo


def scalars_directory(run_dir: Path, part: str) -> Path:
    """Where the event files of ``part`` lie; TensorBoard's ``--logdir`` is its parent."""
    return run_dir / "tensorboard" / part


class Scalars:
    """Loss, accuracy, rate and flips of every step, as TensorBoard reads them.

    A training that goes on from a checkpoint repeats the steps after it; TensorBoard is told to
    drop what an earlier attempt wrote about them.

    Parameters
    ----------
    directory
        Made when the first step is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None  # no type information comes with tensorboardX

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, info: StepInfo) -> None:
        """Write what one step saw, and the share of binary weights that it flipped, by layer."""
        if self._writer is None:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

            self._writer = SummaryWriter(str(self._directory), purge_step=info.step)
        scalars = {
            "loss": info.loss,
            "accuracy": info.accuracy,
            "learning_rate": info.learning_rate,
        }
        if info.flip_ratios:
            scalars["flip_ratio"] = info.flip_ratio
        for name, share in info.flip_ratios.items():
            scalars[f"flip_ratio/{name.removesuffix('.latent_weight')}"] = share
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, info.step)
