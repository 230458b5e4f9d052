"""``bitspin predict``: the classes of a user's own files, by the compiled runtime.

Light on purpose: numpy and the runtime, no torch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands import print_json
from flows.runs import model_path
from kernels import JSON, Runtime
from workers.image_data import DataError
from workers.prediction_data import Inputs, read_inputs


@dataclass(frozen=True)
class Guess:
    """One class of one input."""

    index: int
    label: str
    score: float
    """The logit: the model's exact integer times its output scale."""
    probability: float
    """Softmax of the scores; as good as the training made it, not calibrated."""


@dataclass(frozen=True)
class Prediction:
    """The best classes of one input, best first."""

    source: str
    row: int
    """Number of the input in its file."""
    guesses: tuple[Guess, ...]
    truth: str | None
    """What the file says that it is."""


def predict_command(name: str, files: Sequence[Path], *, top: int, as_json: bool) -> None:
    """Print the best classes of every input in ``files``."""
    path = model_path(name)
    runtime = Runtime(path)
    predictions = [
        prediction
        for file in files
        for prediction in predict(
            runtime, file, read_inputs(file, path, runtime.input.dims, runtime.metadata), top
        )
    ]
    if as_json:
        print_json([asdict(prediction) for prediction in predictions])
        return
    console = Console()
    console.print(_table(predictions))
    known = [p for p in predictions if p.truth is not None]
    if known:
        n_right = sum(p.guesses[0].label == p.truth for p in known)
        console.print(f"{n_right} of {len(known)} as their files say")


def predict(runtime: Runtime, file: Path, inputs: Inputs, top: int) -> list[Prediction]:
    """Run the model on every input of one file.

    Parameters
    ----------
    runtime
        The model, with its metadata.
    file
        Where the inputs came from.
    inputs
        Shape (N, H, W, C).
    top
        How many classes to give, best first; of equal scores the lower index first.

    Raises
    ------
    DataError
        If the model wants bits and gets grey levels.
    """
    try:
        integers = runtime(inputs.images)
    except ValueError as error:
        raise DataError(f"{file}: {error}; this model takes bits, not grey levels") from error
    labels = label_names(runtime.metadata, runtime.n_out)
    scale = runtime.metadata.get("output_scale", 1.0)
    scores = integers.astype(np.float64) * (scale if isinstance(scale, int | float) else 1.0)
    shares = softmax(scores)
    order = np.argsort(-integers.astype(np.int64), axis=1, kind="stable")[:, :top]
    return [
        Prediction(
            source=str(file),
            row=row,
            guesses=tuple(
                Guess(i, labels[i], float(scores[row, i]), float(shares[row, i]))
                for i in order[row].tolist()
            ),
            truth=None if inputs.labels is None else inputs.labels[row],
        )
        for row in range(len(integers))
    ]


def label_names(metadata: dict[str, JSON], n_out: int) -> list[str]:
    """Names of the classes; their numbers if the model does not hold as many names."""
    labels = metadata.get("labels")
    if isinstance(labels, list) and len(labels) == n_out:
        return [str(label) for label in labels]
    return [str(i) for i in range(n_out)]


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(s) / sum exp(s) along the last axis, without overflow."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _table(predictions: list[Prediction]) -> Table:
    has_truth = any(p.truth is not None for p in predictions)
    table = Table("input", "label", "score", "probability", box=None)
    if has_truth:
        table.add_column("file says")
    many = {p.source for p in predictions if p.row > 0}
    for p in predictions:
        name = f"{p.source}[{p.row}]" if p.source in many else p.source
        for rank, guess in enumerate(p.guesses):
            # Names come from files, so they are text, never console markup.
            cells = [Text(name if rank == 0 else ""), Text(guess.label)]
            cells += [Text(f"{guess.score:.3f}"), Text(f"{guess.probability:.3f}")]
            if has_truth:
                cells.append(Text(p.truth or "" if rank == 0 else ""))
            table.add_row(*cells)
    return table
